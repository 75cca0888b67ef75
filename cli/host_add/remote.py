"""A machine that is reached by the system's ssh client. One connection serves all commands, so a password is asked for once."""

import asyncio
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from moorage.errors import NotReady, Unavailable

_FAILED_TO_CONNECT = 255  # ssh's own exit code; that of the command otherwise
_CONNECT_SECONDS = 15
_KEPT_SECONDS = 60


class Remote:
    """An async context manager: the connection is closed at its end.

    Args:
        target: user@host, or a name of ssh's configuration.
        options: of ssh, as on its command line.
    """

    def __init__(self, target: str, options: Sequence[str] = ()) -> None:
        self.target = target
        self.is_root = True  # else commands run under sudo
        self._options = list(options)
        self._folder = tempfile.TemporaryDirectory(prefix="moor-ssh-")

    def _ssh(self, *words: str) -> list[str]:
        control = Path(self._folder.name, "%C")
        own = (f"ConnectTimeout={_CONNECT_SECONDS}", "ControlMaster=auto", f"ControlPath={control}")
        named = [word for option in (*own, f"ControlPersist={_KEPT_SECONDS}") for word in ("-o", option)]
        # The user's options first: of each option ssh takes the first that it meets.
        return ["ssh", "-T", *self._options, *named, *words]

    async def run(self, script: str, *arguments: str, stdin: bytes = b"", what: str) -> str:
        """What a shell script printed there. Secrets belong into `stdin`: arguments can be seen by others on the machine.

        Args:
            what: the step, for errors.
        Raises:
            Unavailable: SSH_FAILED, in ssh's own words. NotReady: REMOTE_STEP_FAILED, with the last lines of what it printed.
        """
        sudo = [] if self.is_root else ["sudo", "-n"]
        command = shlex.join([*sudo, "sh", "-c", script, "moor", *arguments])
        process = await asyncio.create_subprocess_exec(
            *self._ssh("--", self.target, command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(stdin)
        said = errors.decode(errors="replace").strip()
        if process.returncode == _FAILED_TO_CONNECT:
            words = said or "ssh gave no reason"
            raise Unavailable(f"{self.target} cannot be reached by ssh: {words}", reason="SSH_FAILED")
        if process.returncode:
            printed = f"{output.decode(errors='replace').strip()}\n{said}".strip()
            raise NotReady(f"{self.target}: {what} failed:\n{printed}", reason="REMOTE_STEP_FAILED")
        return output.decode(errors="replace")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            closing = await asyncio.create_subprocess_exec(
                *self._ssh("-O", "exit", self.target),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,  # there may be none
            )
            await closing.wait()
        finally:
            self._folder.cleanup()

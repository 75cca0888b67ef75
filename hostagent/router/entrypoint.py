"""Requests to the first process of a router's container: check a configuration, start and stop programs.

The other side of the contract in hostagent/router_image/README.md.
"""

import asyncio
import errno
import secrets
from pathlib import Path

from hostagent.router.folder import Folder
from moorage.errors import Internal, Unavailable

_ANSWER_SECONDS = 20.0  # a check takes 10 at most, and stopping HAProxy about 10
_LOOK_SECONDS = 0.01
_LARGEST_ANSWER = 256 * 1024


class Entrypoint:
    """The first process of one router's container.

    Args:
        folder: the folder that the container shares with the agent.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder

    async def check(self, program: str, file: str) -> str:
        """What a program says against a file of its folder; empty: nothing.

        Raises:
            Unavailable: the entrypoint does not run (yet).
        """
        verdict, words = await self._ask("check", program, file)
        return "" if verdict == "ok" else words or verdict

    async def sync(self) -> None:
        """Starts programs that have a configuration and do not run, stops those that have none; returns when they have ended.

        Raises:
            Unavailable: the entrypoint does not run (yet).
        """
        verdict, _ = await self._ask("sync")
        if verdict != "ok":
            raise Unavailable(f"the router's first process: {verdict}", reason="ROUTER_NOT_RUNNING")

    async def reload(self, program: str) -> None:
        """Tells a program to read again what it reads again.

        Raises:
            Unavailable: it does not run; when it starts, it reads all.
        """
        verdict, _ = await self._ask("reload", program)
        if verdict != "ok":
            raise Unavailable(f"the router's {program}: {verdict}", reason="ROUTER_NOT_RUNNING")

    async def restart(self, program: str) -> None:
        """Ends a program, if it runs, and starts it; returns when it has begun.

        Raises:
            Unavailable: the entrypoint does not run (yet), or ends.
        """
        verdict, _ = await self._ask("restart", program)
        if verdict != "ok":
            raise Unavailable(f"the router's {program}: {verdict}", reason="ROUTER_NOT_RUNNING")

    def status(self, program: str) -> dict[str, str]:
        """How a program stands: the keys of the contract; none if nothing is known."""
        with Folder.at(self._path) as folder, folder.sub("status") as status:
            lines = (status.read(program, limit=_LARGEST_ANSWER) or "").splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    async def last_words(self, program: str) -> str:
        """The end of what a program wrote to standard error, of earlier runs too."""
        with Folder.at(self._path) as folder, folder.sub("status") as status:
            return status.read(f"{program}.stderr", limit=_LARGEST_ANSWER) or ""

    async def _ask(self, *words: str) -> tuple[str, str]:
        """Verdict, and what the program said."""
        request = secrets.token_hex(8)
        with Folder.at(self._path) as folder:
            try:
                folder.write_to_pipe("control", f"{' '.join((request, *words))}\n")
            except OSError as error:
                if error.errno not in (errno.ENXIO, errno.ENOENT):
                    raise
                raise Unavailable("the router's container does not run (yet)", reason="ROUTER_NOT_RUNNING") from error
            with folder.sub("answers") as answers:
                deadline = asyncio.get_running_loop().time() + _ANSWER_SECONDS
                while (text := answers.read(request, limit=_LARGEST_ANSWER)) is None:
                    if asyncio.get_running_loop().time() > deadline:
                        raise Unavailable(
                            f"the router's first process does not answer {words[0]!r}", reason="ROUTER_NOT_RUNNING"
                        )
                    await asyncio.sleep(_LOOK_SECONDS)
                answers.remove(request)
        verdict, _, rest = text.partition("\n")
        if verdict != "ok" and not verdict.startswith("failed"):
            raise Internal(f"the router's first process answers {verdict!r}")
        return verdict, rest.strip()

"""An entrypoint in a namespace of processes of its own, as in a container, so that nothing of it can outlive a test."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.router_image.recipe import context_folder

WAIT_SECONDS = 30.0
STOP_SECONDS = 2


def require(*programs: str) -> None:
    """Skip the calling test, naming what is missing; a failure instead when MOORAGE_REQUIRE contains `netns`."""
    lacks = ([] if os.geteuid() == 0 else ["root"]) + [name for name in programs if shutil.which(name) is None]
    if not lacks:
        return
    message = f"the router's entrypoint needs: {', '.join(lacks)}"
    if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, or fail saying what was waited for."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Router:
    """A running entrypoint with its folder, as the agent sees it."""

    def __init__(self, folder: Path, shell: tuple[str, ...], *, prepare: str = "") -> None:
        """`prepare`: shell commands for a network of its own; empty: it is in the machine's."""
        self.folder = folder
        for name in ("haproxy", "dnsmasq"):
            (folder / name).mkdir()
        self._argv = [*shell, str(context_folder() / "entrypoint")]
        self._unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if prepare:
            self._unshare.append("--net")
            self._argv = ["sh", "-ec", f'{prepare}; exec "$@"', "sh", *self._argv]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As Docker would: a process with number 1."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._unshare, *self._argv],
                env={
                    **os.environ,
                    "MOORAGE_ROUTER_DIR": str(self.folder),
                    "MOORAGE_ROUTER_STOP_SECONDS": str(STOP_SECONDS),
                },
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        until(self.listens, "the entrypoint reads no requests")

    def listens(self) -> bool:
        """Whether requests would be read."""
        try:
            os.close(os.open(self.folder / "control", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM to the first process; its exit code."""
        assert self.process is not None
        os.kill(self.child(), signal.SIGTERM)
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        """SIGKILL; the kernel ends the others."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(WAIT_SECONDS)

    def child(self) -> int:
        """Number of the first process, as this side sees it."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def outside(self, name: str) -> int:
        """Number of a program, as this side sees it."""
        inside = self.status(name)["pid"]
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                line = next(row for row in (entry / "status").read_text().splitlines() if row.startswith("NSpid:"))
                numbers = line.split()[1:]
                same = os.readlink(entry / "ns/pid") == os.readlink(f"/proc/{self.child()}/ns/pid")
                if len(numbers) > 1 and numbers[-1] == inside and same:
                    return int(numbers[0])
        raise AssertionError(f"{name} has no process")

    def write(self, name: str, text: str) -> None:
        """Beside its place, then renamed."""
        path = self.folder / name
        new = path.with_name(f"{path.name}.new")
        new.write_text(text)
        new.replace(path)

    def ask(self, words: str) -> list[str]:
        """The lines of the answer to a request."""
        request = secrets.token_hex(8)
        answer = self.folder / "answers" / request
        with (self.folder / "control").open("w") as control:
            control.write(f"{request} {words}\n")
        until(answer.exists, f"no answer to {words}")
        lines = answer.read_text().splitlines()
        answer.unlink()
        return lines

    def status(self, name: str) -> dict[str, str]:
        """What status/NAME says."""
        lines = (self.folder / "status" / name).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def is_running(self, name: str) -> bool:
        """Whether its status says so, with a pid."""
        found = self.status(name)
        return found["state"] == "RUNNING" and found["pid"] != ""

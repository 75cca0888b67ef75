"""The first process of a router's container, in the namespace of a router of a test bed; DHCP clients beside it."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cli.router_image.recipe import context_folder

NEEDED = ("dnsmasq", "haproxy", "busybox", "unshare", "setpriv")


def require_programs() -> None:
    """Skip the calling test, naming what is missing; a failure instead when MOORAGE_REQUIRE contains `netns`."""
    lacks = [name for name in NEEDED if shutil.which(name) is None]
    if not lacks:
        return
    message = f"tests of a router's programs need: {', '.join(lacks)}"
    if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


class RouterProcess:
    """The entrypoint. Its folder is where the container would see it, in a mount namespace of its own."""

    def __init__(self, space: Path, folder: Path) -> None:
        self._space = space
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As Docker would: process 1 of a namespace of its own, in the router's network namespace."""
        inside = 'mkdir -p /run/moorage-router && mount --bind "$1" /run/moorage-router && exec sh "$2"'
        # it ends with the test, however that ends
        argv = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "nsenter",
            f"--net={self._space}",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ]
        argv += [
            "sh",
            "-c",
            f"mount -t tmpfs none /run && {inside}",
            "sh",
            str(self.folder),
            str(context_folder() / "entrypoint"),
        ]
        environment = {**os.environ, "MOORAGE_ROUTER_STOP_SECONDS": "2"}
        self._process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """The end of all its processes, at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

"""A running host of the box, for whoever wants to do something on it."""

import os
from collections.abc import Sequence

from . import machine, processes
from .config import HostPlan
from .processes import Process


class Host:
    """A running host, for whoever wants to do something on it."""

    def __init__(self, plan: HostPlan, holder: Process) -> None:
        self.plan = plan
        self.name = plan.name
        self.address = plan.address
        self.docker_socket = plan.docker_socket
        self._holder = holder

    @property
    def holder_pid(self) -> int:
        """A process in the host's namespaces; /proc/PID/root is the host's file system."""
        return self._holder.pid

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on the host."""
        return [*machine.enter(self._holder), *argv]

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", check: bool = True) -> str:
        """Run a command on the host; its output.

        Raises:
            Internal: it failed and `check` is set.
        """
        return await processes.run(self.command(argv), stdin=stdin, check=check)

    async def docker(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> str:
        """Run Docker's own client against the host's engine; its output."""
        client = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"
        return await processes.run([client, "-H", f"unix://{self.docker_socket}", *arguments], stdin=stdin, check=check)

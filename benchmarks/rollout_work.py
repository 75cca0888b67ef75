"""What both sides run, and what is done to it while clients ask. Pure values."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from benchmarks.wrk import Asked

MEMBERS = 6
TOGETHER = 2  # members that are replaced at a time
PORT = 8080  # of the first host, where clients come in
SERVER_PORT = 80
VARIABLE = "V"  # of the environment: what an update changes
PATHS = ("/", "/cgi-bin/slow")  # what clients ask for, in turn: a page, and what takes a tenth of a second
#: Serves a second after its start. Its stop signal ends it at once, with all that it has begun. The program says that its connection ends:
#: httpd closes it after any program's answer, and without that word whoever asks on it once more gets no answer.
_SCRIPT = r"""
mkdir -p /www/cgi-bin
cat >/www/cgi-bin/slow <<'END'
#!/bin/sh
sleep 0.1
printf 'Connection: close\r\nContent-Length: 5\r\n\r\ndone\n'
END
chmod +x /www/cgi-bin/slow
trap 'exit 0' TERM
sleep 1 & wait $!
httpd -f -p 80 -h /www & wait $!
"""
COMMAND = ("/bin/sh", "-c", _SCRIPT)
#: Hosts that are drained, in turn; not the first, which has the balancer.
DRAINED = ("h2", "h3")


class Side(Protocol):
    """Six servers behind a balancer, and clients that are let in by it."""

    @property
    def name(self) -> str:
        """For people, and for the result."""

    def asking(self) -> AbstractAsyncContextManager[Asked]:
        """Clients ask inside the block."""

    async def update(self, number: int) -> None:
        """All servers are replaced; a number that none had. Returns when the last one is of it. Raises MoorageError: it fails."""

    async def drain(self, host: str) -> None:
        """A host is emptied, all servers are elsewhere; then it takes some again. Raises MoorageError: it does not end."""


def drained_hosts(count: int) -> Iterator[str]:
    """Which hosts are drained, one after the other."""
    for number in range(count):
        yield DRAINED[number % len(DRAINED)]

"""wrk as clients that go on asking while something is done to those who answer: how many were answered, and how many were not.

A client asks again a few milliseconds after each answer, on the connection that it has. As fast as it can would take the machine's
processors from those who answer and from those who are changed.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moorage.errors import DeadlineExceeded, Internal

CONNECTIONS = 8
_PAUSE_MILLISECONDS = 15
_TIMEOUT_SECONDS = 10  # of one request: it has failed then
_LONGEST_SECONDS = 3600
_END_SECONDS = 20.0
_REQUESTS = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_SOCKET_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_OTHER_ANSWERS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SCRIPT = """local paths, turn = {{{paths}}}, 0
function request()
    turn = turn + 1
    return wrk.format("GET", paths[turn % #paths + 1])
end
function delay() return {pause} end
"""


@dataclass
class Asked:
    """What the asking came to; filled when its block ends.

    Attributes:
        answered: with a status below 400.
        refused: answered with another one, such as 503.
        broken: connections that could not be made or ended without an answer, and requests without an answer in time.
        words: all that wrk said.
    """

    answered: int = 0
    refused: int = 0
    broken: int = 0
    words: str = ""

    @property
    def failed(self) -> int:
        """Requests that did not get what they were for."""
        return self.refused + self.broken


def read(words: str) -> Asked:
    """What wrk prints at its end. Raises Internal: it is not that."""
    requests = _REQUESTS.search(words)
    if requests is None:
        raise Internal(f"wrk: {words.strip() or 'it said nothing'}")
    errors, others = _SOCKET_ERRORS.search(words), _OTHER_ANSWERS.search(words)
    refused = int(others[1]) if others else 0
    broken = sum(int(number) for number in errors.groups()) if errors else 0
    return Asked(int(requests[1]) - refused, refused, broken, words)


@contextlib.asynccontextmanager
async def asking(
    command: Callable[[Sequence[str]], list[str]], url: str, paths: Sequence[str] = ("/",)
) -> AsyncIterator[Asked]:
    """Clients ask inside the block.

    Args:
        command: makes of wrk's command the one that runs it where the clients shall be.
        url: without a path.
        paths: what is asked for, in turn; begin with /.

    Raises:
        Internal: wrk does not run. DeadlineExceeded: it does not end.
    """
    asked = Asked()
    with tempfile.TemporaryDirectory(prefix="moorage-wrk-") as folder:
        script = Path(folder, "clients.lua")
        await asyncio.to_thread(script.write_text, _script(paths))
        options = ["-t", "1", "-c", str(CONNECTIONS), "-d", f"{_LONGEST_SECONDS}s", "--timeout", f"{_TIMEOUT_SECONDS}s"]
        running = await asyncio.create_subprocess_exec(
            *command(["wrk", *options, "-s", str(script), url]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
        )
        try:
            yield asked
            os.killpg(running.pid, signal.SIGINT)  # wrk sums up then; whoever started it there has no say
            async with asyncio.timeout(_END_SECONDS):
                words = (await running.communicate())[0].decode(errors="replace")
        except TimeoutError:
            raise DeadlineExceeded(f"wrk on {url} did not end in {_END_SECONDS:.0f} s") from None
        except ProcessLookupError:
            words = (await running.communicate())[0].decode(errors="replace")
            raise Internal(f"wrk on {url} has ended by itself: {words.strip()}") from None
        finally:
            if running.returncode is None:
                os.killpg(running.pid, signal.SIGKILL)
                await running.wait()
    found = read(words)
    asked.answered, asked.refused, asked.broken, asked.words = found.answered, found.refused, found.broken, found.words


def _script(paths: Sequence[str]) -> str:
    return _SCRIPT.format(paths=", ".join(json.dumps(path) for path in paths), pause=_PAUSE_MILLISECONDS)

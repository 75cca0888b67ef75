"""What a process that failed has printed last: told with its failure, so that nobody has to look for it."""

import asyncio
import logging

from hostagent.executor.ports import Engine
from moorage.errors import MoorageError

log = logging.getLogger(__name__)

_LINES = 5
_LONGEST_LINE = 160
_LONGEST_TEXT = 64 * 1024
_SECONDS = 2.0


async def last_lines(engine: Engine, container_id: str, since: float) -> tuple[str, ...]:
    """At most five lines, each cut to 160 characters, oldest first; none where the engine cannot say.

    Args:
        since: seconds since the epoch; what was printed before is of an earlier run.
    """
    text = b""
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in engine.logs(container_id, since=since, tail=_LINES):
                text = (text + chunk.data)[-_LONGEST_TEXT:]
    except (MoorageError, TimeoutError) as error:
        log.info("the last lines of a process are not known", extra={"container": container_id, "problem": str(error)})
    lines = (_clean(line) for line in text.decode(errors="replace").splitlines())
    return tuple([line for line in lines if line][-_LINES:])


def _clean(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line).strip()[:_LONGEST_LINE]

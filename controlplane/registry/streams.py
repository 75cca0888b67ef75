"""Streams of bytes that somebody may stop reading in the middle."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def closing(stream: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close a stream afterwards where it can be closed, so that the connection below it goes now, not some time.

    For streams of which only `AsyncIterator` is known; a gRPC request stream, for one, has no `aclose`.
    """
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()

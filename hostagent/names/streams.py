"""Questions over TCP: messages with their length before them, answered as they come, in whatever order answers are
ready (RFC 7766). A stream that stays silent is closed.
"""

import asyncio
from collections.abc import Callable

from hostagent.names.ration import Ration

IDLE_SECONDS = 15.0
_AT_A_TURN = 8
_NEXT_TURN_SECONDS = 0.001

#: Takes a question, and what to call with its answer.
Take = Callable[[bytes, Callable[[bytes], None]], None]


class DnsStream(asyncio.Protocol):
    """One connection.

    Args:
        streams: it is in this set while it is open.
        is_full: refuse it.
        ration: of the instance whose it is.
    """

    def __init__(self, streams: "set[DnsStream]", *, is_full: bool, ration: Ration, take: Take) -> None:
        self._streams = streams
        self._ration = ration
        self._is_full = is_full
        self._take = take
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        assert isinstance(transport, asyncio.Transport)
        if self._is_full:
            transport.abort()
            return
        self._transport = transport
        self._streams.add(self)
        self._restart_clock()

    def data_received(self, data: bytes) -> None:
        """Take every question that is whole."""
        self._buffer += data
        self._restart_clock()
        self._take_whole_ones()

    def _take_whole_ones(self) -> None:
        """What the ration does not allow stays in the buffer, and nothing more is read until it does."""
        taken = 0
        while self._transport is not None and len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2])
            if len(self._buffer) < 2 + length:
                break
            if wait := self._ration.wait_seconds() if taken < _AT_A_TURN else _NEXT_TURN_SECONDS:
                self._transport.pause_reading()
                asyncio.get_running_loop().call_later(wait, self._go_on)
                return
            question, self._buffer = self._buffer[2 : 2 + length], self._buffer[2 + length :]
            self._take(question, self._deliver)
            taken += 1

    def _go_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()
            self._take_whole_ones()

    def pause_writing(self) -> None:
        """One who asks and does not read: no answers pile up here."""
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._streams.discard(self)
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _deliver(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(answer).to_bytes(2) + answer)

    def _restart_clock(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.abort)

"""Answers whoever asks for the control plane whether this agent lives, on a UDP port of the network between hosts.

It answers from the agent's own event loop: an agent that cannot do this cannot do anything else either.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from moorage import neighbours
from moorage.clock import Clock

log = logging.getLogger(__name__)

ANSWERS_A_SECOND = 200
_RETRY_SECONDS = 5.0


class Responder:
    """`run` as a task; it ends when it is cancelled.

    Args:
        address: of the host on the network between hosts.
        key: what only the control plane and this host know.
    """

    def __init__(self, address: str, port: int, key: str, clock: Clock) -> None:
        self._address = address
        self._wanted_port = port
        self._key = key
        self._clock = clock
        #: UDP port at which it can be asked now; 0: it cannot.
        self.port = 0

    async def run(self) -> None:
        """Answer until cancelled; a port that is not to be had yet is tried for again and again."""
        told = ""
        while True:
            try:
                await self._answer()
            except OSError as exc:
                problem = f"{self._address} port {self._wanted_port}/udp cannot be listened on: {exc}"
                if problem != told:
                    log.error("neighbours cannot ask whether this host lives", extra={"problem": problem})
                    told = problem
            await self._clock.sleep(_RETRY_SECONDS)

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Answers(self._key, self._clock.monotonic, over), local_addr=(self._address, self._wanted_port)
        )
        try:
            self.port = transport.get_extra_info("sockname")[1]
            await over
        finally:
            self.port = 0
            transport.close()


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, key: str, clock: Callable[[], float], over: "asyncio.Future[None]") -> None:
        self._key = key
        self._clock = clock
        self._over = over
        self._transport: asyncio.DatagramTransport | None = None
        self._since = 0.0
        self._answered = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = neighbours.answer(self._key, data)
        if answer is not None and self._may_answer() and self._transport is not None:
            self._transport.sendto(answer, addr)

    def _may_answer(self) -> bool:
        """Somebody who has seen a question could send it without end."""
        now = self._clock()
        if now - self._since >= 1.0:
            self._since, self._answered = now, 0
        self._answered += 1
        return self._answered <= ANSWERS_A_SECOND

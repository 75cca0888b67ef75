"""Asks another host's agent, for the control plane, whether it lives."""

import asyncio
import enum
from typing import Any

_TRIES = 3


class Verdict(enum.Enum):
    """What became of it; as moorage.v1.NeighbourVerdict has it."""

    ANSWERS = 1
    REFUSED = 2
    SILENT = 3


async def ask(address: str, port: int, datagram: bytes, wait_seconds: float) -> tuple[Verdict, bytes]:
    """Send it, again while nothing comes back. Returns what became of it, and what came back."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[tuple[Verdict, bytes]] = loop.create_future()
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(heard), remote_addr=(address, port))
    except OSError:
        return Verdict.SILENT, b""
    try:
        for _ in range(_TRIES):
            transport.sendto(datagram)
            done, _ = await asyncio.wait({heard}, timeout=wait_seconds / _TRIES)
            if done:
                return heard.result()
        return Verdict.SILENT, b""
    finally:
        transport.close()


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, heard: "asyncio.Future[tuple[Verdict, bytes]]") -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self._heard.done():
            self._heard.set_result((Verdict.ANSWERS, data))

    def error_received(self, exc: Exception) -> None:
        # Other errors (no way there, nobody answers for the address) may pass: they are silence.
        if isinstance(exc, ConnectionRefusedError) and not self._heard.done():
            self._heard.set_result((Verdict.REFUSED, b""))

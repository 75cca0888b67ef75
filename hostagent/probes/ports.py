"""What probes need of the engine and the network."""

import socket
from collections.abc import Sequence
from typing import Any, Protocol

from hostagent.domain import ContainerObservation
from moorage.ids import InstanceId


class Program(Protocol):
    """A command that was started inside a container (hostagent/engine/sessions.py)."""

    async def read(self) -> Any: ...  # (stream, data), None at the end
    async def exit_code(self) -> int: ...
    async def kill(self) -> None: ...
    async def close(self) -> None: ...


class ProbeEngine(Protocol):
    """Commands inside containers."""

    async def inspect(self, id_or_name: str) -> ContainerObservation | None: ...
    async def exec(self, container_id: str, command: Sequence[str]) -> Program: ...


class ProbeFabric(Protocol):
    """Sockets inside instances."""

    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
        """A fresh one, not blocking; the caller's to close. NotFound: the instance has no namespace."""
        ...

"""What answering names needs of the host's network: its consumer's view."""

import socket
from typing import Protocol

from moorage.ids import InstanceId


class NameSockets(Protocol):
    """Sockets in one instance's namespace, bound, listening and not blocking."""

    @property
    def datagrams(self) -> socket.socket: ...
    @property
    def streams(self) -> socket.socket: ...
    @property
    def metadata(self) -> socket.socket: ...


class NamesFabric(Protocol):
    """Sockets inside instances."""

    async def open_name_sockets(self, instance_id: InstanceId) -> NameSockets: ...
    async def open_socket_inside(self, instance_id: InstanceId, family: int, kind: int) -> socket.socket: ...

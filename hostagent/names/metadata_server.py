"""HTTP of one instance's metadata: aiohttp's protocol over a socket in the instance's namespace, without aiohttp's
application and its runner, of which every instance would need its own.
"""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from hostagent.names.metadata import Response
from hostagent.names.ration import Ration

_CONNECTIONS_AT_ONCE = 8
_IDLE_SECONDS, _LONGEST_SECONDS = 15.0, 60.0

#: Method, path and headers to the answer.
Respond = Callable[[str, str, Mapping[str, str]], Response]


class MetadataServer:
    """What `loop.create_server` needs for one instance, as a factory of protocols.

    Args:
        admits: whether there is room for one more connection, of all instances.
        ration: of the instance.
    """

    def __init__(self, respond: Respond, *, admits: Callable[[], bool], ration: Ration) -> None:
        self._respond = respond
        self._admits = admits
        self._ration = ration
        self._server = web.Server(self._handle, access_log=None, keepalive_timeout=_IDLE_SECONDS)

    def __call__(self) -> asyncio.Protocol:
        """The protocol of one connection; one too many is closed."""
        if self.connections >= _CONNECTIONS_AT_ONCE or not self._admits():
            return _Refusal()
        protocol = self._server()
        asyncio.get_running_loop().call_later(_LONGEST_SECONDS, protocol.force_close)
        return protocol

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.connections)

    def abort(self) -> None:
        """Close all connections at once."""
        for connection in list(self._server.connections):
            connection.force_close()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if wait := self._ration.wait_seconds():
            await asyncio.sleep(wait)
        found = self._respond(request.method, request.path, request.headers)
        return web.Response(
            status=found.status,
            body=found.body.encode(),
            headers={"Content-Type": found.content_type, "Server": "Moorage", **found.headers},
        )


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()

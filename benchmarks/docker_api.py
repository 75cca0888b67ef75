"""Docker's HTTP API over its socket, as little of it as the benchmark needs.

No SDK and no command line between: whatever Moorage is compared with is called in the cheapest way.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from moorage.errors import Internal, NotFound

_API = "http://docker"  # without a version: the engine's own


class DockerApi:
    """One engine. Use as an async context manager."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(str(self._socket), limit=8, keepalive_timeout=600)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None, raw: bytes = b""
    ) -> Any:
        """The answer: JSON as values, anything else as bytes, None when it has no body.

        Args:
            raw: a tar to send instead of JSON.
        Raises:
            NotFound, Internal: what the engine said.
        """
        assert self._session is not None
        data, headers = (raw, {"Content-Type": "application/x-tar"}) if raw else (None, {})
        async with self._session.request(
            method, f"{_API}{path}", json=body, data=data, headers=headers, params=dict(query or {})
        ) as response:
            content = await response.read()
            if response.status >= 400:
                text = content.decode(errors="replace").strip()
                raise (NotFound if response.status == 404 else Internal)(f"{method} {path}: {text}")
        return _loads(content) if response.content_type == "application/json" else content

    async def containers(self, **filters: str) -> list[dict[str, Any]]:
        """All containers that match, running or not."""
        wanted = {"filters": json.dumps({key: [value] for key, value in filters.items()}), "all": "1"}
        found: list[dict[str, Any]] = await self.call("GET", "/containers/json", query=wanted)
        return found

    async def inspect(self, container: str) -> dict[str, Any]:
        """All about one container."""
        found: dict[str, Any] = await self.call("GET", f"/containers/{container}/json")
        return found


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except json.JSONDecodeError:  # a stream of messages
        return content


async def gather_all(*calls: Any) -> list[Any]:
    """Run all at once; the first failure is raised after all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)

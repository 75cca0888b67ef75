"""HTTP to one Docker Engine over its unix socket: connections, API version, and what its status codes mean to us.

Everything is asyncio, so a stream costs no thread and ends at once when its task is cancelled
(docs/decisions/0003-engine.md has what was measured against the SDK).

Invariants: errors leave this module as classes of `moorage.errors`, chosen by HTTP status, never by the message;
short calls share a bounded set of kept-alive connections, and long ones (stop, pull, events ...) never take a place
there, so that waiting for one container does not hold up the others.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from moorage.errors import (
    EngineUnavailable,
    Forbidden,
    Internal,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    NotSupported,
    Unauthenticated,
)

OLDEST_API = (1, 41)  # Docker 20.10
NEWEST_API = (1, 52)  # Docker 29
CALL_TIMEOUT_SECONDS = 60.0  # silence of a short call; an engine that is frozen must not hang the agent
CONNECT_TIMEOUT_SECONDS = 5.0

ErrorTable = Mapping[int, Callable[[str], MoorageError]]
QueryValue = str | int | None
Query = Mapping[str, QueryValue] | Sequence[tuple[str, QueryValue]]


class EngineRefusal(Exception):
    """The engine's own answer to a refused call; the cause of the error that we raise."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message


_DEFAULT_ERRORS: ErrorTable = {
    400: lambda text: InvalidSpec.of("container", text, reason="ENGINE_REFUSED"),
    401: lambda text: Unauthenticated(text),
    403: lambda text: Forbidden(text),
    404: lambda text: NotFound(text),
    409: lambda text: NotReady(text, reason="CONTAINER_STATE"),
    501: lambda text: NotSupported(text, reason="ENGINE_NOT_SUPPORTED"),
    503: lambda text: EngineUnavailable(text),
}


#: How containerd's class of error ends the message when dockerd has lost it; there is no status of its own for that.
_CONTAINERD_AWAY = ": unavailable"


def error_of(status: int, message: str, errors: ErrorTable | None = None) -> MoorageError:
    """The error for a refused call: the caller's table first, then the general one, else `Internal`."""
    if status == 500 and message.endswith(_CONTAINERD_AWAY):
        return EngineUnavailable(f"the Docker Engine has lost its containerd: {message}")
    make = (errors or {}).get(status) or _DEFAULT_ERRORS.get(status)
    if make is None:
        return Internal(f"the Docker Engine failed: {message}", reason="ENGINE_ERROR", metadata={"status": str(status)})
    return make(message)


def raise_refusal(status: int, body: bytes, errors: ErrorTable | None = None) -> None:
    """Raise the error for an answer of 400 or more."""
    refusal = EngineRefusal(status, message_of(body))
    raise error_of(status, refusal.message, errors) from refusal


def message_of(body: bytes) -> str:
    """The engine's sentence: `{"message": ...}`, or plain text from a proxy in between."""
    try:
        value = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()
    return str(value.get("message", value)) if isinstance(value, dict) else str(value)


def segment(name: str) -> str:
    """One path segment, so that no name can climb out of its place in the URL."""
    return quote(name, safe="")


class EngineConnection:
    """One engine's socket. `open` before anything else; `close` at the end."""

    def __init__(self, socket_path: str, connections: int) -> None:
        self.socket_path = socket_path
        self._connections = connections
        self._prefix = ""
        self._api = OLDEST_API
        self._short: aiohttp.ClientSession | None = None
        self._long: aiohttp.ClientSession | None = None

    @property
    def api_version(self) -> str:
        """The agreed version, such as "1.41"."""
        return f"{self._api[0]}.{self._api[1]}"

    def at_least(self, major: int, minor: int) -> bool:
        """Whether the agreed version has what came with this one."""
        return self._api >= (major, minor)

    async def open(self) -> None:
        """Connect and agree on a version.

        Raises:
            EngineUnavailable: nothing answers at the socket.
            NotSupported: the engine is older than 20.10, or refuses every version that we know.
        """
        self._short = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self.socket_path, limit=self._connections, keepalive_timeout=60)
        )
        self._long = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.socket_path, limit=0))
        try:
            answer = json.loads(await self.call("GET", "/version"))
            self._api = negotiate(str(answer["ApiVersion"]), str(answer.get("MinAPIVersion", "1.12")))
        except BaseException:
            await self.close()
            raise
        self._prefix = f"/v{self.api_version}"

    async def close(self) -> None:
        """Close every connection; running streams end with EngineUnavailable."""
        for session in (self._short, self._long):
            if session is not None:
                await session.close()
        self._short = self._long = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        errors: ErrorTable | None = None,
        timeout_seconds: float | None = CALL_TIMEOUT_SECONDS,
        long: bool = False,
    ) -> bytes:
        """One request with a JSON body, the whole answer. `long` calls do not take a place of the short ones.

        Raises: EngineUnavailable, or what `errors` and the general table make of a status of 400 and more.
        """
        async with self.request(
            method,
            path,
            query=query,
            data=None if body is None else json.dumps(body).encode(),
            headers={} if body is None else {"Content-Type": "application/json"},
            errors=errors,
            silence_seconds=timeout_seconds,
            long=long,
        ) as answer:
            return await self.read(answer)

    async def read(self, answer: aiohttp.ClientResponse) -> bytes:
        """The whole body of an answer. Raises EngineUnavailable where it breaks off."""
        with _unavailable(self.socket_path):
            return await answer.read()

    async def call_json(self, method: str, path: str, **options: Any) -> Any:
        """`call`, with the answer decoded."""
        return json.loads(await self.call(method, path, **options))

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        errors: ErrorTable | None = None,
        silence_seconds: float | None = None,
        long: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body the caller reads as it comes. Leaving the block early closes the connection at once."""
        session = self._long if long else self._short
        if session is None:
            raise EngineUnavailable("the connection to the Docker Engine is closed")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=silence_seconds)
        with _unavailable(self.socket_path):
            answer = await session.request(
                method, self._url(path, query), data=data, headers=headers, timeout=timeout, allow_redirects=False
            )
        async with answer:
            if answer.status >= 400:
                with _unavailable(self.socket_path):
                    text = await answer.read()
                raise_refusal(answer.status, text, errors)
            yield answer

    async def chunks(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body of an answer as it arrives; EngineUnavailable where it breaks off."""
        with _unavailable(self.socket_path):
            async for chunk in answer.content.iter_any():
                yield chunk

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Around a read of one's own: what breaks there becomes EngineUnavailable."""
        with _unavailable(self.socket_path):
            yield

    async def hijack(
        self, path: str, *, query: Query | None = None, body: Any = None, errors: ErrorTable | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """POST that turns the connection into a raw byte stream both ways (exec, attach).

        Returns: reader, writer, and the answer's content type (which names the framing from API 1.42 on).
        """
        text = b"" if body is None else json.dumps(body).encode()
        head = (
            f"POST {self._url(path, query).raw_path_qs} HTTP/1.1\r\nHost: docker\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        with _unavailable(self.socket_path):
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self.socket_path)
                try:
                    writer.write(head.encode() + text)
                    await writer.drain()
                    status, headers = await _read_head(reader)
                    if status >= 400:
                        length = headers.get("content-length")
                        refusal = await (reader.readexactly(int(length)) if length else reader.read(65536))
                        raise_refusal(status, refusal, errors)
                except BaseException:
                    writer.close()
                    raise
        return reader, writer, headers.get("content-type", "")

    def _url(self, path: str, query: Query | None) -> URL:
        pairs = query.items() if isinstance(query, Mapping) else query or ()
        given = [(key, value) for key, value in pairs if value is not None]
        return URL(f"http://docker{self._prefix}{path}{'?' + urlencode(given) if given else ''}", encoded=True)


def negotiate(newest: str, oldest: str) -> tuple[int, int]:
    """The highest API version that both sides know, from the engine's newest and oldest.

    Raises: NotSupported, naming the version that would do.
    """
    theirs_newest, theirs_oldest = _version(newest), _version(oldest)
    if theirs_newest < OLDEST_API:
        raise NotSupported(
            f"the Docker Engine speaks API {newest}; Moorage needs 1.41 or later: install Docker 20.10 or later",
            reason="ENGINE_TOO_OLD",
        )
    if theirs_oldest > NEWEST_API:
        raise NotSupported(
            f"the Docker Engine speaks API {oldest} and later; this Moorage knows up to 1.52: install a newer Moorage",
            reason="ENGINE_TOO_NEW",
        )
    return min(theirs_newest, NEWEST_API)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.strip().lower(): value.strip() for name, _, value in fields}


class _unavailable:  # noqa: N801
    """Context: broken, refused and silent connections become EngineUnavailable, whatever layer noticed them."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ClientError | OSError | asyncio.IncompleteReadError | TimeoutError):
            what = "is silent" if isinstance(error, TimeoutError) else "does not answer"
            raise EngineUnavailable(
                f"the Docker Engine at {self._socket_path} {what}; is it running?", metadata={"cause": str(error)}
            ) from error

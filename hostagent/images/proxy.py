"""The loopback registry proxy: the only door between this host's Docker Engine and the platform's registry.

Docker trusts 127.0.0.0/8 without TLS, so an engine needs no certificate and no `insecure-registries`; the proxy adds
TLS, the token and the limits. What may pass is decided here, per request, by what the control plane assigned to this
host:

- read: a manifest that `assigned` names, and then what that manifest refers to (children, configuration, layers), known
  from the manifests that passed, or fetched for it: an engine that kept one from a pull that broke off asks for the
  rest alone;
- write: nothing, except into a repository for which a push grant is open (a build), and there also reading.

Whoever can reach the port is taken for the engine: that is every process in the host's own network namespace.
Instances and builds have namespaces of their own. A `Host` header that is not the loopback's is refused, so that a
web page in a browser on the host cannot use the port under a name of its own.
"""

import asyncio
import base64
import contextlib
import json
import logging
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import aiohttp
from aiohttp import web

from moorage.errors import MoorageError

PULL = frozenset({"pull"})
PUSH = frozenset({"pull", "push"})

TokenFor = Callable[[str, frozenset[str]], Awaitable[str]]
Assigned = Callable[[str], Collection[str]]

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 60.0
_REDIRECTS = 5
_TOKEN_EARLY_SECONDS = 30.0
_TOKEN_UNKNOWN_SECONDS = 30.0
_TOKENS_KEPT = 512
_LEARNED_MANIFESTS = 4096
_MANIFEST_TYPES = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(
    rf"/v2/(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)/"
    r"(?:manifests/(?P<reference>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,200})"
    r"|blobs/(?P<digest>[a-z0-9]+:[0-9a-f]{32,128})"
    r"|blobs/uploads/(?P<upload>[A-Za-z0-9_=-]{0,200}))"
)
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,128}")
# Everything else that an answer may carry (cookies, challenges, hop-by-hop fields) is of no use to the engine.
_ANSWER_HEADERS = (
    "Content-Type",
    "Content-Length",
    "Content-Range",
    "Accept-Ranges",
    "Docker-Content-Digest",
    "Docker-Upload-UUID",
    "Docker-Distribution-API-Version",
    "ETag",
    "Range",
)
_REQUEST_HEADERS = ("Accept", "Content-Type", "Content-Length", "Content-Range", "If-None-Match", "Range")


class _Refused(Exception):
    """An answer of our own, in the registry's error form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class RegistryProxy:
    """One listener on 127.0.0.1 in front of one registry."""

    def __init__(
        self,
        *,
        listen_port: int,
        upstream_url: str,
        ssl_context: ssl.SSLContext,
        token_for: TokenFor,
        assigned: Assigned,
    ) -> None:
        """Args:
        listen_port: on 127.0.0.1; 0 takes any.
        upstream_url: the platform's registry, `https://host:port`.
        ssl_context: trusts who signed the registry's certificate; this agent's own is in it, should the registry ask.
        token_for: a token for a repository and actions; its `exp` claim is honoured. It may raise Unavailable.
        assigned: digests (or tags) of a repository that this host may read now. Called often: must not block.
        """
        if urlsplit(upstream_url).scheme != "https":
            raise ValueError("the platform's registry is spoken to over https only")
        self._listen_port = listen_port
        self._upstream = upstream_url.rstrip("/")
        self._ssl = ssl_context
        self._tokens = _TokenCache(token_for)
        self._assigned = assigned
        self._learned = _Learned()
        self._fetched: set[tuple[str, str]] = set()
        self._fetching = asyncio.Lock()
        self._grants: dict[str, int] = {}
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError when the port is taken."""
        timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=64),
            timeout=timeout,
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", self._listen_port)
            await site.start()
        except BaseException:
            await self.stop()
            raise
        self.port = int(self._runner.addresses[0][1])
        return self.port

    async def stop(self) -> None:
        """Stop listening and drop what is under way. May be called twice."""
        runner, self._runner = self._runner, None
        session, self._session = self._session, None
        if runner is not None:
            await runner.cleanup()
        if session is not None:
            await session.close()

    @contextlib.contextmanager
    def grant_push(self, repository: str) -> Iterator[None]:
        """While this is held, the engine may push to the repository and read all of it. May be nested."""
        self._grants[repository] = self._grants.get(repository, 0) + 1
        try:
            yield
        finally:
            self._grants[repository] -= 1
            if not self._grants[repository]:
                del self._grants[repository]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except _Refused as refused:
            return _error(refused.status, refused.code, refused.message)
        except MoorageError as exc:  # the token callback: control plane away, or it refuses
            status = 503 if exc.retryable else 403
            return _error(status, "UNAVAILABLE" if exc.retryable else "DENIED", exc.message)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            _log.warning("registry request %s %s failed: %s: %s", request.method, request.path, type(exc).__name__, exc)
            return _error(503, "UNAVAILABLE", "the platform's registry cannot be reached from this host")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        host = request.host.rpartition(":")[0] if ":" in request.host else request.host
        if host not in ("127.0.0.1", "localhost"):
            raise _Refused(403, "DENIED", "this port is for the host's own engine")
        if request.path in ("/v2/", "/v2"):
            # Answered here: it only asks whether this is a registry, and Docker asks it before each pull.
            return web.json_response({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})
        match = _PATH.fullmatch(request.path)
        if match is None or "%" in request.raw_path.partition("?")[0]:
            raise _Refused(404, "NAME_UNKNOWN", "no such thing in this registry")
        repository, reference = match["repository"], match["reference"] or match["digest"]
        is_pushing = repository in self._grants
        if request.method in ("GET", "HEAD") and reference is not None:
            if not is_pushing and not await self._may_read(repository, reference):
                raise _Refused(404, "MANIFEST_UNKNOWN", "this image is not assigned to this host")
            return await self._forward(request, repository, PULL, learn=match["reference"])
        if not is_pushing:
            raise _Refused(403, "DENIED", "this host may not write to the registry now")
        is_upload = match["upload"] is not None
        if (is_upload and request.method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE")) or (
            match["reference"] is not None and request.method == "PUT"
        ):
            return await self._forward(request, repository, PUSH, learn=None)
        raise _Refused(405, "UNSUPPORTED", "not possible through a host")

    async def _may_read(self, repository: str, reference: str) -> bool:
        if self._is_below_assigned(repository, reference):
            return True
        async with self._fetching:  # the engine asks for several layers at once
            await self._fetch_assigned(repository)
        return self._is_below_assigned(repository, reference)

    async def _fetch_assigned(self, repository: str) -> None:
        """Learn the assigned manifests, with the children of indexes, from the registry; each once."""
        waiting = list(self._assigned(repository))
        while waiting:
            digest = waiting.pop()
            if (repository, digest) in self._fetched or self._session is None:
                continue
            headers = {
                "Authorization": f"Bearer {await self._tokens.get(repository, PULL, fresh=False)}",
                "Accept": _MANIFEST_TYPES,
            }
            url = f"{self._upstream}/v2/{repository}/manifests/{digest}"
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    continue
                body = await _read_limited(answer)
            if len(self._fetched) >= _LEARNED_MANIFESTS:
                self._fetched.clear()
            self._fetched.add((repository, digest))
            waiting += self._learned.learn(repository, digest, digest, body)

    def _is_below_assigned(self, repository: str, reference: str) -> bool:
        # Asked anew each time up the chain, so that an image taken away from this host takes its layers along.
        assigned = self._assigned(repository)
        seen, waiting = {reference}, [reference]
        while waiting:
            one = waiting.pop()
            if one in assigned:
                return True
            above = [parent for parent in self._learned.parents(repository, one) if parent not in seen]
            seen.update(above)
            waiting.extend(above)
        return False

    async def _forward(
        self, request: web.Request, repository: str, actions: frozenset[str], *, learn: str | None
    ) -> web.StreamResponse:
        query = dict(parse_qsl(request.query_string, keep_blank_values=True))
        # Mounting reads from another repository, past the checks above. Without it the registry starts a plain upload.
        query.pop("mount", None)
        query.pop("from", None)
        url = self._upstream + request.path + ("?" + urlencode(query) if query else "")
        async with self._upstream_answer(request, url, repository, actions) as answer:
            headers = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
            if "Location" in answer.headers:
                headers["Location"] = self._own_location(url, answer.headers["Location"])
            if learn is not None and request.method == "GET" and answer.status == 200:
                body = await _read_limited(answer)
                self._learned.learn(repository, learn, answer.headers.get("Docker-Content-Digest"), body)
                return web.Response(status=200, body=body, headers=_without_length(headers))
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            try:
                if request.method != "HEAD":
                    async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                        await response.write(chunk)
                await response.write_eof()
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                # The status is sent: only a broken connection can still tell the engine that this is not all.
                _log.warning("registry transfer %s broke off: %s: %s", request.path, type(exc).__name__, exc)
                if request.transport is not None:
                    request.transport.abort()
            return response

    @contextlib.asynccontextmanager
    async def _upstream_answer(
        self, request: web.Request, url: str, repository: str, actions: frozenset[str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._session
        if session is None:
            raise _Refused(503, "UNAVAILABLE", "the agent is stopping")
        # Docker sends one Accept line per type that it knows.
        headers = {n: ", ".join(request.headers.getall(n)) for n in _REQUEST_HEADERS if n in request.headers}
        headers["Accept-Encoding"] = "identity"  # a compressed blob would no longer have its digest
        body: Any = request.content.iter_chunked(_CHUNK_BYTES) if request.can_read_body else None
        if body is None and request.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = "0"
        redirects, is_fresh = 0, False
        while True:
            if _same_origin(url, self._upstream):
                headers["Authorization"] = f"Bearer {await self._tokens.get(repository, actions, fresh=is_fresh)}"
            else:
                headers.pop("Authorization", None)  # the registry's storage elsewhere must not see the token
            answer = await session.request(request.method, url, headers=headers, data=body, allow_redirects=False)
            try:
                if answer.status == 401:
                    # The key or the clock changed: one more attempt with a new token, unless the body is spent already.
                    if not is_fresh and body is None:
                        is_fresh = True
                        continue
                    self._tokens.forget(repository, actions)
                    raise _Refused(503, "UNAVAILABLE", "the platform's registry does not accept this host's token")
                if request.method in ("GET", "HEAD") and answer.status in (301, 302, 303, 307, 308):
                    redirects += 1
                    url = urljoin(url, answer.headers.get("Location", ""))
                    if redirects > _REDIRECTS or urlsplit(url).scheme != "https":
                        raise _Refused(503, "UNAVAILABLE", "the platform's registry redirects in a way not followed")
                    continue
                yield answer
                return
            finally:
                if answer.content.at_eof():
                    answer.release()
                else:
                    answer.close()

    def _own_location(self, base: str, location: str) -> str:
        parts = urlsplit(urljoin(base, location))
        return f"http://127.0.0.1:{self.port}{parts.path}" + (f"?{parts.query}" if parts.query else "")


class _TokenCache:
    """Tokens until shortly before they end. One request at a time per repository and actions."""

    def __init__(self, token_for: TokenFor) -> None:
        self._token_for = token_for
        self._cache: OrderedDict[tuple[str, frozenset[str]], tuple[float, str]] = OrderedDict()
        self._fetching: dict[tuple[str, frozenset[str]], asyncio.Lock] = {}

    async def get(self, repository: str, actions: frozenset[str], *, fresh: bool) -> str:
        key = (repository, actions)
        old = self._cache.get(key)
        lock = self._fetching.setdefault(key, asyncio.Lock())
        async with lock:
            found = self._cache.get(key)
            # `fresh`: the token that we had is no good; one that another request got meanwhile is.
            if found is not None and found[0] > time.time() and not (fresh and found is old):
                return found[1]
            token = await self._token_for(repository, actions)
            self._cache[key] = (_usable_until(token), token)
            while len(self._cache) > _TOKENS_KEPT:
                self.forget(*next(iter(self._cache)))
            return token

    def forget(self, repository: str, actions: frozenset[str]) -> None:
        self._cache.pop((repository, actions), None)
        lock = self._fetching.get((repository, actions))
        if lock is not None and not lock.locked():
            del self._fetching[(repository, actions)]


def _usable_until(token: str) -> float:
    """Wall-clock time until which a token may be sent. Its signature is the registry's to check, not ours."""
    now = time.time()
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ends, begins = float(claims["exp"]), float(claims.get("iat", now))
    except (ValueError, KeyError, IndexError, TypeError):
        return now + _TOKEN_UNKNOWN_SECONDS
    # By lifetime, not by the issuer's clock: the two machines' clocks may differ.
    lifetime = ends - begins
    return now + max(0.0, lifetime - max(_TOKEN_EARLY_SECONDS, lifetime * 0.1))


class _Learned:
    """What manifests that passed refer to: digest -> the manifests that name it. Bounded; the oldest goes first."""

    def __init__(self) -> None:
        self._manifests: OrderedDict[tuple[str, str], frozenset[str]] = OrderedDict()
        self._parents: dict[tuple[str, str], set[str]] = {}

    def learn(self, repository: str, reference: str, digest: str | None, body: bytes) -> list[str]:
        """Take a manifest in; the manifests that it names, if it is an index."""
        try:
            document = json.loads(body)
            entries = [document.get("config"), *document.get("layers", []), *document.get("manifests", [])]
            named = (str(entry["digest"]) for entry in entries if isinstance(entry, Mapping))
            children = frozenset(digest for digest in named if _DIGEST.fullmatch(digest))
            manifests = [str(entry["digest"]) for entry in document.get("manifests", [])]
        except (ValueError, KeyError, TypeError, AttributeError):
            return []
        for name in {reference, digest or reference}:
            self._forget((repository, name))
            self._manifests[(repository, name)] = children - {name}
            for child in children - {name}:
                self._parents.setdefault((repository, child), set()).add(name)
        if digest is not None and digest != reference:
            # A tag that is allowed opens the digest that it named: Docker asks for the tag, then for the digest.
            self._parents.setdefault((repository, digest), set()).add(reference)
            self._manifests[(repository, reference)] |= {digest}
        while len(self._manifests) > _LEARNED_MANIFESTS:
            self._forget(next(iter(self._manifests)))
        return [child for child in manifests if child in children]

    def parents(self, repository: str, digest: str) -> tuple[str, ...]:
        return tuple(self._parents.get((repository, digest), ()))

    def _forget(self, key: tuple[str, str]) -> None:
        for child in self._manifests.pop(key, frozenset()):
            parents = self._parents.get((key[0], child))
            if parents is not None:
                parents.discard(key[1])
                if not parents:
                    del self._parents[(key[0], child)]


def _same_origin(one: str, other: str) -> bool:
    a, b = urlsplit(one), urlsplit(other)
    return (a.scheme, a.hostname, a.port or 443) == (b.scheme, b.hostname, b.port or 443)


async def _read_limited(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_chunked(65536):
        body += chunk
        if len(body) > _MAX_MANIFEST_BYTES:
            raise _Refused(502, "MANIFEST_INVALID", "the manifest is too large")
    return body


def _without_length(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Content-Length"}


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)

"""A client for the registry HTTP API v2: the platform's registry and foreign ones alike.

Owns transport matters (authentication, redirects, retries, limits) and turns what a registry answers into the error
tree. It holds no more of a blob than one chunk. The session is given from outside, so that the composition decides
which addresses may be connected to (`guarded_session` for foreign registries).

Errors, from every method: NotFound (IMAGE_NOT_FOUND), Unauthenticated (REGISTRY_AUTH), Unavailable
(REGISTRY_UNREACHABLE), InvalidSpec (IMAGE_INVALID, URL_FORBIDDEN).
"""

import asyncio
import contextlib
import datetime
import email.utils
import hashlib
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp

from controlplane.registry.addresses import forbidden, is_forbidden
from controlplane.registry.auth import Authenticator
from controlplane.registry.manifests import (
    ACCEPT,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    invalid,
    load_object,
    matches_digest,
    parse_manifest,
    platform_text,
    require_image,
    sha256_digest,
)
from controlplane.registry.names import Reference, check_digest, check_repository, is_digest, is_tag
from controlplane.registry.streams import closing
from controlplane.registry.tokens import Grant
from moorage.errors import InvalidSpec, MoorageError, NotFound, Unauthenticated, Unavailable

CHUNK_BYTES = 256 * 1024
_ATTEMPTS = 4
_BACKOFF_FIRST_SECONDS = 0.25
_RETRY_AFTER_MOST_SECONDS = 60.0
_REDIRECTS = 5
_ERROR_BODY_BYTES = 16 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)

_PULL = frozenset({"pull"})
_PUSH = frozenset({"pull", "push"})
_DELETE = frozenset({"delete", "pull"})

BlobSource = Callable[[], AsyncIterator[bytes]]
"""Opens a blob from its start; called again for another attempt."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now.

    Attributes:
        platforms: `os/architecture[/variant]` of each image.
        size_bytes: configuration and layers; None for an index, whose images would have to be asked one by one.
    """

    digest: str
    media_type: str
    platforms: tuple[str, ...]
    size_bytes: int | None


class RegistryClient:
    """One registry, one way to authenticate, one HTTP session (the caller's, which closes it)."""

    def __init__(
        self,
        base_url: str,
        *,
        session: aiohttp.ClientSession,
        auth: Authenticator | None = None,
        attempts: int = _ATTEMPTS,
        backoff_seconds: float = _BACKOFF_FIRST_SECONDS,
    ) -> None:
        """Args:
        base_url: `https://host[:port]`, or `http://` where the operator allows it.
        attempts: how often a request is tried in all when the registry is away or busy.
        backoff_seconds: the first pause, doubled each time, with jitter; Retry-After (up to a minute) overrides it.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a registry's address is http(s)://host[:port], not {base_url!r}")
        self.base_url = base_url.rstrip("/")
        self._session = session
        self._auth = auth
        self._attempts = attempts
        self._backoff_seconds = backoff_seconds

    async def ping(self) -> None:
        """Return when the registry answers and, where it asks for a token, accepts ours."""
        async with self._request("GET", "/v2/", ()):
            pass

    async def resolve(self, reference: Reference) -> Resolved:
        """What a reference names now: digest, type, platforms, size. `reference.registry` is not looked at."""
        manifest = await self.get_manifest(reference.repository, reference.target)
        require_image(manifest)
        if manifest.is_index or manifest.config is None:
            platforms = tuple(dict.fromkeys(c.platform for c in manifest.children if c.platform))
            return Resolved(manifest.digest, manifest.media_type, platforms, None)
        config = load_object(await self.get_small_blob(reference.repository, manifest.config), "image configuration")
        platform = platform_text(config)
        size = manifest.config.size + sum(layer.size for layer in manifest.layers)
        return Resolved(manifest.digest, manifest.media_type, (platform,) if platform else (), size)

    async def get_manifest(self, repository: str, target: str) -> Manifest:
        """A manifest or index by tag or digest, checked against the digest when it was asked for by one."""
        path = self._manifest_path(repository, target)
        grants = (Grant(repository, _PULL),)
        async with self._request("GET", path, grants, headers={"Accept": ACCEPT}) as answer:
            raw = await _read_limited(answer, MAX_MANIFEST_BYTES, "manifest")
            content_type = answer.headers.get("Content-Type")
        if is_digest(target) and not matches_digest(raw, target):
            raise invalid(f"the registry sent a manifest that does not have the digest {target}")
        return parse_manifest(raw, content_type)

    async def tagged(self, repository: str) -> tuple[str, ...]:
        """Digests that tags of the repository name; none where there is no such repository."""
        digests: dict[str, None] = {}
        path = f"/v2/{check_repository(repository)}/tags/list"
        try:
            async with self._request("GET", path, (Grant(repository, _PULL),)) as answer:
                found = load_object(await _read_limited(answer, MAX_MANIFEST_BYTES, "list of tags"), "list of tags")
        except NotFound:
            return ()
        for tag in found.get("tags") or ():  # null once the last tag is deleted
            with contextlib.suppress(NotFound):
                digests[(await self.get_manifest(repository, str(tag))).digest] = None
        return tuple(digests)

    async def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has the blob."""
        try:
            async with self._request("HEAD", self._blob_path(repository, digest), (Grant(repository, _PULL),)):
                return True
        except NotFound:
            return False

    async def get_blob(self, repository: str, digest: str, size: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob. After the last chunk its digest (and size, when given) are checked: IMAGE_INVALID if wrong.

        Not retried once bytes have flowed: whoever consumes them decides (see `upload_blob`).
        """
        algorithm = hashlib.new(check_digest(digest).partition(":")[0])
        received = 0
        grants = (Grant(repository, _PULL),)
        async with self._request("GET", self._blob_path(repository, digest), grants) as answer:
            try:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    received += len(chunk)
                    if size is not None and received > size:
                        raise invalid(f"blob {digest} is larger than the manifest says")
                    algorithm.update(chunk)
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                raise _unreachable(self.base_url, exc) from exc
        if algorithm.hexdigest() != digest.partition(":")[2] or (size is not None and received != size):
            raise invalid(f"the registry sent a blob that does not have the digest {digest}")

    async def get_small_blob(
        self, repository: str, descriptor: Descriptor, limit_bytes: int = MAX_CONFIG_BYTES
    ) -> bytes:
        """A blob in memory (an image configuration)."""
        if descriptor.size > limit_bytes:
            raise invalid(f"blob {descriptor.digest} is larger than {limit_bytes} bytes")
        async with closing(self.get_blob(repository, descriptor.digest, descriptor.size)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def upload_blob(
        self, repository: str, digest: str, size: int, source: BlobSource, *, mount_from: str | None = None
    ) -> bool:
        """Have the repository hold a blob.

        Args:
            size: its bytes.
            source: opens the content; called again when an attempt failed for a reason that may pass.
            mount_from: another repository of the same registry that may hold it already; costs no bytes if it does.

        Returns: whether bytes were sent; False when the blob was there or was mounted.
        """
        if await self.has_blob(repository, digest):
            return False
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._upload_once(repository, digest, size, source, mount_from)
            except Unavailable:
                if attempt == self._attempts:
                    raise
            await self._pause(attempt, None)
        raise AssertionError("unreachable")

    async def upload_bytes(self, repository: str, data: bytes) -> str:
        """Have the repository hold these bytes; returns their digest."""
        digest = sha256_digest(data)

        async def source() -> AsyncIterator[bytes]:
            yield data

        await self.upload_blob(repository, digest, len(data), source)
        return digest

    async def put_manifest(self, repository: str, manifest: Manifest, tag: str | None = None) -> str:
        """Store a manifest under its digest, or under a tag; returns the digest. Its blobs must be there."""
        path = self._manifest_path(repository, tag or manifest.digest)
        headers = {"Content-Type": manifest.media_type}
        grants = (Grant(repository, _PUSH),)
        async with self._request("PUT", path, grants, headers=headers, data=manifest.raw) as answer:
            told = answer.headers.get("Docker-Content-Digest")
        if told is not None and told.startswith("sha256:") and told != manifest.digest:
            raise invalid(f"the registry stored the manifest as {told}, not as {manifest.digest}")
        return manifest.digest

    async def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete one manifest by digest. Its blobs go with the next collection."""
        path = self._manifest_path(repository, check_digest(digest))
        async with self._request("DELETE", path, (Grant(repository, _DELETE),)):
            pass

    async def delete_image(self, repository: str, digest: str) -> None:
        """Delete a manifest and, where it is an index, its children. What is gone already is no error."""
        with contextlib.suppress(NotFound):
            manifest = await self.get_manifest(repository, check_digest(digest))
            await self.delete_manifest(repository, digest)  # the index first: it must never name what is gone
            for child in manifest.children:
                with contextlib.suppress(NotFound):
                    await self.delete_manifest(repository, child.digest)

    def _manifest_path(self, repository: str, target: str) -> str:
        if not is_digest(target) and not is_tag(target):
            raise InvalidSpec.of("reference", f"{target!r} is neither a tag nor a digest", "REFERENCE_INVALID")
        return f"/v2/{check_repository(repository)}/manifests/{target}"

    def _blob_path(self, repository: str, digest: str) -> str:
        return f"/v2/{check_repository(repository)}/blobs/{check_digest(digest)}"

    async def _upload_once(
        self, repository: str, digest: str, size: int, source: BlobSource, mount_from: str | None
    ) -> bool:
        grants: tuple[Grant, ...] = (Grant(repository, _PUSH),)
        query = ""
        if mount_from is not None:
            query = "?" + urlencode({"mount": digest, "from": check_repository(mount_from)})
            grants = (*grants, Grant(mount_from, _PULL))
        async with self._request("POST", f"/v2/{check_repository(repository)}/blobs/uploads/{query}", grants) as answer:
            if answer.status == 201:
                return False
            location = urljoin(str(answer.url), answer.headers.get("Location", ""))
        if _origin_of(location) != _origin_of(self.base_url):
            raise Unavailable("the registry sends uploads to another host; not done", reason="REGISTRY_UNREACHABLE")
        failures: list[Exception] = []

        async def body() -> AsyncIterator[bytes]:
            # aiohttp reports whatever goes wrong in here as a broken connection: keep the true reason.
            try:
                async with closing(source()) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except Exception as exc:
                failures.append(exc)
                raise

        joint = "&" if "?" in location else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        url = f"{location}{joint}{urlencode({'digest': digest})}"
        try:
            async with self._request("PUT", url, grants, headers=headers, data=body, once=True):
                return True
        except MoorageError as exc:
            with contextlib.suppress(MoorageError):
                async with self._request("DELETE", location, grants, once=True):
                    pass
            if failures:
                raise failures[0] from exc
            raise

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        path_or_url: str,
        grants: tuple[Grant, ...],
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | BlobSource | None = None,
        once: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request with authentication, redirects and retries; yields an answer of the 2xx kind."""
        url = path_or_url if "://" in path_or_url else self.base_url + path_or_url
        answer = await self._answer(method, url, grants, headers or {}, data, once)
        try:
            yield answer
        finally:
            # An answer that was not read to its end must not go back to the pool: close is right for it, and cheap.
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    async def _answer(
        self,
        method: str,
        url: str,
        grants: tuple[Grant, ...],
        headers: Mapping[str, str],
        data: bytes | BlobSource | None,
        once: bool,
    ) -> aiohttp.ClientResponse:
        attempts = 1 if once else self._attempts
        attempt, challenged = 1, False
        while True:
            wait_seconds: float | None = None
            try:
                answer = await self._follow(method, url, grants, headers, data)
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                error: MoorageError = _unreachable(self.base_url, exc)
                if isinstance(error, InvalidSpec) or attempt >= attempts:
                    raise error from exc
            else:
                if answer.status < 300:
                    return answer
                body = await _error_body(answer)
                challenges = answer.headers.getall("WWW-Authenticate", [])
                error = _refused(answer.status, body, self.base_url)
                if answer.status == 401 and not challenged and not once and self._auth is not None:
                    try:
                        challenged = await self._auth.challenged(challenges, grants)
                        if challenged:
                            continue
                    except Unavailable as exc:  # the token server is away: as good as the registry itself
                        error = exc
                if not error.retryable or attempt >= attempts:
                    raise error
                wait_seconds = _retry_after(answer.headers.get("Retry-After"))
            await self._pause(attempt, wait_seconds)
            attempt += 1

    async def _follow(
        self,
        method: str,
        url: str,
        grants: tuple[Grant, ...],
        headers: Mapping[str, str],
        data: bytes | BlobSource | None,
    ) -> aiohttp.ClientResponse:
        sent = dict(headers)
        for _ in range(_REDIRECTS + 1):
            if self._auth is not None and _origin_of(url) == _origin_of(self.base_url):
                authorization = await self._auth.header(grants)
                if authorization is not None:
                    sent["Authorization"] = authorization
            else:
                # A blob's storage is often elsewhere, with a signed address. It must not see the token.
                sent.pop("Authorization", None)
            answer = await self._send(method, url, sent, data)
            if method not in ("GET", "HEAD") or answer.status not in (301, 302, 303, 307, 308):
                return answer
            target = urljoin(url, answer.headers.get("Location", ""))
            answer.release()
            if urlsplit(target).scheme != "https" and urlsplit(target).scheme != urlsplit(self.base_url).scheme:
                raise Unavailable(
                    "the registry redirects from https to http; not followed", reason="REGISTRY_UNREACHABLE"
                )
            url = target
        raise Unavailable(f"the registry redirects more than {_REDIRECTS} times", reason="REGISTRY_UNREACHABLE")

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | BlobSource | None
    ) -> aiohttp.ClientResponse:
        # Content is taken as it is: a server that compresses a blob on the way would change what its digest is of.
        sent = {"Accept-Encoding": "identity", **headers}
        body: Any = data() if callable(data) else data
        return await self._session.request(
            method, url, headers=sent, data=body, allow_redirects=False, timeout=_TIMEOUT
        )

    async def _pause(self, attempt: int, wait_seconds: float | None) -> None:
        backoff = self._backoff_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        await asyncio.sleep(backoff if wait_seconds is None else min(wait_seconds, _RETRY_AFTER_MOST_SECONDS))


def _origin_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())


async def _read_limited(answer: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    parts, size = [], 0
    try:
        async for chunk in answer.content.iter_chunked(65536):
            size += len(chunk)
            if size > limit:
                raise invalid(f"the {what} is larger than {limit} bytes")
            parts.append(chunk)
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise _unreachable(str(answer.url.host), exc) from exc
    return b"".join(parts)


async def _error_body(answer: aiohttp.ClientResponse) -> bytes:
    try:
        body = await answer.content.read(_ERROR_BODY_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError):
        body = b""
    answer.close()
    return body


def _unreachable(where: str, exc: BaseException) -> MoorageError:
    if is_forbidden(exc):
        return forbidden("reference")
    return Unavailable(
        f"the registry {where} cannot be reached: {type(exc).__name__}: {exc}", reason="REGISTRY_UNREACHABLE"
    )


def _refused(status: int, body: bytes, where: str) -> MoorageError:
    code, message = "", ""
    with contextlib.suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
        first = json.loads(body)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))[:200]
    told = f"{status} {code} {message}".strip()
    if status == 404:
        return NotFound(f"the registry {where} does not have this image ({told})", reason="IMAGE_NOT_FOUND")
    if status in (401, 403):
        return Unauthenticated(
            f"the registry {where} does not let us at this repository, or it does not exist ({told})",
            reason="REGISTRY_AUTH",
        )
    if status == 429 or status >= 500:
        return Unavailable(f"the registry {where} cannot do it now ({told})", reason="REGISTRY_UNREACHABLE")
    return invalid(f"the registry {where} refused it ({told})")

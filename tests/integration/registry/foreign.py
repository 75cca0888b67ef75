"""A foreign registry of our own making, with a foreign registry's manners: token server, redirects, moods, lies."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.integration.registry import archives as a

USER = "Basic " + base64.b64encode(b"user:secret").decode()


@dataclass
class Foreign:
    """What it holds and how it behaves.

    Attributes:
        auth: `none`, `basic` or `bearer`.
        failures: statuses that the next requests get, each with a Retry-After of 0.
        seen: (path, Authorization header) of each request, the token server's and storage's too.
    """

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    auth: str = "none"
    realm: str = ""
    storage: str = ""
    failures: list[int] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def add_image(self, *tags: str, layers: list[bytes], config: bytes) -> bytes:
        """Put an image in; returns its manifest."""
        manifest, blobs = a.image_blobs(layers, config)
        self.blobs |= blobs
        for name in (a.sha256(manifest), *tags):
            self.manifests[name] = (a.OCI_MANIFEST, manifest)
        return manifest

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        authorization = request.headers.get("Authorization", "")
        self.seen.append((request.path, authorization))
        if request.path == "/token":
            return self._token(request)
        if request.path.startswith("/storage/"):
            return web.Response(body=self.blobs[request.path.removeprefix("/storage/")])
        if self.failures:
            return web.Response(status=self.failures.pop(0), headers={"Retry-After": "0"})
        challenge = {"basic": 'Basic realm="x"', "bearer": f'Bearer realm="{self.realm}",service="svc,1"'}
        if self.auth == "basic" and authorization != USER:
            return web.Response(status=401, headers={"WWW-Authenticate": challenge["basic"]})
        if self.auth == "bearer" and authorization != "Bearer good":
            return web.Response(status=401, headers={"WWW-Authenticate": challenge["bearer"]})
        kind, _, name = request.path.rpartition("/")
        if kind.endswith("/manifests") and name in self.manifests:
            media_type, manifest = self.manifests[name]
            return web.Response(body=manifest, content_type=media_type)
        if kind.endswith("/blobs") and name in self.blobs:
            if self.storage:
                raise web.HTTPTemporaryRedirect(f"{self.storage}/storage/{name}")
            return web.Response(body=self.blobs[name])
        return web.json_response({"errors": [{"code": "UNKNOWN", "message": "not here"}]}, status=404)

    def _token(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != USER:
            return web.Response(status=401)
        assert request.query["service"] == "svc,1"
        assert request.query["scope"] == "repository:team/app:pull"
        return web.json_response({"access_token": "good", "expires_in": 300})


@asynccontextmanager
async def foreign_registry() -> AsyncIterator[Foreign]:
    """A running one, over plain http."""
    foreign = Foreign()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", foreign.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    foreign.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    foreign.realm = f"{foreign.url}/token"
    try:
        yield foreign
    finally:
        await runner.cleanup()

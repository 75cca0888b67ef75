"""Where a user's URL may and may not lead. Servers are local; the rules' exception for them is given by the test."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from controlplane.images.fetch import FetchLimits, check_url, fetch_url
from controlplane.registry.addresses import AddressPolicy
from moorage.errors import DeadlineExceeded, InvalidSpec, NotFound, Unavailable

LOOPBACK = AddressPolicy(allowed=(ipaddress.ip_network("127.0.0.1/32"),))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "169.254.169.254",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "not an address",
    ],
)
def test_addresses_never_connected_to(address: str) -> None:
    assert not AddressPolicy().permits(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_fine_unless_denied(address: str) -> None:
    assert AddressPolicy().permits(address)
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    assert not AddressPolicy(denied=everything).permits(address)


def test_private_networks_by_the_operators_word_but_never_metadata() -> None:
    policy = AddressPolicy(denied=(ipaddress.ip_network("10.9.0.0/16"),), allow_private=True)
    assert policy.permits("10.1.2.3")
    assert policy.permits("fd00::1")
    for address in ("10.9.1.1", "169.254.169.254", "127.0.0.1", "fe80::1", "::1", "100.64.0.1", "::ffff:127.0.0.1"):
        assert not policy.permits(address), address


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/x",
        "gopher://example.com/",
        "https://",
        "https://user:pw@example.com/",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://example.com:0/",
        "https://example.com:99999/",
        "example.com/x",
        "https://[::1/",
        "https://" + "a" * 5000,
    ],
)
def test_urls_refused_without_asking_anybody(url: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_url(url)
    assert caught.value.reason == "URL_FORBIDDEN"


class Names(AbstractResolver):
    """A resolver with given answers, one after the other; the last one stays."""

    def __init__(self, **answers: list[str]) -> None:
        self._answers = {name.replace("_", "."): list(values) for name, values in answers.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = self._answers[host]
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to give back."""


@asynccontextmanager
async def server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """An HTTP server on 127.0.0.1; gives its port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def fetch(
    url: str,
    policy: AddressPolicy = LOOPBACK,
    resolver: AbstractResolver | None = None,
    limits: FetchLimits | None = None,
) -> bytes:
    chunks = fetch_url(url, limits=limits or FetchLimits(), allow=policy, resolver=resolver)
    return b"".join([chunk async for chunk in chunks])


async def hello(request: web.Request) -> web.StreamResponse:
    """Says hello, redirects, or refuses, by path."""
    if request.path == "/to":
        raise web.HTTPFound(request.query["url"])
    if request.path == "/missing":
        raise web.HTTPNotFound
    if request.path == "/secret":
        raise web.HTTPForbidden
    if request.path == "/broken":
        raise web.HTTPInternalServerError
    return web.Response(body=b"hello" * 1000)


async def test_a_good_one_and_its_redirects() -> None:
    async with server(hello) as port:
        names = Names(good_test=["127.0.0.1"])
        assert await fetch(f"http://good.test:{port}/x", resolver=names) == b"hello" * 1000
        assert await fetch(f"http://127.0.0.1:{port}/to?url=/x") == b"hello" * 1000


async def refused(url: str, policy: AddressPolicy = LOOPBACK, resolver: AbstractResolver | None = None) -> str:
    with pytest.raises(InvalidSpec) as caught:
        await fetch(url, policy, resolver)
    return caught.value.reason


async def test_forbidden_addresses_by_number_by_name_and_by_redirect() -> None:
    async with server(hello) as port:
        names = Names(inner_test=["127.0.0.1"], meta_test=["169.254.169.254"], good_test=["127.0.0.1"])
        strict = AddressPolicy()
        assert await refused(f"http://127.0.0.1:{port}/x", strict) == "URL_FORBIDDEN"
        assert await refused(f"http://2130706433:{port}/x", strict) == "URL_FORBIDDEN"
        assert await refused(f"http://inner.test:{port}/x", strict, names) == "URL_FORBIDDEN"
        assert await refused("http://meta.test/x", LOOPBACK, names) == "URL_FORBIDDEN"
        there = f"http://good.test:{port}/to?url="
        assert await refused(there + "http://169.254.169.254/latest", LOOPBACK, names) == "URL_FORBIDDEN"
        assert await refused(there + "http://meta.test/latest", LOOPBACK, names) == "URL_FORBIDDEN"
        assert await refused(there + "file:///etc/passwd", LOOPBACK, names) == "URL_FORBIDDEN"
        assert await refused(there + "/to?url=/to?url=/to?url=/to?url=/to?url=/x", LOOPBACK, names) == "URL_FORBIDDEN"


async def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    async with server(hello) as port:
        names = Names(rebind_test=["127.0.0.1", "169.254.169.254"])
        assert await fetch(f"http://rebind.test:{port}/x", resolver=names)
        assert await refused(f"http://rebind.test:{port}/x", LOOPBACK, names) == "URL_FORBIDDEN"


async def test_what_servers_say() -> None:
    async with server(hello) as port:
        with pytest.raises(NotFound):
            await fetch(f"http://127.0.0.1:{port}/missing")
        assert await refused(f"http://127.0.0.1:{port}/secret") == "URL_UNREADABLE"
        with pytest.raises(Unavailable):
            await fetch(f"http://127.0.0.1:{port}/broken")
    with pytest.raises(Unavailable):
        await fetch(f"http://127.0.0.1:{port}/x")


async def test_size_and_time_are_bounded() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)
            if request.path == "/slow":
                await asyncio.Event().wait()

    async with server(endless) as port:
        with pytest.raises(InvalidSpec) as caught:
            await fetch(f"http://127.0.0.1:{port}/fast", limits=FetchLimits(max_bytes=1_000_000))
        assert caught.value.reason == "URL_TOO_LARGE"
        for limits in (FetchLimits(total_seconds=0.2), FetchLimits(silence_seconds=0.2)):
            with pytest.raises(DeadlineExceeded):
                await fetch(f"http://127.0.0.1:{port}/slow", limits=limits)

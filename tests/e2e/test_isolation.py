"""What must not reach each other does not, on one host and across hosts, and the user's own Docker goes on as before."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import Internal
from tests.support import onhost
from tests.support.plane import Plane, shell, until

IMAGE = "local/web"
# Inner frames of VXLAN packets on the underlay, by what they are. Ends at the end of its input.
_SNIFF = """
import json, select, socket, sys
capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
seen = {"arp": 0, "nd": 0, "echo": 0, "other": 0}
print("ready", flush=True)
ending = False
while True:
    ready, _, _ = select.select([capture] if ending else [capture, sys.stdin], [], [], 0.2 if ending else None)
    if not ready:
        break
    if sys.stdin in ready:
        ending = True
    if capture not in ready:
        continue
    frame = capture.recv(65536)
    if frame[12:14] != b"\\x08\\x00" or frame[23] != 17 or frame[36:38] != (4789).to_bytes(2, "big"):
        continue
    inner = frame[50:]
    kind = inner[12:14]
    if kind == b"\\x08\\x06":
        seen["arp"] += 1
    elif kind == b"\\x86\\xdd" and inner[20] == 58 and inner[54] == 135:  # advertisements are no questions
        seen["nd"] += 1
    elif (kind == b"\\x08\\x00" and inner[23] == 1) or (kind == b"\\x86\\xdd" and inner[20] == 58):
        seen["echo"] += 1
    else:
        seen["other"] += 1
print(json.dumps(seen))
"""


def web(name: str) -> str:
    """A web server that says its name."""
    return f"trap 'exit 0' TERM; echo {name} >/www/index.html; httpd -f -p 80 -h /www & wait $!"


async def get(plane: Plane, name: str, target: str, port: int = 80) -> str:
    """What a web server says to an instance; empty when it cannot be reached."""
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w2 {target} {port}"
    _, output = await plane.exec(name, shell(script))
    return output.rsplit("\r\n", 1)[-1].strip() if "200 OK" in output else ""


@pytest.fixture
async def own_image(hosts: list[Host], rootfs: Path) -> AsyncIterator[str]:
    """An image of the user's own on the engine of h1; his containers and networks are removed after the test."""
    await hosts[0].docker("import", "--change", 'CMD ["/bin/sh"]', str(rootfs), IMAGE)
    yield IMAGE
    ids = (await hosts[0].docker("ps", "-aq", "--filter", f"ancestor={IMAGE}")).split()
    if ids:
        await hosts[0].docker("rm", "-f", *ids)
    await hosts[0].docker("network", "prune", "-f")
    await hosts[0].docker("rmi", IMAGE)


async def test_equal_subnets_addresses_and_ports_do_not_mix(plane: Plane, hosts: list[Host]) -> None:
    """Two networks with one subnet, members with equal addresses on one host, and equal container ports."""
    for network in ("a", "b"):
        await plane.network(network, "10.5.0.0/24", "fd05::/64")
    await plane.run(
        {
            f"{network}{n}": plane.spec(
                web(f"{network}{n}"),
                host=n,
                networks=[f"{network}=10.5.0.{n + 1},fd05::{n + 1}"],
                ports={8100 + 10 * n + offset: 80},
            )
            for offset, network in enumerate(("a", "b"))
            for n in (1, 2)
        }
    )
    for offset, network in enumerate(("a", "b")):
        for target in ("10.5.0.3", "fd05::3"):

            async def answers(network: str = network, target: str = target) -> bool:
                return await get(plane, f"{network}1", target) == f"{network}2"

            await until(answers, what=f"{target} in network {network}")
        for n in (1, 2):
            page = await onhost.fetch(hosts[2], f"http://{hosts[n - 1].address}:{8100 + 10 * n + offset}/")
            assert page.strip() == f"{network}{n}"


async def test_the_users_own_docker_networks_still_work_and_still_isolate(
    plane: Plane, hosts: list[Host], own_image: str
) -> None:
    host = hosts[0]
    made = await plane.run({"ours": plane.spec(web("ours"), host=1, ports={8200: 80})})
    for network in ("red", "blue"):
        await host.docker("network", "create", network)
    for name, network, *more in (("one", "red", "-p", "8210:80"), ("two", "red"), ("three", "blue")):
        await host.docker("run", "-d", "--name", name, "--network", network, *more, own_image, "sh", "-c", web(name))
    raw = json.loads(await host.docker("inspect", "one", "two", "three"))
    address = {
        one["Name"].strip("/"): next(iter(one["NetworkSettings"]["Networks"].values()))["IPAddress"] for one in raw
    }

    async def own_get(name: str, target: str) -> str:
        script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w2 {target} 80"
        return (await host.docker("exec", name, "sh", "-c", script, check=False)).rsplit("\r\n", 1)[-1].strip()

    async def neighbours_answer() -> bool:
        return await own_get("one", address["two"]) == "two"

    await until(neighbours_answer, what="a neighbour on the user's network")
    assert (await onhost.fetch(hosts[1], f"http://{host.address}:8210/")).strip() == "one"
    assert (await onhost.fetch(hosts[1], f"http://{host.address}:8200/")).strip() == "ours"
    assert await own_get("one", address["three"]) == ""
    ours = made["ours"].status.nics[0].addresses[0].partition("/")[0]
    assert await own_get("one", ours) == ""
    for target in address.values():
        assert await get(plane, "ours", target) == ""


async def test_a_container_without_a_prepared_namespace_does_not_start(hosts: list[Host], own_image: str) -> None:
    """The wrapper fails closed, and never joins the host's own network."""
    for network in ("none", "bridge", "host"):
        with pytest.raises(Internal, match="moorage"):
            await hosts[0].docker("run", "--rm", "--runtime", "moorage", "--network", network, own_image, "true")


@contextlib.asynccontextmanager
async def sniffing(host: Host) -> AsyncIterator[dict[str, int]]:
    """What passes the underlay of a host inside VXLAN, counted by kind; complete after the block."""
    process = await asyncio.create_subprocess_exec(
        *host.command([sys.executable, "-c", _SNIFF]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    counts: dict[str, int] = {}
    try:
        assert (await process.stdout.readline()).strip() == b"ready"
        yield counts
        output, _ = await asyncio.wait_for(process.communicate(b"end"), 10)
        counts.update(json.loads(output))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_no_question_for_a_known_address_on_the_underlay(plane: Plane, hosts: list[Host]) -> None:
    """Neighbours find each other without ARP or neighbour discovery on the wire, from the first packet on."""
    await plane.network("quiet")
    async with sniffing(hosts[0]) as counts:
        made = await plane.run({f"q{n}": plane.spec(host=n, networks=["quiet"]) for n in (1, 2)})
        for address in made["q2"].status.nics[0].addresses:
            await onhost.inside(hosts[0], made["q1"].uid, "ping", "-c2", "-i0.2", "-W5", address.partition("/")[0])
    assert counts["echo"] >= 8, counts
    assert (counts["arp"], counts["nd"]) == (0, 0), counts


async def test_instances_do_not_reach_the_host_and_leave_only_where_allowed(
    plane: Plane, fleet: Fleet, hosts: list[Host]
) -> None:
    """The host's own addresses never answer; with egress the world beyond does, without it nothing does."""
    host, port = hosts[0], 8300
    await plane.network("closed")
    await plane.network("open", egress=True)
    made = await plane.run({name: plane.spec(host=1, networks=[name]) for name in ("closed", "open")})
    own = [
        str(word).partition("/")[0]
        for line in (await host.run(["ip", "-o", "address", "show", "scope", "global"])).splitlines()
        for word in line.split()[3:4]
    ]
    server = await asyncio.create_subprocess_exec(*host.command(["busybox", "httpd", "-f", "-p", f"[::]:{port}"]))
    try:

        async def listens() -> bool:
            return "404" in await onhost.fetch(host, f"http://127.0.0.1:{port}/none", check=False)

        await until(listens, what="the server on h1")
        # It does answer to others, so what follows says something.
        assert "404" in await onhost.fetch(hosts[1], f"http://{host.address}:{port}/none")

        async def can_connect(name: str, address: str, port: int) -> bool:
            return (await plane.exec(name, shell(f"nc -w1 {address} {port} </dev/null")))[0] == 0

        for name in ("closed", "open"):
            reached = [address for address in own if await can_connect(name, address, port)]
            assert not reached, f"{name} reaches the host at {reached}"
            pings = " ".join(f"(ping -c1 -W1 {address} >/dev/null && echo {address}) &" for address in own)
            answered = await onhost.inside(host, made[name].uid, "sh", "-c", f"{pings} wait", check=False)
            assert not answered, f"{name} pings the host at {answered}"
    finally:
        server.kill()
        await server.wait()
    machine, _, api = fleet.config.api_address.rpartition(":")
    assert await can_connect("open", machine, int(api))
    assert not await can_connect("closed", machine, int(api))

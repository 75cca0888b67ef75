"""A network over three hosts, one of them with a VXLAN port of its own: while the control plane is down, and after one
of the hosts was cut off."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import CONTROLPLANE
from moorage.v1 import hosts_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support import onhost
from tests.support.plane import RUNNING, Plane, until

_CUT_SECONDS = 20.0
_RIGHT_AGAIN_SECONDS = 2.0
_NET = "spread"


@pytest.fixture
async def whole(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet; whatever is missing of it after the test is started again, every cable plugged in."""
    yield fleet
    for host in ("h1", "h2", "h3"):
        await fleet.heal(host)
    await fleet.up()


def _host_of(instance: pb.Instance) -> int:
    return int(instance.status.host.removeprefix("hosts/h"))


def _address_of(instance: pb.Instance, version: int = 4) -> str:
    found = [address.partition("/")[0] for address in instance.status.nics[0].addresses]
    return next(address for address in found if (":" in address) == (version == 6))


async def _unreached(hosts: list[Host], members: Iterable[pb.Instance], between: set[int] | None = None) -> list[str]:
    """Pairs of members (on these hosts) of which the second does not answer the first one's only ping."""
    members = [one for one in members if between is None or _host_of(one) in between]

    async def ask(host: Host) -> list[str]:
        lines = [
            f"(nsenter --net={onhost.RUN_DIR}/netns/i-{one.uid} ping -q -c1 -W1 {_address_of(other, version)} "
            f">/dev/null 2>&1 || echo '{one.name} to {_address_of(other, version)}') &"
            for one in members
            for other in members
            for version in (4, 6)
            if one is not other and hosts[_host_of(one) - 1] is host
        ]
        return (await host.run(["sh", "-c", "\n".join([*lines, "wait"])])).splitlines()

    found = await asyncio.gather(*(ask(host) for host in hosts))
    return [line for some in found for line in some]


async def _wrong_tables(hosts: list[Host], network_uid: str, members: Iterable[pb.Instance]) -> list[str]:
    """Hosts whose forwarding entries are not those of the members on the others, with the UDP ports of their hosts."""

    async def look(number: int, host: Host) -> str:
        script = f"nsenter --net={onhost.RUN_DIR}/netns/n-{network_uid} bridge fdb show dev mv{network_uid}"
        have = {
            (words[0], words[words.index("dst") + 1], words[words.index("port") + 1] if "port" in words else "4789")
            for words in map(str.split, (await host.run(["sh", "-c", script])).splitlines())
            if "dst" in words
        }
        ports = {1: "4789", 2: "4789", 3: "14789"}
        want = {
            (mac, hosts[at - 1].address, ports[at])
            for one in members
            if (at := _host_of(one)) != number
            for mac in (one.status.nics[0].mac, "00:00:00:00:00:00")
        }
        return "" if have == want else f"{host.name}: {sorted(have ^ want)}"

    found = await asyncio.gather(*(look(number, host) for number, host in enumerate(hosts, start=1)))
    return [one for one in found if one]


async def _spread(plane: Plane) -> tuple[str, dict[str, pb.Instance]]:
    """A network with a member on each host, and one more on each that goes later; its uid, and the members."""
    uid = (await plane.network(_NET)).uid
    specs = {f"{kind}{n}": plane.spec(host=n, networks=[_NET]) for kind in ("stays", "goes") for n in (1, 2, 3)}
    return uid, await plane.run(specs)


async def test_a_network_goes_on_without_the_control_plane(plane: Plane, whole: Fleet, hosts: list[Host]) -> None:
    """Also after a host was cut off and its agent started anew meanwhile."""
    uid, members = await _spread(plane)

    async def reach_each_other() -> bool:
        return not await _unreached(hosts, members.values())

    await until(reach_each_other, what="pings between all members")
    await whole.kill(CONTROLPLANE)
    assert not await _unreached(hosts, members.values())
    await whole.cut("h2")
    await whole.kill("h3", "agent")
    assert not await _unreached(hosts, members.values(), {1, 3})
    await whole.heal("h2")
    await until(reach_each_other, what="pings with h2 again", within_seconds=_RIGHT_AGAIN_SECONDS)
    assert not await _wrong_tables(hosts, uid, members.values())


async def test_a_host_that_was_cut_is_right_again_at_once(plane: Plane, whole: Fleet, hosts: list[Host]) -> None:
    """Members came, went and were asked away while it could not be told."""
    uid, members = await _spread(plane)

    async def are_right() -> bool:
        return not await _wrong_tables(hosts, uid, members.values())

    await until(are_right, what="the tables of all hosts")
    await whole.cut("h3")
    cut_at = time.monotonic()
    await plane.away(3)
    names = [plane.name("instances", name) for name in ("goes1", "goes2", "goes3")]
    await plane.delete(names[:2])
    await plane.client.instances.DeleteInstance(pb.DeleteInstanceRequest(name=names[2], force=True))
    members |= await plane.run({f"new{n}": plane.spec(host=n, networks=[_NET]) for n in (1, 2)})
    for name in ("goes1", "goes2"):
        del members[name]
    assert not await _unreached(hosts, members.values(), {1, 2})
    assert not await _unreached(hosts, members.values(), {3})  # its own two
    await asyncio.sleep(max(0.0, cut_at + _CUT_SECONDS - time.monotonic()))
    del members["goes3"]
    await whole.heal("h3")
    healed_at = time.monotonic()

    async def is_right() -> bool:
        return not await _unreached(hosts, members.values()) and await are_right()

    await until(is_right, what="pings and tables of all", within_seconds=_RIGHT_AGAIN_SECONDS)
    print(f"right again after {time.monotonic() - healed_at:.2f} s")
    await plane.link(3, hosts_pb2.HOST_LINK_STATE_UP)
    await plane.reach(list(members), RUNNING)

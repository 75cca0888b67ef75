"""MTU, routes, policy rules and rate limits of one interface: there from the start, changed in place, gone when not wanted."""

import json
import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostagent.domain import NicAssignment, NicRoute, NicRule
from hostagent.netlink.guard import Family
from tests.integration.netlink.bed import Bed, Host, net, nic, plug

pytestmark = pytest.mark.root
NET = "naaaaaaaaa"
ONE, TWO = "iaaaaaaaaa", "ibbbbbbbbb"


async def test_mtu(bed: Bed, host: Host) -> None:
    for mtu in (1300, 1400, 0):
        one = await plug(host, ONE, replace(nic(NET, 5), mtu=mtu), networks=(net(NET),))
        assert f"mtu {mtu or 1450} " in bed.run(one, "ip link show eth0")
        assert "mtu 1450 " in bed.run(host.network(NET), f"ip link show mb{NET}"), "the network's stays"


async def test_routes(bed: Bed, host: Host) -> None:
    routes = (NicRoute("10.9.0.0/16", "10.1.0.9"), NicRoute("fd09::/64", "fd00:1::9"), NicRoute("10.8.0.0/16"))
    one = await plug(host, ONE, replace(nic(NET, 5), routes=routes), networks=(net(NET),))
    assert "10.9.0.0/16 via 10.1.0.9 dev eth0" in bed.run(one, "ip route")
    assert "10.8.0.0/16 dev eth0" in bed.run(one, "ip route")
    assert "fd09::/64 via fd00:1::9 dev eth0" in bed.run(one, "ip -6 route")
    await plug(host, ONE, replace(nic(NET, 5), routes=routes[2:]), networks=(net(NET),))
    assert "10.9.0.0/16" not in bed.run(one, "ip route")
    assert "fd09::/64" not in bed.run(one, "ip -6 route")
    assert "10.8.0.0/16 dev eth0" in bed.run(one, "ip route")


async def test_policy_rules(bed: Bed, host: Host) -> None:
    rules = (
        NicRule(
            "10.1.0.15", table=100, routes=(NicRoute("0.0.0.0/0", "10.1.0.9"), NicRoute("10.7.0.0/16", "10.1.0.8"))
        ),
        NicRule(destination="fd0a::/64", table=1000, priority=77, routes=(NicRoute("::/0", "fd00:1::9"),)),
        NicRule(fwmark=5, table=100),
    )
    wanted = replace(nic(NET, 5), addresses=("10.1.0.5/24", "10.1.0.15/24", "fd00:1::5/64"), rules=rules)
    one = await plug(host, ONE, wanted, networks=(net(NET),))

    def seen() -> tuple[str, str, str]:
        return tuple(bed.run(one, command) for command in ("ip rule", "ip -6 rule", "ip route show table all"))

    for _ in range(2):
        four, six, _routes = seen()
        assert "10000:\tfrom 10.1.0.15 lookup 100" in four
        assert "10002:\tfrom all fwmark 0x5 lookup 100" in four
        assert "10002:\tfrom all fwmark 0x5 lookup 100" in six
        assert "77:\tfrom all to fd0a::/64 lookup 1000" in six
        assert "default via 10.1.0.9 dev eth0" in bed.run(one, "ip route show table 100")
        assert "via 10.1.0.9" in bed.run(one, "ip route get 192.0.2.1 from 10.1.0.15")
        assert "via 10.1.0.8" in bed.run(one, "ip route get 10.7.1.1 from 10.1.0.15")
        assert "via 10.1.0.1" in bed.run(one, "ip route get 192.0.2.1 from 10.1.0.5")
        assert "via fd00:1::9" in bed.run(one, "ip -6 route get fd0a::1")
        before = seen()
        await plug(host, ONE, wanted, networks=(net(NET),))
        assert seen() == before
    await plug(host, ONE, replace(wanted, rules=(replace(rules[0], table=101),)), networks=(net(NET),))
    four, six, routes = seen()
    assert re.findall(r"lookup (\w+)", four) == ["local", "101", "main", "default"]
    assert re.findall(r"lookup (\w+)", six) == ["local", "main"]
    assert "table 100 " not in routes
    await plug(host, ONE, replace(wanted, rules=()), networks=(net(NET),))
    assert "table 101" not in seen()[2]
    assert "default via 10.1.0.1" in bed.run(one, "ip route")


class Flood:
    """How much of one TCP stream comes through, in bits a second."""

    def __init__(self, bed: Bed, source: Path, target: Path, address: str) -> None:
        listener = bed.socket(target, socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((address, 0))
        listener.listen()
        self._out = bed.socket(source, socket.AF_INET, socket.SOCK_STREAM)
        self._out.connect(listener.getsockname())
        self._in, _ = listener.accept()
        bed.keep(self._in)

    def rate(self, amount: int) -> float:
        sender = threading.Thread(target=self._send, args=(amount,))
        sender.start()
        start, left = time.monotonic(), amount
        self._in.settimeout(20)
        while left > 0:
            left -= len(self._in.recv(65536))
        took = time.monotonic() - start
        sender.join()
        return amount * 8 / took

    def _send(self, amount: int) -> None:
        self._out.settimeout(20)
        self._out.sendall(bytes(amount))


def queues(bed: Bed, path: Path, link: str) -> list[Any]:
    """The token buckets of a link."""
    return [one for one in json.loads(bed.run(path, f"tc -j qdisc show dev {link}")) if one["kind"] == "tbf"]


@pytest.mark.parametrize("family", Family)
async def test_rates(bed: Bed, family: Family) -> None:
    """20 Mbit/s one way, 40 the other: less than that is a busy machine, more is a limit that does not hold."""
    host = await bed.host(1, guard_family=family)
    wanted = replace(nic(NET, 5), rate_in_bits=40_000_000, rate_out_bits=20_000_000)
    one = await plug(host, ONE, wanted, networks=(net(NET),))
    two = await plug(host, TWO, nic(NET, 6), networks=(net(NET),))
    assert Flood(bed, one, two, "10.1.0.6").rate(3_000_000) < 26_000_000
    assert Flood(bed, two, one, "10.1.0.5").rate(6_000_000) < 52_000_000
    inside, outside = queues(bed, one, "eth0"), queues(bed, host.network(NET), f"mi{ONE}e0")
    assert (inside[0]["options"]["rate"], outside[0]["options"]["rate"]) == (2_500_000, 5_000_000)
    # an instance that takes its own queue away, as it can with NET_ADMIN
    bed.run(one, "tc qdisc del dev eth0 root")
    flood = Flood(bed, one, two, "10.1.0.6")
    flood.rate(3_000_000)  # nftables lets one second's worth pass at first
    assert flood.rate(3_000_000) < 40_000_000
    await plug(host, ONE, wanted, networks=(net(NET),))
    assert queues(bed, one, "eth0")[0]["options"] == inside[0]["options"]
    # other limits, then none
    await plug(host, ONE, replace(wanted, rate_in_bits=200_000_000), networks=(net(NET),))
    assert queues(bed, host.network(NET), f"mi{ONE}e0")[0]["options"]["rate"] == 25_000_000
    await plug(host, ONE, nic(NET, 5), networks=(net(NET),))
    assert queues(bed, one, "eth0") == queues(bed, host.network(NET), f"mi{ONE}e0") == []
    assert "limit rate" not in bed.run(host.network(NET), "nft list ruleset")


async def test_options_are_there_from_the_start_and_after_a_restart(bed: Bed, host: Host) -> None:
    wanted: NicAssignment = replace(
        nic(NET, 5),
        mtu=1400,
        rate_out_bits=8_000_000,
        rules=(NicRule("10.1.0.5", table=9, routes=(NicRoute("10.7.0.0/16"),)),),
    )
    one = await plug(host, ONE, wanted, networks=(net(NET),))
    commands = "ip -o link", "ip rule", "ip route show table 9", "tc qdisc"
    before = [bed.run(one, command) for command in commands]
    await host.fabric.close()
    await host.start()
    await plug(host, ONE, wanted, networks=(net(NET),))
    assert [bed.run(one, command) for command in commands] == before

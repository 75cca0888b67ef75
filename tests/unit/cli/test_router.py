"""router and public-address: what people write, what is asked for, and waiting until it is in force."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cli.router import words
from cli.router.rule_file import read_rules
from moorage.client import Client
from moorage.errors import DeadlineExceeded, InvalidSpec, NotFound, NotReady
from moorage.v1 import (
    instances_pb2,
    public_addresses_pb2,
    router_rules_pb2,
    routers_pb2,
)
from tests.unit.cli.conftest import Moor, Served
from tests.unit.cli.plane import KEY, Plane

P = "projects/default"
EDGE = f"{P}/routers/edge"
PortForward, Spec = router_rules_pb2.PortForward, router_rules_pb2.RouterRuleSpec


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("8080:web-1:80", PortForward(first_port=8080, instance="web-1", target_port=80)),
        ("80:web", PortForward(first_port=80, instance="web")),
        ("53:dns/udp", PortForward(first_port=53, instance="dns", protocol="udp")),
        ("one:443:web", PortForward(public_address="one", first_port=443, instance="web")),
        (
            "one:6000-6010:web-1:7000/udp",
            PortForward(
                public_address="one",
                first_port=6000,
                last_port=6010,
                instance="web-1",
                target_port=7000,
                protocol="udp",
            ),
        ),
        (
            "6000-6010:web:7000-7010",
            PortForward(first_port=6000, last_port=6010, instance="web", target_port=7000),
        ),
    ],
)
def test_forwards(word: str, expected: Any) -> None:
    assert words.forward(word) == expected


@pytest.mark.parametrize(
    "word", ["", "80", "80:", "80:web:x", "web", "one:web", "80-:web", "a:b:c:d:e", "99999:web", "80-x:w"]
)
def test_what_is_no_forward(word: str) -> None:
    with pytest.raises(InvalidSpec):
        words.forward(word)


def test_legs_and_edge_hosts() -> None:
    assert words.leg("back") == routers_pb2.RouterLeg(network="back")
    assert words.leg("back,egress=deny").egress == routers_pb2.DEFAULT_ACTION_DENY
    assert words.edge_hosts([]) is None
    assert words.edge_hosts(["all"]) == routers_pb2.EdgeHosts(every_host=True)
    assert words.edge_hosts(["a=b", "c=d"]) == routers_pb2.EdgeHosts(host_labels={"a": "b", "c": "d"})
    calls: list[Callable[[], Any]] = [
        lambda: words.leg("back,egress=maybe"),
        lambda: words.leg("back,"),
        lambda: words.edge_hosts(["all", "a=b"]),
        lambda: words.edge_hosts(["role"]),
    ]
    for call in calls:
        with pytest.raises(InvalidSpec):
            call()


def test_rules_in_one_line() -> None:
    across = words.firewall(
        "across", deny=True, protocol="tcp", ports=["80", "443"], from_network=f"{P}/networks/front", to_network="back"
    )
    ping = words.firewall("in", deny=False, protocol="icmp", icmp_type=8, sources=["10.0.0.0/8"])
    nat = router_rules_pb2.SourceNat(source_cidr="10.1.0.0/24", public_address=f"{P}/publicAddresses/one")
    alone = router_rules_pb2.StaticNat(public_address="one", instance=f"{P}/instances/web")
    own = PortForward(protocol="tcp", first_port=80, last_port=80, instance="web", target_port=80)
    many = PortForward(
        public_address="one",
        protocol="udp",
        first_port=60,
        last_port=69,
        instance="web",
        target_port=70,
        source_cidrs=["::/0"],
    )
    assert [
        (words.kind_of(spec), words.describe(spec))
        for spec in (
            Spec(firewall=across),
            Spec(firewall=ping),
            Spec(source_nat=nat),
            Spec(static_nat=alone),
            Spec(port_forward=own),
            Spec(port_forward=many),
        )
    ] == [
        ("firewall", "deny across tcp 80,443 from front to back"),
        ("firewall", "allow in icmp type 8 from 10.0.0.0/8"),
        ("source-nat", "10.1.0.0/24 as one"),
        ("static-nat", "one is web"),
        ("port-forward", "own address tcp 80 to web:80"),
        ("port-forward", "one udp 60-69 to web:70-79 from ::/0"),
    ]


FILE = """
- name: web
  port_forward: {first_port: 8080, instance: web-1, target_port: 80}
- name: office
  labels: {team: a}
  firewall: {direction: FIREWALL_DIRECTION_IN, source_cidrs: [203.0.113.0/24]}
"""


def test_files_of_rules() -> None:
    web, office = read_rules(FILE)
    assert (web.rule_id, web.rule.spec.port_forward.target_port) == ("web", 80)
    assert (dict(office.rule.labels), list(office.rule.spec.firewall.source_cidrs)) == (
        {"team": "a"},
        ["203.0.113.0/24"],
    )
    assert read_rules("[]") == []
    for text in (
        "a: b",
        "[1]",
        "- port_forward: {}",
        "- {name: a, nonsense: 1}",
        "- name: a\n- name: a",
        "{",
        "- {name: 1}",
    ):
        with pytest.raises(InvalidSpec):
            read_rules(text)


def test_router(moor: Moor, plane: Plane) -> None:
    made = moor(
        *("router", "create", "edge", "--network", "back,egress=deny", "--network", "front", "--outside", "office"),
        *(
            "--redundant",
            "--drain-time",
            "5s",
            "--ingress",
            "80:80",
            "--ingress",
            "53:53/udp",
            "--edge-hosts",
            "role=edge",
        ),
        *("--cpu", "0.5", "--memory", "64Mi", "--zone", "a", "--host-label", "x=y", "--label", "k=v"),
    )
    assert made.output == f"{EDGE}\n"
    (asked,) = plane.requests("CreateRouter")
    spec = asked.router.spec
    assert [leg.network for leg in spec.legs] == ["back", "front"]
    assert (spec.outside_network, spec.redundant, spec.drain_time.seconds) == ("office", True, 5)
    assert [(port.host_port, port.protocol) for port in spec.ingress_ports] == [(80, "tcp"), (53, "udp")]
    assert dict(spec.edge_hosts.host_labels) == {"role": "edge"}
    assert (spec.resources.cpu_millis, spec.placement.zone, dict(spec.placement.host_labels)) == (
        500,
        "zones/a",
        {"x": "y"},
    )
    assert (dict(asked.router.labels), bool(asked.request_id)) == ({"k": "v"}, True)
    moor("router", "update", "edge", "--network", "back", "--no-redundant", "--ingress", "none", "--edge-hosts", "none")
    (asked,) = plane.requests("UpdateRouter")
    assert sorted(asked.update_mask.paths) == ["spec.edge_hosts", "spec.ingress_ports", "spec.legs", "spec.redundant"]
    found: routers_pb2.Router = plane.get(EDGE)
    assert (len(found.spec.legs), found.spec.redundant, found.spec.HasField("edge_hosts")) == (1, False, False)
    moor("router", "update", "edge", "--drain-time", "1m")
    moor("router", "update", "edge", code=2)
    moor("router", "update", "edge", "--network", "back,x", code=2)
    found = plane.get(EDGE)
    found.status.state = routers_pb2.ROUTER_STATE_ACTIVE
    found.spec.redundant = True
    found.status.members.add(instance="i", host="hosts/h1", role=routers_pb2.ROUTER_ROLE_ACTIVE)
    found.status.members.add(instance="j", host="hosts/h2", role=routers_pb2.ROUTER_ROLE_STANDBY)
    found.status.outside_addresses.append("198.51.100.2")
    plane.put(found)
    row = moor("router", "ls").output.splitlines()[1].split()
    assert row[:6] == ["edge", "ACTIVE", "back", "office", "198.51.100.2", "h1*,h2"]
    assert "drain_time: 60s" in moor("router", "get", "edge").output
    assert moor("router", "rm", "edge", "--force").output == "Deleting edge.\n"
    assert plane.requests("DeleteRouter")[0].force


def _rule(moor: Moor, plane: Plane, *arguments: str) -> Any:
    moor("router", "rule", "add", *arguments)
    return plane.requests("CreateRouterRule")[-1]


def test_rules(moor: Moor, plane: Plane) -> None:
    plane.put(routers_pb2.Router(name=EDGE))
    asked = _rule(
        moor, plane, "forward", "edge", "8080:web:80", "--from", "10.0.0.0/8", "--name", "web", "--label", "a=b"
    )
    assert (asked.parent, asked.rule_id, dict(asked.rule.labels)) == (EDGE, "web", {"a": "b"})
    assert list(asked.rule.spec.port_forward.source_cidrs) == ["10.0.0.0/8"]
    asked = _rule(moor, plane, "static-nat", "edge", "one", "web")
    assert asked.rule.spec.static_nat == router_rules_pb2.StaticNat(public_address="one", instance="web")
    asked = _rule(moor, plane, "source-nat", "edge", "10.1.0.0/24", "one")
    assert asked.rule.spec.source_nat.source_cidr == "10.1.0.0/24"
    asked = _rule(moor, plane, "allow", "edge", "in", "tcp", "80", "443", "--from", "0.0.0.0/0", "--order", "7")
    assert asked.rule.spec.firewall == words.firewall(
        "in", deny=False, protocol="tcp", ports=["80", "443"], sources=["0.0.0.0/0"], order=7
    )
    asked = _rule(
        moor, plane, "deny", "edge", "across", "--from-network", "a", "--to-network", "b", "--to", "10.9.0.0/16"
    )
    assert asked.rule.spec.firewall == words.firewall(
        "across", deny=True, from_network="a", to_network="b", destinations=["10.9.0.0/16"]
    )
    asked = _rule(moor, plane, "allow", "edge", "in", "icmp", "--icmp-type", "8")
    assert asked.rule.spec.firewall.icmp_type == 8
    moor("router", "rule", "add", "allow", "edge", "up", code=2)
    moor("router", "rule", "add", "forward", "edge", "web", code=2)
    lines = moor("router", "rule", "ls", "edge").output.splitlines()
    assert lines[1].split()[:2] == ["made", "firewall"]
    assert "own address tcp 8080 to web:80 from 10.0.0.0/8" in lines[2]
    assert "instance: web" in moor("router", "rule", "get", "edge", "web").output
    moor("router", "rule", "rm", "edge", "web", "none", code=3)
    assert moor("router", "rule", "rm", "edge", "web", "made").output == "Deleted web.\nDeleted made.\n"


def test_counters(moor: Moor, plane: Plane) -> None:
    plane.put(routers_pb2.Router(name=EDGE))
    assert moor("router", "rule", "counters", "edge").output.split() == ["RULE", "PACKETS", "BYTES", "web", "3", "2Ki"]
    assert '"packets": "3"' in moor("router", "rule", "counters", "edge", "-o", "json").output
    moor("router", "rule", "counters", "none", code=3)


def test_rules_of_a_file(moor: Moor, plane: Plane, tmp_path: Any) -> None:
    plane.put(routers_pb2.Router(name=EDGE))
    file = tmp_path / "rules.yaml"
    file.write_text(FILE)
    assert moor("router", "rule", "apply", "edge", "-f", str(file)).output == "Made web.\nMade office.\n"
    (asked,) = plane.requests("BatchCreateRouterRules")
    assert ([r.rule_id for r in asked.requests], bool(asked.request_id)) == (["web", "office"], True)
    assert moor("router", "rule", "apply", "edge", "-f", "-", input=FILE).output == ""
    text = "[{name: web, port_forward: {first_port: 81, instance: web-1}}, {name: new, firewall: {}}]"
    output = moor("router", "rule", "apply", "edge", "-f", "-", "--prune", input=text).output
    assert output == "Deleted office.\nChanged web.\nMade new.\n"
    assert plane.get(f"{EDGE}/rules/web").spec.port_forward.first_port == 81
    moor("router", "rule", "apply", "edge", "-f", "-", input="x: y", code=2)


def test_public_addresses(moor: Moor, plane: Plane) -> None:
    made = moor("public-address", "allocate", "one", "--label", "a=b").output
    assert "198.51.100.20" in made
    (asked,) = plane.requests("CreatePublicAddress")
    assert (asked.address_id, asked.public_address.spec.network) == ("one", "outside")
    moor(
        "public-address",
        "allocate",
        "two",
        "--network",
        "office",
        "--address",
        "192.0.2.9",
        "--ipv6",
        "--validate-only",
    )
    used: public_addresses_pb2.PublicAddress = plane.get(f"{P}/publicAddresses/one")
    used.status.router = EDGE
    used.status.used_by.append(f"{EDGE}/rules/nat")
    plane.put(used)
    row = moor("public-address", "ls").output.splitlines()[1].split()
    assert row[:5] == ["one", "198.51.100.20", "outside", "edge", "nat"]
    assert "address: 198.51.100.20" in moor("public-address", "get", "one").output
    moor("public-address", "release", "one", code=6)
    del used.status.used_by[:]
    plane.put(used)
    assert moor("public-address", "release", "one").output == "Released one.\n"


def _becomes(plane: Plane, state: str, message: str = "", reason: str = "") -> Callable[[], None]:
    def change() -> None:
        router = plane.get(EDGE) if EDGE in plane.objects else routers_pb2.Router(name=EDGE)
        router.status.state = routers_pb2.RouterState.Value(f"ROUTER_STATE_{state}")
        router.status.message, router.status.reason = message, reason
        plane.put(router)

    return change


def _active(plane: Plane, rule_id: str, is_active: bool = True) -> Callable[[], None]:
    """A rule's status, which only its router's change makes known."""

    def change() -> None:
        name = f"{EDGE}/rules/{rule_id}"
        with plane.changed:  # a watch of an earlier command may come to this step before the rule is made
            assert plane.changed.wait_for(lambda: name in plane.objects, timeout=20)
        rule = plane.objects[name]
        rule.status.active = is_active
        rule.status.message = "" if is_active else "not yet"

    return change


def test_waiting_for_a_router(moor: Moor, plane: Plane) -> None:
    plane.script.extend([_becomes(plane, "UPDATING", "soon"), _becomes(plane, "ACTIVE")])
    moor("router", "create", "edge", "--network", "back", "--wait")
    assert plane.get(EDGE).status.state == routers_pb2.ROUTER_STATE_ACTIVE
    refused = _becomes(plane, "DEGRADED", "nft says no", "CONFIGURATION_REFUSED")
    plane.script.extend([_becomes(plane, "UPDATING"), refused])
    _becomes(plane, "PENDING")()
    result = moor("router", "update", "edge", "--drain-time", "1s", "--wait", code=6)
    assert "nft says no" in result.output


def test_waiting_for_every_container_of_a_router(moor: Moor, plane: Plane) -> None:
    idle = _becomes(plane, "ACTIVE", "edge-router-2 waits for a host", "MEMBER_NOT_RUNNING")
    plane.script.extend([idle, _becomes(plane, "ACTIVE")])
    moor("router", "create", "edge", "--network", "back", "--redundant", "--wait")
    assert plane.get(EDGE).status.reason == ""
    idle()
    result = moor("router", "update", "edge", "--drain-time", "1s", "--wait", "--timeout", "300ms", code=8)
    assert "edge-router-2 waits for a host" in result.output
    moor("router", "rule", "add", "forward", "edge", "80:web", "--name", "c")
    moor("router", "rule", "rm", "edge", "c", "--wait")  # whoever runs does without it


def test_waiting_for_a_balancer(moor: Moor, plane: Plane) -> None:
    _becomes(plane, "ACTIVE")()
    name = f"{EDGE}/balancers/web"

    def in_force() -> None:
        with plane.changed:
            assert plane.changed.wait_for(lambda: name in plane.objects, timeout=20)
        plane.objects[name].status.active = True
        _becomes(plane, "ACTIVE")()

    plane.script.extend([_becomes(plane, "UPDATING"), in_force])
    moor("balancer", "create", "web", "--router", "edge", "--listen", "80", "--backend", "web:80", "--wait")
    assert plane.get(name).status.active
    plane.objects[name].status.active, plane.objects[name].status.message = False, "edge-router-2 is behind"
    words = ("balancer", "update", "web", "--router", "edge", "--listen", "81", "--wait", "--timeout", "300ms")
    assert "edge-router-2 is behind" in moor(*words, code=8).output


def test_waiting_for_rules(moor: Moor, plane: Plane) -> None:
    _becomes(plane, "ACTIVE")()
    member = instances_pb2.Instance(name=f"{P}/instances/edge-router-1")
    member.status.owner = EDGE

    def both() -> None:
        _active(plane, "a")()
        _active(plane, "b")()
        plane.put(member)  # a change of a container is one of the router

    plane.script.extend([_becomes(plane, "UPDATING"), both])
    text = "[{name: a, firewall: {}}, {name: b, firewall: {}}]"
    moor("router", "rule", "apply", "edge", "-f", "-", "--wait", input=text)

    def one() -> None:
        _active(plane, "c")()
        _becomes(plane, "ACTIVE")()

    plane.script.append(one)
    moor("router", "rule", "add", "forward", "edge", "80:web", "--name", "c", "--wait")
    moor("router", "rule", "rm", "edge", "c", "--wait")


def _client(served: Served) -> Client:
    return Client.connect(served.address, api_key=KEY, ca_file=served.ca_file)


def test_waits_that_end_badly(served: Served, plane: Plane) -> None:
    async def run() -> None:
        async with _client(served) as client:
            assert await client.wait_router_rules([]) == []
            with pytest.raises(NotFound):
                await client.wait_router(EDGE, 5)
            _becomes(plane, "UPDATING", "two of three")()
            with pytest.raises(DeadlineExceeded, match="two of three"):
                await client.wait_router(EDGE, 0.3)
            with pytest.raises(NotFound):
                await client.wait_router_rules([f"{EDGE}/rules/x"], 5)
            plane.put(router_rules_pb2.RouterRule(name=f"{EDGE}/rules/x"))
            _active(plane, "x", False)()
            with pytest.raises(DeadlineExceeded, match=r"rules/x \(not yet\)"):
                await client.wait_router_rules([f"{EDGE}/rules/x"], 0.3)
            _becomes(plane, "DEGRADED", "no", "CONFIGURATION_REFUSED")()
            with pytest.raises(NotReady) as caught:
                await client.wait_router_rules([f"{EDGE}/rules/x"], 5)
            assert caught.value.reason == "CONFIGURATION_REFUSED"

    asyncio.run(run())


def test_a_router_that_goes_while_it_is_waited_for(served: Served, plane: Plane) -> None:
    async def run() -> None:
        async with _client(served) as client:
            _becomes(plane, "UPDATING")()
            plane.script.append(lambda: plane.remove(EDGE))
            with pytest.raises(NotFound):
                await client.wait_router(EDGE, 5)

    asyncio.run(run())

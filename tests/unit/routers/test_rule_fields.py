"""What no rule can say, judged without looking at anything else."""

from typing import Any

import pytest

from controlplane.domain.routers import FirewallAction, FirewallRule, PortForward, RouterRuleSpec, SourceNat, StaticNat
from controlplane.services.rule_field_rules import check_spec, normal_spec
from moorage.router_bundle import FirewallDirection, TrafficProtocol

IN, ACROSS = FirewallDirection.IN, FirewallDirection.ACROSS
TCP, ICMP = TrafficProtocol.TCP, TrafficProtocol.ICMP


def problems(spec: RouterRuleSpec) -> list[tuple[str, str]]:
    return [(v.field.removeprefix("rule.spec").lstrip("."), v.reason) for v in check_spec(spec, "rule.spec")]


def forward(**fields: Any) -> RouterRuleSpec:
    return RouterRuleSpec(port_forward=PortForward(**{"first_port": 80, "instance": "web", **fields}))


def firewall(**fields: Any) -> RouterRuleSpec:
    return RouterRuleSpec(firewall=FirewallRule(**{"direction": IN, **fields}))


def test_exactly_one_kind() -> None:
    assert problems(RouterRuleSpec()) == [("", "KIND_MISSING")]
    both = RouterRuleSpec(static_nat=StaticNat("a", "web"), source_nat=SourceNat("10.1.0.0/24", "a"))
    assert problems(both) == [("", "KIND_AMBIGUOUS")]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            RouterRuleSpec(source_nat=SourceNat()),
            [("source_nat.public_address", "REQUIRED"), ("source_nat.source_cidr", "CIDR_INVALID")],
        ),
        (RouterRuleSpec(source_nat=SourceNat("10.1.0.1/24", "a")), [("source_nat.source_cidr", "CIDR_INVALID")]),
        (RouterRuleSpec(source_nat=SourceNat("fd00::%x/64", "a")), [("source_nat.source_cidr", "CIDR_INVALID")]),
        (
            RouterRuleSpec(static_nat=StaticNat()),
            [("static_nat.public_address", "REQUIRED"), ("static_nat.instance", "REQUIRED")],
        ),
        (forward(instance=""), [("port_forward.instance", "REQUIRED")]),
        (forward(protocol="sctp"), [("port_forward.protocol", "PORT_INVALID")]),
        (forward(first_port=0), [("port_forward.first_port", "PORT_INVALID")]),
        (forward(first_port=65536), [("port_forward.first_port", "PORT_INVALID")]),
        (forward(last_port=79), [("port_forward.last_port", "PORT_INVALID")]),
        (forward(last_port=65536), [("port_forward.last_port", "PORT_INVALID")]),
        (forward(target_port=-1), [("port_forward.target_port", "PORT_INVALID")]),
        (forward(last_port=90, target_port=65530), [("port_forward.target_port", "PORT_INVALID")]),
        (
            forward(source_cidrs=("x", "10.0.0.0/8", "10.0.0.1/8")),
            [("port_forward.source_cidrs[0]", "CIDR_INVALID"), ("port_forward.source_cidrs[2]", "CIDR_INVALID")],
        ),
        (forward(source_cidrs=("10.1.0.0/16", "10.0.0.0/8")), [("port_forward.source_cidrs[1]", "CIDR_INVALID")]),
        (firewall(direction=FirewallDirection.UNSPECIFIED), [("firewall.direction", "REQUIRED")]),
        (firewall(order=-1), [("firewall.order", "OUT_OF_RANGE")]),
        (firewall(order=65536), [("firewall.order", "OUT_OF_RANGE")]),
        (firewall(ports=("80",)), [("firewall.ports", "NOT_ALLOWED")]),
        (firewall(protocol=ICMP, ports=("80",)), [("firewall.ports", "NOT_ALLOWED")]),
        (firewall(protocol=TCP, icmp_type=8), [("firewall.icmp_type", "NOT_ALLOWED")]),
        (firewall(protocol=ICMP, icmp_type=256), [("firewall.icmp_type", "OUT_OF_RANGE")]),
        (
            firewall(protocol=TCP, ports=("http", "0", "90-80", "80", "70-85", "1-65536")),
            [(f"firewall.ports[{n}]", "PORT_INVALID") for n in (0, 1, 2, 5, 4)],
        ),
        (firewall(from_network="a"), [("firewall.from_network", "NOT_ALLOWED")]),
        (firewall(to_network="a"), [("firewall.to_network", "NOT_ALLOWED")]),
        (firewall(source_cidrs=("10.0.0.0",) * 2), [("firewall.source_cidrs[1]", "CIDR_INVALID")]),
        (
            firewall(source_cidrs=("10.0.0.0/8",), destination_cidrs=("fd00::/8",)),
            [("firewall.destination_cidrs", "CIDR_INVALID")],
        ),
        (firewall(protocol=ICMP, source_cidrs=("fd00::/8",)), [("firewall.source_cidrs", "CIDR_INVALID")]),
        (firewall(source_cidrs=("10.0.0.0/32",) * 1001), [("firewall.source_cidrs", "OUT_OF_RANGE")]),
        (firewall(protocol=TCP, ports=("80",) * 1001), [("firewall.ports", "OUT_OF_RANGE")]),
    ],
)
def test_what_no_rule_can_say(spec: RouterRuleSpec, expected: list[tuple[str, str]]) -> None:
    assert problems(spec) == expected


@pytest.mark.parametrize(
    "spec",
    [
        RouterRuleSpec(source_nat=SourceNat("10.1.0.0/24", "a")),
        RouterRuleSpec(static_nat=StaticNat("a", "web")),
        forward(last_port=90, target_port=65525, protocol="udp"),
        forward(source_cidrs=("10.0.0.0/8", "fd00::/8", "192.0.2.7")),
        firewall(),
        firewall(protocol=TCP, ports=("80", "81-90", "443"), order=65535, action=FirewallAction.DENY),
        firewall(protocol=ICMP, icmp_type=0, source_cidrs=("0.0.0.0/0",)),
        firewall(direction=ACROSS, from_network="a", to_network="b"),
        firewall(source_cidrs=("10.0.0.0/8", "fd00::/8"), destination_cidrs=("fd00:1::/64",)),
    ],
)
def test_what_rules_say(spec: RouterRuleSpec) -> None:
    assert problems(spec) == []


def test_one_spelling() -> None:
    got = normal_spec(forward(last_port=0, source_cidrs=("FD00:0::/64", "10.1.0.7"))).port_forward
    assert got == PortForward("", "tcp", 80, 80, "web", 80, ("fd00::/64", "10.1.0.7/32"))
    rule = normal_spec(firewall(protocol=TCP, ports=("080-80", "90-91"))).firewall
    assert rule == FirewallRule(IN, FirewallAction.ALLOW, 0, TCP, ("80", "90-91"))
    assert normal_spec(RouterRuleSpec(static_nat=StaticNat("a", "b"))) == RouterRuleSpec(static_nat=StaticNat("a", "b"))


def test_host_bits_are_named() -> None:
    (violation,) = check_spec(forward(source_cidrs=("10.1.0.9/24",)), "f")
    assert violation.problem == "'10.1.0.9/24' has host bits set; did you mean 10.1.0.0/24?"

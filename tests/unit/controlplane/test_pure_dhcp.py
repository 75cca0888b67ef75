"""What DHCP on a network must look like."""

from dataclasses import replace

import pytest

from controlplane.domain.networks import DhcpHost, DhcpSpec, NetworkKind, NetworkSpec, Subnet
from controlplane.networks.dhcp import check_dhcp
from moorage.router_bundle import DhcpOption

GOOD = DhcpSpec(
    enabled=True,
    ranges=("10.1.0.100-10.1.0.120", "10.1.0.130-10.1.0.130"),
    lease_time_seconds=600.0,
    options=(DhcpOption(42, "192.0.2.1,192.0.2.2"),),
    hosts=(DhcpHost("02:00:00:00:00:09", "10.1.0.200", "printer"),),
)
NETWORK = NetworkSpec(
    kind=NetworkKind.ISOLATED,
    subnets=(Subnet("fd00:1::/64"), Subnet("10.1.0.0/24", "10.1.0.1", ("10.1.0.2-10.1.0.99",))),
)


def fields(dhcp: DhcpSpec, network: NetworkSpec = NETWORK) -> list[str]:
    return [one.field for one in check_dhcp(replace(network, dhcp=dhcp), "dhcp")]


def test_what_is_right() -> None:
    assert fields(GOOD) == []
    assert check_dhcp(NETWORK, "dhcp") == []


@pytest.mark.parametrize(
    ("dhcp", "field"),
    [
        (replace(GOOD, ranges=("10.1.0.120-10.1.0.100",)), "dhcp.ranges[0]"),
        (replace(GOOD, ranges=("10.2.0.1-10.2.0.9",)), "dhcp.ranges[0]"),
        (replace(GOOD, ranges=("10.1.0.90-10.1.0.110",)), "dhcp.ranges[0]"),
        (replace(GOOD, ranges=("10.1.0.1-10.1.0.1",)), "dhcp.ranges[0]"),
        (replace(GOOD, ranges=("fd00:1::5-fd00:1::9",)), "dhcp.ranges[0]"),
        (replace(GOOD, ranges=("10.1.0.100-10.1.0.120", "10.1.0.120-10.1.0.121")), "dhcp.ranges[1]"),
        (replace(GOOD, lease_time_seconds=5.0), "dhcp.lease_time"),
        (replace(GOOD, options=(DhcpOption(3, "10.1.0.9"),)), "dhcp.options[0].code"),
        (replace(GOOD, options=(DhcpOption(42, "a\nb"),)), "dhcp.options[0].value"),
        (replace(GOOD, hosts=(DhcpHost("03:00:00:00:00:09", "10.1.0.200"),)), "dhcp.hosts[0].mac"),
        (replace(GOOD, hosts=(DhcpHost("02:00:00:00:00:09", "10.1.0.1"),)), "dhcp.hosts[0].address"),
        (replace(GOOD, hosts=(DhcpHost("02:00:00:00:00:09", " 10.1.0.200"),)), "dhcp.hosts[0].address"),
        (replace(GOOD, hosts=(DhcpHost("02:00:00:00:00:09", "10.1.0.200\n"),)), "dhcp.hosts[0].address"),
        (replace(GOOD, hosts=(DhcpHost("02:00:00:00:00:09", "10.1.0.200", "a b"),)), "dhcp.hosts[0].hostname"),
        (replace(GOOD, hosts=(*GOOD.hosts, replace(GOOD.hosts[0], address="10.1.0.201"))), "dhcp.hosts[1].mac"),
    ],
)
def test_what_is_wrong(dhcp: DhcpSpec, field: str) -> None:
    assert fields(dhcp) == [field]


def test_instances_and_strangers_need_addresses_of_their_own() -> None:
    whole = replace(NETWORK, subnets=(Subnet("10.1.0.0/24"),))
    assert fields(GOOD, whole) == ["dhcp.ranges[0]", "dhcp.ranges[1]"]
    assert fields(replace(GOOD, ranges=()), whole) == []


def test_a_shared_network_has_somebody_elses() -> None:
    assert fields(GOOD, NetworkSpec(kind=NetworkKind.SHARED)) == ["dhcp"]

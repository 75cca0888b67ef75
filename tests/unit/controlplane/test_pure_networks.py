"""Subnets, addresses and MACs by themselves, over chance."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.networks import NetworkKind, NetworkSpec, Subnet
from controlplane.networks.macs import derived_mac, normal_mac
from controlplane.networks.subnets import (
    POOL,
    check_spec,
    check_wanted,
    first_address,
    free_address,
    overlaps,
    subnet_of,
    with_defaults,
)
from moorage.errors import Exhausted

_V4 = st.tuples(st.integers(0, 255), st.integers(24, 30)).map(
    lambda p: str(ipaddress.ip_network((ipaddress.IPv4Address(0x0A010000 + p[0]), p[1]), strict=False))
)


@given(_V4, st.sets(st.integers(0, 255)), st.integers(0, 256))
@settings(max_examples=40, deadline=None)
def test_a_free_address_is_free_and_whatever_is_free_is_found(cidr: str, taken: set[int], after: int) -> None:
    network = ipaddress.ip_network(cidr)
    base = int(network.network_address)
    subnet = Subnet(cidr, first_address(cidr))
    used = {str(ipaddress.IPv4Address(base + t)) for t in taken if t < network.num_addresses}
    usable = {str(a) for a in network.hosts()} - {subnet.gateway} - used
    start = str(ipaddress.IPv4Address(base + after % network.num_addresses)) if after < 256 else ""
    try:
        found = free_address(subnet, used.__contains__, start)
    except Exhausted:
        assert not usable
        return
    assert found in usable
    assert check_wanted(found, subnet) is None
    later = [a for a in usable if start and ipaddress.IPv4Address(a) > ipaddress.IPv4Address(start)]
    expected = later or usable
    assert found == min(expected, key=ipaddress.IPv4Address), "the next one, going round"


def test_ranges_are_kept_to() -> None:
    subnet = Subnet("10.1.0.0/24", "10.1.0.10", ("10.1.0.20-10.1.0.21", "10.1.0.10-10.1.0.11"))
    used: set[str] = set()
    for expected in ("10.1.0.11", "10.1.0.20", "10.1.0.21"):
        found = free_address(subnet, used.__contains__)
        assert found == expected
        used.add(found)
    with pytest.raises(Exhausted):
        free_address(subnet, used.__contains__)
    assert free_address(subnet, set().__contains__, "10.1.0.20") == "10.1.0.21"
    assert free_address(subnet, set().__contains__, "10.1.0.21") == "10.1.0.11"


def test_the_edges_of_ipv6() -> None:
    subnet = Subnet("fd00::/126", "fd00::1")
    used: set[str] = set()
    for expected in ("fd00::2", "fd00::3"):
        assert free_address(subnet, used.__contains__) == expected
        used.add(expected)
    with pytest.raises(Exhausted):
        free_address(subnet, used.__contains__)
    assert check_wanted("fd00::3", subnet) is None, "there is no broadcast in IPv6"
    assert check_wanted("fd00::", subnet) is not None


@given(st.lists(_V4, max_size=4), st.lists(_V4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_overlaps(one: list[str], other: list[str]) -> None:
    pairs = [(a, b) for a in one for b in other if ipaddress.ip_network(a).overlaps(ipaddress.ip_network(b))]
    found = overlaps(one, other)
    assert (found is None) == (not pairs)
    assert found is None or found in [a for a, _ in pairs]
    assert overlaps(one, ["fd00::/64"]) is None


@given(st.lists(st.integers(0, 63).map(lambda n: f"10.64.{n}.0/24"), max_size=20))
@settings(max_examples=40, deadline=None)
def test_chosen_subnets_are_valid_and_free(taken: list[str]) -> None:
    spec = with_defaults(NetworkSpec(), "uid", taken)
    assert spec.kind is NetworkKind.ISOLATED
    assert check_spec(spec, "spec") == []
    v4, v6 = spec.subnets
    assert overlaps([v4.cidr], taken) is None
    assert ipaddress.ip_network(v4.cidr).network_address in POOL
    assert v6 == with_defaults(NetworkSpec(), "uid", []).subnets[1]
    assert v6 != with_defaults(NetworkSpec(), "other", []).subnets[1]
    assert with_defaults(spec, "uid", []) == spec, "nothing is chosen twice"


def test_no_automatic_subnet_is_left() -> None:
    with pytest.raises(Exhausted) as caught:
        with_defaults(NetworkSpec(), "uid", ["10.0.0.0/8"])
    assert caught.value.reason == "SUBNETS_EXHAUSTED"


def test_where_an_address_belongs() -> None:
    subnets = (Subnet("10.1.0.0/24"), Subnet("fd00::/64"))
    assert subnet_of("10.1.0.7", subnets) == subnets[0]
    assert subnet_of("fd00::7", subnets) == subnets[1]
    assert subnet_of("10.2.0.7", subnets) is None
    assert subnet_of("x", subnets) is None


@given(st.sets(st.ip_addresses(v=4), min_size=2, max_size=20))
@settings(max_examples=40, deadline=None)
def test_derived_macs_differ_as_addresses_do(addresses: set[ipaddress.IPv4Address]) -> None:
    macs = {derived_mac("n", str(address)) for address in addresses}
    assert len(macs) == len(addresses)
    for mac in macs:
        assert normal_mac(mac) == mac
        assert int(mac[:2], 16) & 2, "locally administered"


def test_derived_macs_of_ipv6_depend_on_the_network() -> None:
    assert derived_mac("n", "fd00::1") != derived_mac("m", "fd00::1")
    assert derived_mac("n", "fd00::1") == derived_mac("n", "fd00::1")
    assert derived_mac("n", "10.0.0.1") == derived_mac("m", "10.0.0.1")


def test_spellings_of_macs() -> None:
    assert normal_mac("02-AB-00-00-00-01") == "02:ab:00:00:00:01"
    for bad in ("03:00:00:00:00:01", "02:00:00:00:00:01\n", "020000000001", "", "02:00:00:00:00:0g"):
        assert normal_mac(bad) is None

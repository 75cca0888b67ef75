"""What dnsmasq is told of a router's legs."""

from dataclasses import replace

import pytest

from hostagent.router.dnsmasq_config import NotRenderable, configuration
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import DhcpBundle, DhcpOption, DhcpReservation, LegBundle, PairBundle, RouterBundle

DHCP = DhcpBundle(
    ranges=("10.1.0.100-10.1.0.120", "fd00:1::100-fd00:1::120"),
    lease_time_seconds=30.0,
    options=(DhcpOption(42, "192.0.2.42"),),
    reservations=(
        DhcpReservation("02:00:00:00:00:05", ("10.1.0.5", "fd00:1::5"), "five"),
        DhcpReservation("02:00:00:00:00:06", ("10.1.0.5",), "six"),
        DhcpReservation("02:00:00:00:00:07", ("10.9.0.7",), "far away"),
    ),
    domain="a.internal",
    mtu=1450,
)
LEG = LegBundle(NetworkId("na"), "eth1", ("10.1.0.0/24", "fd00:1::/64"), ("fd00:1::1", "10.1.0.1"), dhcp=DHCP)
BUNDLE = RouterBundle(InstanceId("r"), 1, legs=(LEG,))


def test_a_leg() -> None:
    found = configuration(BUNDLE, folder="/x")
    assert found is not None
    lines = found.text.splitlines()
    assert "interface=eth1" in lines
    assert "dhcp-leasefile=/x/state/leases" in lines
    assert [line for line in lines if line.startswith("dhcp-range")] == [
        "dhcp-range=set:leg0,10.1.0.100,10.1.0.120,255.255.255.0,120",  # its least
        "dhcp-range=set:leg0,10.1.0.0,static,255.255.255.0,120",
    ]
    assert "domain=a.internal,10.1.0.0/24" in lines
    assert found.files == {
        "reservations": "02:00:00:00:00:05,10.1.0.5,five\n",  # the address is given, the other's is not of this leg
        "options": "tag:leg0,3,10.1.0.1\ntag:leg0,6,10.1.0.1\ntag:leg0,26,1450\ntag:leg0,42,192.0.2.42\n",
        "names": "10.1.0.5 five.a.internal five\nfd00:1::5 five.a.internal five\n10.1.0.5 six.a.internal six\n",
        "servers": "server=/a.internal/127.0.0.11\nrev-server=10.1.0.0/24,127.0.0.11\nserver=127.0.0.11\n",
    }
    assert "dhcp-option=tag:leg0,42,192.0.2.42" in found.trial.splitlines()


def test_forwarders_are_asked_for_what_is_no_members() -> None:
    found = configuration(replace(BUNDLE, legs=(replace(LEG, dhcp=replace(DHCP, forwarders=("9.9.9.9",))),)))
    assert found is not None
    assert found.files["servers"].splitlines()[-1] == "server=9.9.9.9"


def test_nothing_to_do() -> None:
    assert configuration(replace(BUNDLE, legs=(replace(LEG, dhcp=None),))) is None
    assert configuration(replace(BUNDLE, legs=(replace(LEG, addresses=("fd00:1::1",)),))) is None


@pytest.mark.parametrize(
    "dhcp",
    [
        replace(DHCP, options=(DhcpOption(3, "10.1.0.9"),)),
        replace(DHCP, options=(DhcpOption(42, "x\nuser=root"),)),
        replace(DHCP, domain="a\nserver=1.2.3.4"),
        replace(DHCP, ranges=("ten-twenty",)),
        replace(DHCP, reservations=(DhcpReservation("02", ("10.1.0.5",)),)),
    ],
)
def test_what_is_no_value_of_its_kind_is_refused(dhcp: DhcpBundle) -> None:
    with pytest.raises(NotRenderable):
        configuration(replace(BUNDLE, legs=(replace(LEG, dhcp=dhcp),)))


def test_members_of_a_pair() -> None:
    """Names are asked for at the gateway, wherever it is; addresses are given out by both, and neither refuses the other's."""
    pair = replace(BUNDLE, pair=PairBundle(1, 200, "10.1.0.2", "10.1.0.3"))
    made = configuration(pair)
    alone = configuration(BUNDLE)
    assert made is not None
    assert alone is not None
    new = set(made.text.splitlines()) - set(alone.text.splitlines())
    assert new == {"interface=v-eth1", "no-dhcp-interface=v-eth1"}
    assert set(alone.text.splitlines()) - set(made.text.splitlines()) == {"dhcp-authoritative"}

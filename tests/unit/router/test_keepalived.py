"""keepalived's configuration as text, and what a pair is on a leg."""

from dataclasses import replace

from hostagent.router.keepalived import configuration
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import LegBundle, PairBundle, RouterBundle
from moorage.vrrp import virtual_mac

PAIR = PairBundle(7, 200, "10.1.0.11", "10.1.0.12")
BACK = LegBundle(NetworkId("back"), "eth1", ("10.1.0.0/24", "fd00:1::/64"), ("10.1.0.1", "fd00:1::1"))
FRONT = LegBundle(NetworkId("front"), "eth2", ("fd00:2::/64",), ("fd00:2::1",))
BUNDLE = RouterBundle(InstanceId("r1"), 3, legs=(BACK,), pair=PAIR)

ONE_LEG = """\
# Written by moorage-hostagent.
global_defs {
    vrrp_version 3
    enable_script_security
    script_user root
    dynamic_interfaces
}
vrrp_instance eth1 {
    state BACKUP
    interface eth1
    virtual_router_id 7
    priority 200
    nopreempt
    version 3
    advert_int 0.25
    use_vmac v-eth1
    notify "/usr/local/lib/moorage-router/router-role" root
    virtual_ipaddress {
        10.1.0.1/32
    }
    virtual_ipaddress_excluded {
        fd00:1::1/128 dev v-eth1
    }
}
"""


def test_one_leg() -> None:
    assert configuration(BUNDLE) == ONE_LEG


def test_several_legs_move_together() -> None:
    text = configuration(replace(BUNDLE, legs=(BACK, FRONT)))
    assert "vrrp_sync_group router {\n    group {\n        eth1\n        eth2\n    }\n    notify " in text
    assert text.count("notify") == 1
    assert "vrrp_instance eth2 {" in text
    assert "use_vmac v-eth2" in text
    assert "fd00:2::1/128\n" in text


OUTSIDE = """\
vrrp_instance eth0 {
    state BACKUP
    interface eth0
    virtual_router_id 254
    priority 200
    nopreempt
    version 3
    advert_int 0.25
    use_vmac v-eth0
    virtual_ipaddress {
        192.0.0.8/32
    }
    virtual_ipaddress_excluded {
        198.51.100.20/32 dev v-eth0
    }
}
"""


def outside(*addresses: str, public: tuple[str, ...] = ()) -> RouterBundle:
    pair = replace(PAIR, outside_virtual_id=254, outside_addresses=public)
    return replace(BUNDLE, outside_interface="eth0", outside_addresses=(*addresses, *public), pair=pair)


def test_public_addresses_move_with_the_gateways() -> None:
    text = configuration(outside("198.51.100.9", public=("198.51.100.20",)))
    assert "vrrp_sync_group router {\n    group {\n        eth1\n        eth0\n    }\n    notify " in text
    assert text.endswith(OUTSIDE)


def test_the_outside_is_there_before_its_first_public_address() -> None:
    text = configuration(outside("198.51.100.9"))
    assert "virtual_router_id 254" in text
    assert "192.0.0.8/32\n" in text
    assert "dev v-eth0" not in text


def test_an_outside_with_ipv6_has_a_link_local_address() -> None:
    both = configuration(outside("198.51.100.9", "2001:db8::9", public=("2001:db8::20",)))
    assert "fe80::200:5eff:fe00:1fe/128 dev v-eth0\n        2001:db8::20/128 dev v-eth0\n" in both
    alone = configuration(outside("2001:db8::9", public=("2001:db8::20",)))
    assert "    virtual_ipaddress {\n        fe80::200:5eff:fe00:2fe/128\n    }" in alone
    assert "192.0.0.8" not in alone


def test_an_outside_where_nothing_moves_has_no_instance() -> None:
    assert configuration(replace(outside("198.51.100.9"), pair=PAIR)) == ONE_LEG
    assert configuration(outside()) == ONE_LEG


def test_a_leg_without_gateways_has_nothing_to_hold() -> None:
    assert configuration(replace(BUNDLE, legs=(BACK, replace(FRONT, addresses=())))) == ONE_LEG
    assert configuration(replace(BUNDLE, legs=(replace(BACK, addresses=()),))) == ""


def test_a_router_that_is_alone_runs_no_keepalived() -> None:
    assert configuration(replace(BUNDLE, pair=None)) == ""


def test_the_mac_is_that_of_the_legs_family() -> None:
    assert virtual_mac(7, BACK.addresses) == "00:00:5e:00:01:07"
    assert virtual_mac(255, FRONT.addresses) == "00:00:5e:00:02:ff"

"""A live network gets a router in place of its hosts as gateway, and loses it again: instances go on at once, on every host."""

from dataclasses import replace

import pytest

from hostagent.domain import NetworkAssignment, Peer
from moorage.ids import InstanceId
from tests.integration.netlink import router_bed
from tests.integration.netlink.bed import Bed, Host
from tests.integration.netlink.router_bed import CLIENT, CLIENT6, OUT, OWN, ROUTER, A, bundle, legs, member

pytestmark = pytest.mark.root
SOON = 2.0  # a neighbour entry that nobody corrected lives longer
OPEN = replace(A, egress=True)
SHUT = replace(A, subnets=tuple(replace(subnet, gateway="") for subnet in A.subnets))


def _as_peer(host: Host, mac: str, addresses: tuple[str, ...]) -> Peer:
    return Peer(mac, tuple(address.partition("/")[0] for address in addresses), host.address)


@pytest.mark.parametrize("is_router_first", [True, False])
async def test_a_router_takes_over_from_the_hosts_and_gives_back(bed: Bed, is_router_first: bool) -> None:
    first, second = await bed.host(1), await bed.host(2)
    for command in (
        "ip link add brout type bridge mcast_snooping 0",
        "ip addr del 192.168.77.1/24 dev up0",
        "ip addr del fd77::1/64 dev up0",
        "ip link set up0 master brout",
        "ip link set brout up",
        "ip addr add 192.168.77.1/24 dev brout",
        "ip addr add fd77::1/64 dev brout nodad",
    ):
        bed.run(first.path, command)
    bed.run(bed.outside.path, f"ip -6 route add fd00:1::/64 via {router_bed.OWN6}")
    nic5, nic6, leg = member(A, 5), member(A, 6), legs(A)[1]
    peer5, peer6 = _as_peer(first, nic5.mac, nic5.addresses), _as_peer(second, nic6.mac, nic6.addresses)
    gateway = _as_peer(first, leg.mac, leg.addresses)

    async def tell(network: NetworkAssignment, *routers: Peer) -> None:
        await first.fabric.ensure_network(replace(network, peers=(peer6,)))
        await second.fabric.ensure_network(replace(network, peers=(peer5, *routers)))

    await tell(OPEN)
    await first.fabric.ensure_network(OUT)
    a5 = await first.fabric.ensure_instance(InstanceId("ia5"), [nic5], {A.network_id: OPEN})
    a6 = await second.fabric.ensure_instance(InstanceId("ia6"), [nic6], {A.network_id: OPEN})
    bed.serve(bed.outside.path, 80, greeting="client")

    def seen(address: str) -> list[str]:
        return [bed.ask(path, address, 80, patience=SOON) for path in (a5, a6)]

    assert seen(CLIENT) == ["client 192.168.77.1", "client 192.168.77.2"]
    assert seen(CLIENT6) == ["client fd77::1", "client fd77::2"]

    networks = {A.network_id: SHUT, OUT.network_id: OUT}
    if is_router_first:
        await first.fabric.ensure_instance(ROUTER, legs(A), networks)
        await first.fabric.apply_router(bundle(1, A))
        await tell(SHUT, gateway)
    else:
        await tell(SHUT, gateway)
        await first.fabric.ensure_instance(ROUTER, legs(A), networks)
        await first.fabric.apply_router(bundle(1, A))
    assert "10.1.0.1" not in bed.run(first.network("neta"), "ip addr")
    assert "10.1.0.1" not in bed.run(second.network("neta"), "ip addr")
    assert seen(CLIENT) == [f"client {OWN}", f"client {OWN}"]
    assert seen(CLIENT6) == ["client fd00:1::5", "client fd00:1::6"]

    await first.fabric.remove_instance(ROUTER)
    await tell(OPEN)
    assert seen(CLIENT) == ["client 192.168.77.1", "client 192.168.77.2"]
    assert seen(CLIENT6) == ["client fd77::1", "client fd77::2"]

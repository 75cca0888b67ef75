"""A router on one host: a bridge as its outside, with a client beyond it, and two networks behind it.

client (192.168.77.200, fd77::200) - brout - eth0 ROUTER eth1 - neta (10.1.0.0/24, fd00:1::/64): a5, a6
                                                     eth2 - netb (10.2.0.0/24, fd00:2::/64): b5
"""

from dataclasses import dataclass, replace
from pathlib import Path

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, Subnet
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import LegBundle, RouterBundle
from tests.integration.netlink.bed import MTU, Bed, Host

ROUTER = InstanceId("router")
OWN, PUBLIC, PUBLIC2 = "192.168.77.100", "192.168.77.101", "192.168.77.102"
OWN6, PUBLIC6 = "fd77::100", "fd77::101"
CLIENT, CLIENT6 = "192.168.77.200", "fd77::200"
OUT = NetworkAssignment(
    NetworkId("out"), "out", NetworkKind.SHARED, (Subnet("192.168.77.0/24"), Subnet("fd77::/64")), 1500, bridge="brout"
)


def network(letter: str, number: int) -> NetworkAssignment:
    """A network behind the router, whose gateway hosts are not."""
    subnets = (
        Subnet(f"10.{number}.0.0/24", f"10.{number}.0.1"),
        Subnet(f"fd00:{number}::/64", f"fd00:{number}::1"),
    )
    return NetworkAssignment(
        NetworkId(f"net{letter}"), letter, NetworkKind.ISOLATED, subnets, MTU, vni=40 + number, egress=False
    )


A, B = network("a", 1), network("b", 2)


def member(net: NetworkAssignment, number: int) -> NicAssignment:
    """An instance's interface with `.number` of both subnets."""
    four, six = net.subnets[0].gateway.removesuffix("1"), net.subnets[1].gateway.removesuffix("1")
    return NicAssignment(
        net.network_id,
        "eth0",
        f"02:00:00:00:{net.vni:02x}:{number:02x}",
        (f"{four}{number}/24", f"{six}{number:x}/64"),
        gateways=(net.subnets[0].gateway, net.subnets[1].gateway),
    )


def legs(*nets: NetworkAssignment) -> list[NicAssignment]:
    """The router's interfaces: eth0 outside, then one for each network."""
    outside = (f"{OWN}/24", f"{PUBLIC}/24", f"{PUBLIC2}/24", f"{OWN6}/64", f"{PUBLIC6}/64")
    found = [NicAssignment(OUT.network_id, "eth0", "02:00:00:00:99:01", outside, forwards=True)]
    for index, net in enumerate(nets, start=1):
        gateways = tuple(f"{subnet.gateway}/{subnet.cidr.partition('/')[2]}" for subnet in net.subnets)
        found.append(
            NicAssignment(net.network_id, f"eth{index}", f"02:00:00:00:99:{index + 1:02x}", gateways, forwards=True)
        )
    return found


def bundle(version: int = 1, *nets: NetworkAssignment) -> RouterBundle:
    """A router with these legs and no rule."""
    return RouterBundle(
        ROUTER,
        version,
        "eth0",
        (OWN, PUBLIC, PUBLIC2, OWN6, PUBLIC6),
        tuple(
            LegBundle(
                net.network_id,
                f"eth{index}",
                tuple(subnet.cidr for subnet in net.subnets),
                tuple(subnet.gateway for subnet in net.subnets),
            )
            for index, net in enumerate(nets or (A, B), start=1)
        ),
    )


@dataclass
class RouterBed:
    """What is plugged: paths of namespaces."""

    bed: Bed
    host: Host
    router: Path
    a5: Path
    a6: Path
    b5: Path

    @property
    def client(self) -> Path:
        """Somebody outside."""
        return self.bed.outside.path

    async def apply(self, **changes: object) -> None:
        """A bundle with these fields."""
        await self.host.fabric.apply_router(replace(bundle(), **changes))  # type: ignore[arg-type]

    async def counted(self) -> dict[str, int]:
        """Packets by rule."""
        return {one.rule_id: one.packets for one in await self.host.fabric.router_figures(ROUTER)}


async def make(bed: Bed, *, serving: bool = True) -> RouterBed:
    """All of it, with the router's rules of a bundle that has none.

    Args:
        serving: everybody answers on TCP port 80 and UDP port 53.
    """
    host = await bed.host(1)
    bed.run(host.path, "ip link add brout type bridge mcast_snooping 0")
    bed.run(host.path, "ip link set up0 master brout")
    bed.run(host.path, "ip link set brout up")
    for number in (1, 2):
        bed.run(bed.outside.path, f"ip -6 route add fd00:{number}::/64 via {OWN6}")
    networks = {net.network_id: net for net in (OUT, A, B)}
    for net in networks.values():
        await host.fabric.ensure_network(net)
    router = await host.fabric.ensure_instance(ROUTER, legs(A, B), networks)
    a5, a6, b5 = [
        await host.fabric.ensure_instance(InstanceId(name), [member(net, number)], networks)
        for name, net, number in (("ia5", A, 5), ("ia6", A, 6), ("ib5", B, 5))
    ]
    made = RouterBed(bed, host, router, a5, a6, b5)
    await made.apply()
    for name, path in (
        () if not serving else (("a5", a5), ("a6", a6), ("b5", b5), ("client", made.client), ("router", router))
    ):
        bed.serve(path, 80, greeting=name)
        bed.serve(path, 53, greeting=name, udp=True)
    return made

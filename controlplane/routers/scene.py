"""Everything that one router's configuration depends on, gathered from a view.

The bundle is derived from a scene alone, so it is the same whoever asks and whenever. `dependents` is its inverse: which routers a
changed record concerns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.kinds import BALANCER, INSTANCE, NETWORK, PUBLIC_ADDRESS, ROUTER, ROUTER_RULE
from controlplane.domain.networks import Network
from controlplane.domain.readiness import takes_traffic
from controlplane.domain.routers import Balancer, PublicAddress, Router, RouterRule
from moorage.store.base import Kind, View


@dataclass(frozen=True, slots=True)
class RouterScene:
    """A router with all that its rules speak of. Names are full."""

    router: Router
    outside: Network | None
    legs: tuple[Network, ...]  # in the order of the router's spec
    members: tuple[Instance, ...] = ()  # its own containers, by name
    rules: tuple[RouterRule, ...] = ()
    balancers: tuple[Balancer, ...] = ()
    public_addresses: Mapping[str, PublicAddress] = field(default_factory=dict)  # by name
    instances: Mapping[str, Instance] = field(default_factory=dict)  # on its legs, by name; not its own

    def members_of(self, group_name: str) -> list[Instance]:
        """A group's instances on the router's legs that take new clients, in order of slot."""
        members = (i for i in self.instances.values() if i.owner == group_name and takes_traffic(i))
        return sorted(members, key=lambda i: (i.slot, i.uid))

    def leg_address(self, instance_name: str, version: int = 0) -> tuple[str, str]:
        """(network uid, address without prefix length) of an instance on the first leg that it is on; ("", "") if it is on none.

        Args:
            version: 4 or 6: only addresses of this family.
        """
        instance = self.instances.get(instance_name)
        if instance is None or instance.desired is DesiredState.DELETED:
            return "", ""
        for network in self.legs:
            for nic in instance.nics:
                for address in nic.addresses if nic.network_uid == network.uid else ():
                    bare = address.partition("/")[0]
                    if version in (0, 6 if ":" in bare else 4):
                        return network.uid, bare
        return "", ""


def read(view: View, router: Router) -> RouterScene:
    """The scene of a router as it is in `view`."""
    legs = tuple(network for uid in router.network_uids if (network := _network(view, uid)) is not None)
    instances = {found.value.name: found.value for leg in legs for found in view.find(INSTANCE, "network", leg.uid)}
    members = tuple(sorted((f.value for f in view.find(INSTANCE, "owner", router.name)), key=lambda i: i.id))
    for member in members:
        instances.pop(member.name, None)
    return RouterScene(
        router=router,
        outside=_network(view, router.outside_uid),
        legs=legs,
        members=members,
        rules=tuple(f.value for f in view.range(ROUTER_RULE, "", 1_000_000, f"{router.project}/{router.id}/")),
        balancers=tuple(f.value for f in view.range(BALANCER, "", 1_000_000, f"{router.project}/{router.id}/")),
        public_addresses={f.value.name: f.value for f in view.find(PUBLIC_ADDRESS, "network", router.outside_uid)},
        instances=instances,
    )


def dependents(view: View, kind: Kind[Any], record: Any) -> set[str]:
    """Uids of the routers whose bundle may change with this record, as it was or as it is.

    Args:
        kind: any of those that `read` looks at.
    """
    if kind is ROUTER:
        return {record.uid}
    if kind is ROUTER_RULE or kind is BALANCER:
        return {record.router_uid}
    if kind is NETWORK:
        networks = {record.uid}
    elif kind is PUBLIC_ADDRESS:
        networks = {record.network_uid}
    else:
        networks = {nic.network_uid for nic in record.nics}
    found: set[str] = set()
    for uid in networks:
        found |= {router.value.uid for index in ("network", "outside") for router in view.find(ROUTER, index, uid)}
    return found


def _network(view: View, uid: str) -> Network | None:
    found = view.find(NETWORK, "uid", uid)
    return found[0].value if found else None

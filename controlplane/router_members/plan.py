"""Which containers a router shall have, decided from its scene and the hosts. Pure.

A single router holds its networks' gateway addresses itself. Members of a pair have addresses of their own, and the gateway addresses
move between them; so do edge members, which only take ports of their hosts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.containers import PublishedPort, RestartMode, RestartPolicy
from controlplane.domain.hosts import Host, HostAdminState, HostLinkState, is_emptied
from controlplane.domain.instances import Affinity, DesiredState, Instance, InstanceSpec, Nic
from controlplane.domain.networks import Network
from controlplane.networks.subnets import prefix_length, subnet_of
from controlplane.routers.bundle import main_ids, member_id
from controlplane.routers.scene import RouterScene
from controlplane.routers.status import is_running
from moorage.router_bundle import RouterRole

#: Label of members: what keeps a pair apart looks at it.
LABEL = "moorage.router"
STOP_SECONDS = 8  # that its programs get to finish what is in flight
_GRACE_SECONDS = 15.0  # longer than that: hostagent/router_image/README.md
_CAPABILITIES = ("NET_ADMIN", "NET_RAW")  # DHCP and VRRP; packet rules are the agent's
_RESTART = RestartPolicy(
    RestartMode.ALWAYS, 0.1, 5.0, 10.0, 0
)  # it is everybody's way out: soon again, and never given up


@dataclass(frozen=True, slots=True)
class CreateMember:
    """Make a container. `behind`: uids of the networks that it is the router of, alone or in turn with another."""

    id: str
    spec: InstanceSpec
    labels: Mapping[str, str]
    behind: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class ChangeMember:
    """Give the outside interface these addresses beside its own (with prefix length), and the container these ports.

    `lent_in_turn`: a pair has the addresses, on whichever member is active.
    """

    instance_uid: str
    lent_addresses: tuple[str, ...]
    lent_in_turn: bool
    published_ports: tuple[PublishedPort, ...]
    why: str


@dataclass(frozen=True, slots=True)
class DeleteMember:
    """Remove a container."""

    instance_uid: str
    why: str


@dataclass(frozen=True, slots=True)
class ForgetRouter:
    """Nothing is left of it: its record can go, with its rules and balancers."""

    why: str


Action = CreateMember | ChangeMember | DeleteMember | ForgetRouter


def plan(scene: RouterScene, hosts: Sequence[Host]) -> list[Action]:
    """What is to be done now. An empty list: all is as it shall be."""
    router = scene.router
    alive = {member.id: member for member in scene.members if member.desired is not DesiredState.DELETED}
    if router.is_deleting:
        gone: list[Action] = [DeleteMember(m.uid, "its router is deleted") for m in alive.values()]
        return gone or ([] if scene.members else [ForgetRouter("its router was deleted and its containers are gone")])
    if scene.outside is None:
        return []
    wanted = {w.id: w for w in _wanted(scene, scene.outside, alive, hosts)}
    taken = {member.id for member in scene.members}
    actions: list[Action] = [w for w in wanted.values() if w.id not in taken]
    moving = _moving(scene, alive, hosts)
    for member in alive.values():
        want = wanted.get(member.id)
        if member.id == moving:
            # The successor has its name, and of a single router its addresses: it comes once this one is gone.
            actions.append(DeleteMember(member.uid, f"another one is made elsewhere: {member.evict}"))
        elif want is None:
            actions.append(DeleteMember(member.uid, "the router has no use for it any more"))
        elif [nic.network for nic in want.spec.nics] != [nic.network for nic in member.nics]:
            # Its interfaces are what it is; the successor comes once this one is gone, because it holds the same addresses.
            actions.append(DeleteMember(member.uid, "the router has other networks"))
        elif want.behind and any(nic.addresses for nic in want.spec.nics) != _holds_gateways(scene, member):
            actions.append(DeleteMember(member.uid, "the router becomes a pair, or a single one"))
        elif change := _change(scene, scene.outside, member, want):
            actions.append(change)
    return actions


def _moving(scene: RouterScene, alive: Mapping[str, Instance], hosts: Sequence[Host]) -> str:
    """Id of the main member that goes now because it shall be elsewhere; empty: none.

    Of a pair one goes while the other can do its work, first the one that stands by. A single one goes if there is another host at all.
    """
    main = [alive[name] for name in main_ids(scene.router) if name in alive]
    evicted = [member for member in main if member.evict]
    if not evicted:
        return ""
    seen = {observed.instance_uid: observed for observed in scene.router.observed}
    if scene.router.spec.redundant:
        evicted.sort(key=lambda m: (m.uid in seen and seen[m.uid].role is RouterRole.ACTIVE, m.id))
        others = [member for member in main if member.uid != evicted[0].uid]
        is_served = any(is_running(m) and m.uid in seen and seen[m.uid].running_version for m in others)
        return evicted[0].id if is_served or not is_running(evicted[0]) else ""
    has_place = any(
        host.admin_state is HostAdminState.ENABLED
        and host.link_state is HostLinkState.UP
        and host.id != evicted[0].host
        for host in hosts
    )
    return evicted[0].id if has_place else ""


def _holds_gateways(scene: RouterScene, member: Instance) -> bool:
    """Whether gateways are addresses of its own, as those of a single router are."""
    gateways = {(leg.uid, subnet.gateway) for leg in scene.legs for subnet in leg.spec.subnets}
    own = {(nic.network_uid, address.partition("/")[0]) for nic in member.nics for address in nic.addresses}
    return bool(gateways & own)


def _wanted(
    scene: RouterScene, outside: Network, alive: Mapping[str, Instance], hosts: Iterable[Host]
) -> list[CreateMember]:
    router = scene.router
    is_pair = router.spec.redundant
    spec = _spec(scene, outside, holds_gateways=not is_pair)
    behind = frozenset(leg.uid for leg in scene.legs)
    labels = {LABEL: router.uid}
    why = f"router {router.id} needs it"
    found = [CreateMember(name, spec, labels, behind, why) for name in main_ids(router)]
    edges = router.spec.edge_hosts
    main = {alive[w.id].host for w in found if w.id in alive}
    if edges is None or len(main) < len(found) or "" in main:
        return found  # edge members come once the others are placed: where those are, they take the ports themselves
    plain = _spec(scene, outside, holds_gateways=False)
    for host in sorted(hosts, key=lambda h: h.id):
        is_meant = edges.every_host or all(host.labels.get(k) == v for k, v in edges.host_labels.items())
        if is_meant and host.id not in main and not is_emptied(host):
            edge = replace(plain, placement=replace(plain.placement, host=host.name))
            why = f"router {router.id} takes ports of {host.name}"
            found.append(CreateMember(member_id(router, f"e-{host.id[:30]}"), edge, labels, frozenset(), why))
    return found


def _spec(scene: RouterScene, outside: Network, *, holds_gateways: bool) -> InstanceSpec:
    router = scene.router
    nics = [Nic(outside.name, "eth0")]
    for number, leg in enumerate(scene.legs, 1):
        gateways = tuple(s.gateway for s in leg.spec.subnets if s.gateway) if holds_gateways else ()
        nics.append(Nic(leg.name, f"eth{number}", gateways))
    apart = (*router.spec.placement.anti_affinity, Affinity({LABEL: router.uid}))
    return InstanceSpec(
        template=router.spec.template,
        hostname=router.id,
        env={"MOORAGE_ROUTER_STOP_SECONDS": str(STOP_SECONDS)},
        capabilities_add=_CAPABILITIES,
        read_only_root=True,
        resources=router.spec.resources,
        stop_grace_seconds=_GRACE_SECONDS,
        restart=_RESTART,
        published_ports=tuple(replace(port, protocol=port.protocol or "tcp") for port in router.spec.ingress_ports),
        nics=tuple(nics),
        placement=replace(router.spec.placement, anti_affinity=apart),
    )


def _change(scene: RouterScene, outside: Network, member: Instance, want: CreateMember) -> ChangeMember | None:
    # Edge members share no public address: they would be two that answer for it. Of a pair only the active one does.
    lent = _lent(scene, outside) if want.behind else ()
    in_turn = bool(lent) and scene.router.spec.redundant
    now = next(((n.lent_addresses, n.lent_in_turn) for n in member.nics if n.network_uid == outside.uid), ((), False))
    ports = want.spec.published_ports
    if (lent, in_turn, ports) == (*now, member.effective.published_ports):
        return None
    return ChangeMember(member.uid, lent, in_turn, ports, "its public addresses or ports are others now")


def _lent(scene: RouterScene, outside: Network) -> tuple[str, ...]:
    """Public addresses that rules and balancers use, with prefix length."""
    used = {
        part.public_address
        for rule in scene.rules
        for part in (rule.spec.source_nat, rule.spec.static_nat, rule.spec.port_forward)
        if part is not None
    }
    used |= {listener.public_address for balancer in scene.balancers for listener in balancer.spec.listeners}
    found = []
    for name in sorted(used):
        public = scene.public_addresses.get(name)
        subnet = None if public is None else subnet_of(public.address, outside.spec.subnets)
        if public is not None and subnet is not None:
            found.append(f"{public.address}/{prefix_length(subnet)}")
    return tuple(found)

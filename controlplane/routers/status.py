"""How a router and its rules stand, worked out from records when somebody looks. Pure.

A change of revision r is in force once a member runs a configuration of version r or later. Only members that run count: what a
stopped one said last is no more true.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.instances import DesiredState, Instance, InstanceState
from controlplane.domain.kinds import HOST, INSTANCE, NETWORK, PUBLIC_ADDRESS, ROUTER
from controlplane.domain.routers import (
    PublicAddress,
    Router,
    RouterObserved,
    RouterRule,
    RouterState,
    public_addresses_of,
)
from controlplane.routers.bundle import main_ids, target_address
from controlplane.routers.scene import RouterScene
from moorage.router_bundle import RouterRole
from moorage.store.base import View


@dataclass(frozen=True, slots=True)
class RouterMember:
    """One container of a router; mirrors moorage.v1.RouterMember."""

    instance: str
    host: str = ""
    role: RouterRole = RouterRole.UNSPECIFIED
    running_version: int = 0
    failed_version: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """What is seen of a router; mirrors moorage.v1.RouterStatus."""

    state: RouterState
    reason: str = ""
    message: str = ""
    members: tuple[RouterMember, ...] = ()
    outside_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """What is seen of a rule; mirrors moorage.v1.RouterRuleStatus."""

    active: bool = False
    message: str = ""
    public_address: str = ""
    target_address: str = ""


def lost_hosts(view: View, members: Iterable[Instance]) -> frozenset[str]:
    """Uids of the members' hosts that are lost: what was seen there last is no more true."""
    hosts = {member.host_uid for member in members if member.host_uid}
    return frozenset(uid for uid in hosts if any(found.value.loss for found in view.find(HOST, "uid", uid)))


def status_of(router: Router, members: Sequence[Instance], lost: Collection[str] = ()) -> RouterStatus:
    """Where a router stands.

    Args:
        members: its own instances, in any order.
        lost: as `lost_hosts` has them.
    """
    # What was lost with its host is nobody's member any more, though its host has still to remove it.
    ordered = sorted((m for m in members if not m.given_up), key=lambda m: m.id)
    seen = {observed.instance_uid: observed for observed in router.observed}
    state, reason, message = _state(router, ordered, seen, lost)
    return RouterStatus(state, reason, message, _members(ordered, seen), _outside_addresses(router, ordered))


def _state(
    router: Router, members: Sequence[Instance], seen: dict[str, RouterObserved], lost: Collection[str]
) -> tuple[RouterState, str, str]:
    if router.is_deleting:
        return RouterState.DELETING, router.reason, router.message
    waiting = [m for m in members if m.host_uid in lost and m.id in main_ids(router)]
    if waiting and not router.spec.redundant:
        return RouterState.DEGRADED, "HOST_LOST", _waits_for_host(waiting[0])
    running = [
        (m, seen[m.uid])
        for m in members
        if is_running(m) and m.host_uid not in lost and m.uid in seen and seen[m.uid].running_version
    ]
    if not running:
        return RouterState.PENDING, *_why_pending(router, members)
    pair = main_ids(router)
    if sum(observed.role is RouterRole.ACTIVE for member, observed in running if member.id in pair) > 1:
        text = "both members say that they are active: they do not hear each other"
        return RouterState.SPLIT, "ROUTER_SPLIT", text
    for member, observed in running:
        if observed.failed_version > observed.running_version:
            text = f"{member.name} goes on with version {observed.running_version}: {observed.error}"
            return RouterState.DEGRADED, "CONFIGURATION_REFUSED", text
    behind = [member for member, observed in running if observed.running_version < router.asked_revision]
    state = RouterState.UPDATING if behind or router.reason else RouterState.ACTIVE
    if router.reason:
        return state, router.reason, router.message
    missing = [name for name in pair if name not in {member.id for member in members}]
    if missing:
        return state, "MEMBER_NOT_RUNNING", f"projects/{router.project}/instances/{missing[0]} is not made yet"
    gone = [member for member in members if member.host_uid in lost]
    if gone:
        return state, "MEMBER_NOT_RUNNING", f"{gone[0].name} is on hosts/{gone[0].host}, which is lost"
    idle = [member for member in members if not is_running(member)]
    if idle:
        said = idle[0].observed.message
        text = f"{idle[0].name} is {idle[0].observed.state.name}{': ' if said else ''}{said}"
        return state, "MEMBER_NOT_RUNNING", text
    return state, "", ""


def _waits_for_host(member: Instance) -> str:
    return (
        f"{member.name} is on hosts/{member.host}, which is lost, and may still have the gateways. Another one is made when the host "
        "is back or removed, or when somebody knows that it runs nothing and says so: "
        f"moor host lost {member.host}. A redundant router would go on by itself"
    )


def _why_pending(router: Router, members: Sequence[Instance]) -> tuple[str, str]:
    if router.reason:
        return router.reason, router.message
    for member in members:
        if not is_running(member):
            text = member.observed.message or f"is {member.observed.state.name}"
            return member.observed.reason or "MEMBER_NOT_RUNNING", f"{member.name}: {text}"
    if members:
        return "MEMBER_NOT_RUNNING", f"{members[0].name} runs, and has not loaded its configuration yet"
    return "MEMBER_NOT_RUNNING", "its container is not made yet"


def is_running(member: Instance) -> bool:
    """Whether what a member says of its configuration counts."""
    return member.desired is DesiredState.RUNNING and member.observed.state is InstanceState.RUNNING


def running_members(router: Router, members: Sequence[Instance], lost: Collection[str]) -> list[Instance]:
    """Those that have or may have traffic, the one first that has it: of a pair the active one, then the other, then edge members.

    Args:
        lost: as `lost_hosts` has them; nothing is known of members there.
    """
    roles = {observed.instance_uid: observed.role for observed in router.observed}
    main = main_ids(router)
    running = [
        member for member in members if is_running(member) and not member.given_up and member.host_uid not in lost
    ]
    return sorted(running, key=lambda m: (m.id not in main, roles.get(m.uid) is not RouterRole.ACTIVE, m.id))


def _members(members: Sequence[Instance], seen: dict[str, RouterObserved]) -> tuple[RouterMember, ...]:
    found = []
    for member in members:
        observed = seen.get(member.uid, RouterObserved(member.uid))
        found.append(
            RouterMember(
                instance=member.name,
                host=f"hosts/{member.host}" if member.host else "",
                role=observed.role,
                running_version=observed.running_version,
                failed_version=observed.failed_version,
                error=observed.error,
            )
        )
    return tuple(found)


def _outside_addresses(router: Router, members: Sequence[Instance]) -> tuple[str, ...]:
    """Those of the first member; edge members come later in order of name and have none that lead further."""
    for member in members:
        for nic in member.nics:
            if nic.network_uid == router.outside_uid:
                return tuple(address.partition("/")[0] for address in (*nic.addresses, *nic.lent_addresses))
    return ()


def rule_status(view: View, rule: RouterRule, revision: int) -> RuleStatus:
    """How a rule stands.

    Args:
        revision: of the commit that wrote it; 0: it was only checked.
    """
    found = view.get(ROUTER, f"{rule.project}/{rule.router}")
    if found is None:
        return RuleStatus()
    router = found.value
    scene = _scene(view, router, rule)
    public = next(iter(scene.public_addresses.values()), None)
    target = target_address(scene, rule)
    running = running_members(router, scene.members, lost_hosts(view, scene.members))
    message = _leads_nowhere(rule, scene, target, public) or _why_not_yet(router, running, revision, public)
    is_active = revision > 0 and not message
    return RuleStatus(is_active, message, "" if public is None else public.address, target)


def _scene(view: View, router: Router, rule: RouterRule) -> RouterScene:
    """As much of the scene as one rule needs."""
    forward = rule.spec.static_nat or rule.spec.port_forward
    instance = _get(view, forward.instance) if forward is not None else None
    publics = [view.get(PUBLIC_ADDRESS, _key(name)) for name in public_addresses_of(rule)]
    return RouterScene(
        router=router,
        outside=None,
        legs=tuple(found[0].value for uid in router.network_uids if (found := view.find(NETWORK, "uid", uid))),
        members=tuple(found.value for found in view.find(INSTANCE, "owner", router.name)),
        public_addresses={found.value.name: found.value for found in publics if found is not None},
        instances={} if instance is None else {instance.name: instance},
    )


def _leads_nowhere(rule: RouterRule, scene: RouterScene, target: str, public: PublicAddress | None) -> str:
    gone = [name for name in public_addresses_of(rule) if public is None]
    if gone:
        return f"{gone[0]} does not exist any more"
    forward = rule.spec.static_nat or rule.spec.port_forward
    if forward is not None and not target:
        return f"leads nowhere: {forward.instance} has no address on the router's networks; it works once it has one"
    firewall = rule.spec.firewall
    legs = {leg.name for leg in scene.legs}
    for name in (firewall.from_network, firewall.to_network) if firewall is not None else ():
        if name and name not in legs:
            return f"{name} is not behind the router any more; it works once it is"
    return ""


def _why_not_yet(router: Router, running: Sequence[Instance], revision: int, public: PublicAddress | None) -> str:
    seen = {observed.instance_uid: observed for observed in router.observed}
    if not running:
        return "the router does not run"
    for member in running:
        observed = seen.get(member.uid, RouterObserved(member.uid))
        if observed.failed_version >= revision > observed.running_version:
            return f"{member.name} could not load it: {observed.error}"
        if observed.running_version < revision:
            return f"{member.name} is still at version {observed.running_version}, and this came with {revision}"
    holders = [member for member in running if member.id in main_ids(router)]  # edge members have no public addresses
    if public is not None and not (holders and all(_has_in_force(member, public, seen) for member in holders)):
        return f"the router's containers do not have {public.address} yet"
    return ""


def _has_in_force(member: Instance, public: PublicAddress, seen: Mapping[str, RouterObserved]) -> bool:
    """Whether the address is on a member's outside interface, as its host says, and in the configuration that it runs."""
    nic = next((nic for nic in member.nics if nic.network_uid == public.network_uid), None)
    if nic is None or public.address not in (address.partition("/")[0] for address in nic.lent_addresses):
        return False
    running_version = seen[member.uid].running_version if member.uid in seen else 0
    return running_version >= nic.lent_revision and member.observed.network_generation >= member.nics_generation


def _get(view: View, name: str) -> Instance | None:
    found = view.get(INSTANCE, _key(name))
    return None if found is None else found.value


def _key(name: str) -> str:
    """The store's key of projects/{project}/{collection}/{id}."""
    _, project, _, last = name.split("/")
    return f"{project}/{last}"

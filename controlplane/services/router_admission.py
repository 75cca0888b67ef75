"""Whether a router may stand where it is asked to: its networks, their instances, its template, its project's policy and quota."""

from dataclasses import dataclass, replace

from controlplane.access import policy as access_policy
from controlplane.access.policy import Asked, HostAccess
from controlplane.access.quota import Quota, charge
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE, NETWORK, ROUTER, TEMPLATE
from controlplane.domain.names import child_name, parse_child
from controlplane.domain.networks import Network, NetworkKind, NetworkSpec
from controlplane.domain.projects import Project
from controlplane.domain.routers import Router, RouterSpec, is_router
from controlplane.domain.templates import Template, TemplateState
from controlplane.networks import attachments
from controlplane.networks.subnets import with_defaults
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.instance_claims import charge_project
from controlplane.services.networks import cidrs_of_project, free_vni
from controlplane.services.router_field_rules import check_networks
from moorage.errors import Exhausted, InvalidSpec, NotReady
from moorage.store.base import Transaction, View

SYSTEM_PROJECT = "system"
DEFAULT_TEMPLATE = f"projects/{SYSTEM_PROJECT}/templates/router"
#: Label of templates of the project `system` that are images of routers, beside the default one: what else the platform runs is none.
ROUTER_IMAGE_LABEL = "router-image"
OUTSIDE_NETWORK = "outside"
_HIGHEST_VIRTUAL_ID = 254
#: What members get (controlplane/router_members/plan.py). A template of users must not gain it by way of a router.
_CAPABILITIES = ("NET_ADMIN", "NET_RAW")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a router stands."""

    spec: RouterSpec  # with full names
    legs: tuple[Network, ...]
    outside: Network


def find_place(tx: Transaction, context: Context, project: Project, spec: RouterSpec, field: str, uid: str) -> Place:
    """The spec with full names, and its networks; the network "outside" is made when first needed.

    Args:
        uid: of the router, which may be one that stands already.
    Raises:
        InvalidSpec: all that is wrong with the networks. NotFound, QuotaExceeded.
        NotReady: NETWORK_HAS_ROUTER, NETWORK_HAS_PUBLISHED_PORTS.
    """
    legs = tuple(
        lookup.network_of(tx, project.id, leg.network, f"{field}.legs[{index}].network")
        for index, leg in enumerate(spec.legs)
    )
    outside = _outside(tx, context, project, spec.outside_network, f"{field}.outside_network")
    full = replace(
        spec,
        legs=tuple(replace(leg, network=network.name) for leg, network in zip(spec.legs, legs, strict=True)),
        outside_network=outside.name,
        template=spec.template and _template_name(project.id, spec.template, f"{field}.template"),
    )
    outsides = {leg.uid: found[0] for leg in legs if (found := _routers(tx, "outside", leg.uid, uid))}
    behind = _routers(tx, "network", outside.uid, uid)
    violations = check_networks(full, legs, outside, outsides, behind[0] if behind else "", field)
    violations += access_policy.check(
        attachments.host_access([outside.spec], f"{field}.outside_network"), project.policy
    )
    if violations:
        raise InvalidSpec(violations)
    for leg in legs:
        _check_free(tx, leg, uid)
    return Place(full, legs, outside)


def outside_virtual_id(view: View, place: Place, before: Router | None = None) -> int:
    """What tells a pair on its outside network from the other pairs there; 0 for a router that is none.

    The highest that is free: on a network that is shared with others, what is not ours has the low ones as a rule.

    Raises: Exhausted: VIRTUAL_IDS_EXHAUSTED.
    """
    if not place.spec.redundant:
        return 0
    if before is not None and before.outside_virtual_id:
        return before.outside_virtual_id
    taken = {found.value.outside_virtual_id for found in view.find(ROUTER, "outside", place.outside.uid)}
    free = next((one for one in range(_HIGHEST_VIRTUAL_ID, 0, -1) if one not in taken), 0)
    if not free:
        raise Exhausted(
            f"{place.outside.name} has {_HIGHEST_VIRTUAL_ID} redundant routers already, and VRRP tells no more apart; "
            "give this one another outside network",
            reason="VIRTUAL_IDS_EXHAUSTED",
            metadata={"network": place.outside.name},
        )
    return free


def member_template(view: View, name: str) -> Template:
    """The template that members are made from, by its full name. Raises NotReady (ROUTER_TEMPLATE_MISSING)."""
    project_id, template_id = parse_child(name, "templates", "router.spec.template")
    found = view.get(TEMPLATE, f"{project_id}/{template_id}")
    if found is None or found.value.status.state is not TemplateState.READY:
        how = "moor router-image register" if name == DEFAULT_TEMPLATE else "moor template create"
        raise NotReady(
            f"{name} is not there yet, and routers are made from it; register it: {how}",
            reason="ROUTER_TEMPLATE_MISSING",
            metadata={"name": name},
        )
    return found.value


def check_template(view: View, project: Project, name: str, field: str) -> Template:
    """The same, for a router of this project, when it is asked for and whenever a container of it is made.

    Raises:
        NotReady: ROUTER_TEMPLATE_MISSING.
        InvalidSpec: POLICY_CAPABILITY, users' own templates need the policy; TEMPLATE_UNSUITABLE, one of the platform's is no router's.
    """
    if not name.startswith(f"projects/{SYSTEM_PROJECT}/"):
        asked = HostAccess(capabilities=tuple(Asked(f"{field}.template", word) for word in _CAPABILITIES))
        violations = access_policy.check(asked, project.policy)
        if violations:
            raise InvalidSpec(violations)
        return member_template(view, name)
    template = member_template(view, name)
    if name != DEFAULT_TEMPLATE and template.labels.get(ROUTER_IMAGE_LABEL) != "true":
        raise InvalidSpec.of(
            f"{field}.template",
            f"{name} is no image of a router: its label {ROUTER_IMAGE_LABEL} is not true",
            "TEMPLATE_UNSUITABLE",
        )
    return template


def check_quota(view: View, project_id: str, place: Place, template: Template) -> None:
    """Whether the first members fit into the quota; they are charged when they are made. Raises QuotaExceeded."""
    project = lookup.project(view, project_id)
    count = 2 if place.spec.redundant else 1
    own, default = place.spec.resources, template.defaults.resources
    charge(
        project.quota,
        project.usage,
        Quota(
            instances=count,
            cpu_millis=count * (own.cpu_millis or default.cpu_millis),
            memory_bytes=count * (own.memory_bytes or default.memory_bytes),
            addresses=count * sum(len(network.spec.subnets) for network in (*place.legs, place.outside)),
        ),
    )


def _outside(tx: Transaction, context: Context, project: Project, name: str, field: str) -> Network:
    if name and name not in (OUTSIDE_NETWORK, child_name(project.id, "networks", OUTSIDE_NETWORK)):
        return lookup.network_of(tx, project.id, name, field)
    found = tx.get(NETWORK, f"{project.id}/{OUTSIDE_NETWORK}")
    if found is not None:
        return found.value
    uid = context.new_id()
    spec = with_defaults(NetworkSpec(NetworkKind.ISOLATED, egress=True), uid, cidrs_of_project(tx, project.id))
    network = Network(uid, project.id, OUTSIDE_NETWORK, context.clock.now(), spec, free_vni(tx, uid))
    charge_project(tx, project.id, Quota(networks=1))
    tx.put(NETWORK, network)
    return network


def _template_name(project_id: str, name: str, field: str) -> str:
    if "/" not in name:
        return child_name(project_id, "templates", name)
    owner, template_id = parse_child(name, "templates", field)
    if owner not in (project_id, SYSTEM_PROJECT):
        raise InvalidSpec.of(field, f"is neither in projects/{project_id} nor in projects/system", "OTHER_PROJECT")
    return child_name(owner, "templates", template_id)


def _routers(view: View, index: str, network_uid: str, but: str) -> list[str]:
    return [found.value.name for found in view.find(ROUTER, index, network_uid) if found.value.uid != but]


def _check_free(view: View, leg: Network, router_uid: str) -> None:
    """Raises NotReady: the network has a router, or instances whose published ports would lead through it."""
    other = _routers(view, "network", leg.uid, router_uid)
    if other:
        raise NotReady(
            f"{leg.name} is behind {other[0]} already; a network has one router",
            reason="NETWORK_HAS_ROUTER",
            metadata={"network": leg.name, "router": other[0]},
        )
    publishing = [found.value for found in view.find(INSTANCE, "network", leg.uid) if _publishes(found.value)]
    if publishing:
        name = publishing[0].name
        raise NotReady(
            f"{len(publishing)} instances of {leg.name}, such as {name}, have published ports, which end at the router; "
            "take them off (a port forward of the router or its ingress ports do the same)",
            reason="NETWORK_HAS_PUBLISHED_PORTS",
            metadata={"network": leg.name, "instance": name},
        )


def _publishes(instance: Instance) -> bool:
    return bool(instance.effective.published_ports) and not is_router(instance)


def describe(place: Place) -> str:
    """For the event."""
    return f"{', '.join(leg.id for leg in place.legs)} to {place.outside.id}"

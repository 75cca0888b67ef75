"""Field rules of a router: what can be judged without looking at stored objects, and whether its networks go together. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.domain.instances import InstanceSpec
from controlplane.domain.names import check_labels
from controlplane.domain.networks import Network, NetworkKind
from controlplane.domain.routers import EdgeHosts, RouterSpec
from controlplane.networks.subnets import overlaps
from controlplane.services import instance_rules
from moorage.errors import FieldViolation

LONGEST_DRAIN_SECONDS = 86400.0


def check_spec(spec: RouterSpec, field: str) -> list[FieldViolation]:
    """Every violation."""
    found: list[FieldViolation] = []
    if not spec.legs:
        found.append(FieldViolation(f"{field}.legs", "a router needs a network behind it", "REQUIRED"))
    for index, leg in enumerate(spec.legs):
        if not leg.network:
            found.append(FieldViolation(f"{field}.legs[{index}].network", "is required", "REQUIRED"))
    if not 0 <= spec.drain_time_seconds <= LONGEST_DRAIN_SECONDS:
        found.append(FieldViolation(f"{field}.drain_time", "must be between 0 and one day", "OUT_OF_RANGE"))
    found += _check_member(spec, field)
    if spec.edge_hosts is not None:
        found += _check_edges(spec, spec.edge_hosts, field)
    return found


def _check_member(spec: RouterSpec, field: str) -> list[FieldViolation]:
    """A member is an instance: its limits, placement and ports are judged like one's."""
    member = InstanceSpec(
        template="-", resources=spec.resources, placement=spec.placement, published_ports=spec.ingress_ports
    )
    ports, ingress = f"{field}.published_ports", f"{field}.ingress_ports"
    return [replace(v, field=v.field.replace(ports, ingress, 1)) for v in instance_rules.check_spec(member, field)]


def _check_edges(spec: RouterSpec, edges: EdgeHosts, field: str) -> list[FieldViolation]:
    where = f"{field}.edge_hosts"
    found: list[FieldViolation] = []
    if edges.every_host and edges.host_labels:
        found.append(FieldViolation(where, "every host, or hosts with these labels: not both", "NOT_ALLOWED"))
    if not edges.every_host and not edges.host_labels:
        found.append(FieldViolation(where, "says no host: every_host, or host_labels", "REQUIRED"))
    found += check_labels(dict(edges.host_labels), f"{where}.host_labels")
    if not spec.ingress_ports:
        text = "edge hosts take the ingress ports, and there are none"
        found.append(FieldViolation(f"{field}.ingress_ports", text, "REQUIRED"))
    return found


def check_networks(
    spec: RouterSpec, legs: Sequence[Network], outside: Network, outsides: Mapping[str, str], behind: str, field: str
) -> list[FieldViolation]:
    """Whether a router can stand between these networks.

    Args:
        legs: the networks of `spec.legs`, in their order.
        outsides: of legs that are some router's outside: network uid to that router's name.
        behind: name of the router that `outside` is behind; empty: none.
    """
    found: list[FieldViolation] = []
    place = f"{field}.outside_network"
    is_isolated = outside.spec.kind is NetworkKind.ISOLATED
    if is_isolated and not outside.spec.egress:
        text = f"{outside.name} leads nowhere: name a shared network, or one with egress"
        found.append(FieldViolation(place, text, "OUTSIDE_UNSUITABLE"))
    if outside.spec.dhcp_client:
        text = f"{outside.name} has the addresses of a DHCP server outside, and a router must know its own: name one with subnets"
        found.append(FieldViolation(place, text, "OUTSIDE_UNSUITABLE"))
    if behind:
        found.append(FieldViolation(place, f"{outside.name} is itself behind {behind}", "OUTSIDE_UNSUITABLE"))
    if spec.ingress_ports and not is_isolated:
        text = f"hosts have no way into {outside.name}, a shared network; use an isolated one with egress as outside"
        found.append(FieldViolation(f"{field}.ingress_ports", text, "PORT_NOT_PUBLISHABLE"))
    seen: list[Network] = []
    for index, leg in enumerate(legs):
        where = f"{field}.legs[{index}].network"
        if leg.uid == outside.uid:
            found.append(FieldViolation(where, f"{leg.name} is the router's outside", "LEG_UNSUITABLE"))
        elif any(leg.uid == other.uid for other in seen):
            found.append(FieldViolation(where, f"{leg.name} is named twice", "LEG_UNSUITABLE"))
        else:
            found += _check_leg(leg, [outside, *seen], outsides.get(leg.uid, ""), where)
        seen.append(leg)
    return found


def _check_leg(leg: Network, others: Sequence[Network], outside_of: str, where: str) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if leg.spec.kind is not NetworkKind.ISOLATED:
        found.append(FieldViolation(where, f"{leg.name} is shared; a router serves isolated ones", "LEG_UNSUITABLE"))
    elif not all(subnet.gateway for subnet in leg.spec.subnets):
        text = f"{leg.name} has a subnet without gateway, and the router would hold that address"
        found.append(FieldViolation(where, text, "LEG_UNSUITABLE"))
    if outside_of:
        found.append(FieldViolation(where, f"{leg.name} is the outside of {outside_of}", "LEG_UNSUITABLE"))
    for other in others:
        cidr = overlaps([s.cidr for s in leg.spec.subnets], [s.cidr for s in other.spec.subnets])
        if cidr is not None:
            text = f"{cidr} of {leg.name} overlaps a subnet of {other.name}; the router could not tell them apart"
            found.append(FieldViolation(where, text, "SUBNET_OVERLAPS"))
    return found

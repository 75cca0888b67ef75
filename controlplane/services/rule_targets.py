"""What a router's rules speak of: names made full, and whether each is the router's own. Balancers ask the same questions.

Problems are returned, so that a batch names all of them at once; only what does not exist at all ends it (NotFound).
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

from controlplane.domain.instances import Claim, DesiredState
from controlplane.domain.kinds import BALANCER, GROUP, INSTANCE, NETWORK, ROUTER_RULE
from controlplane.domain.names import child_name
from controlplane.domain.networks import Network
from controlplane.domain.routers import (
    FirewallRule,
    PortForward,
    PublicAddress,
    Router,
    RouterRuleSpec,
    SourceNat,
    StaticNat,
)
from controlplane.services import lookup
from controlplane.services.instance_claims import DEFAULT_NETWORK
from moorage.errors import FieldViolation
from moorage.store.base import View

_Problems = list[FieldViolation]


class RuleTargets:
    """Looks at what belongs to one router."""

    def __init__(self, view: View, router: Router) -> None:
        self._view = view
        self._router = router
        self.legs: tuple[Network, ...] = tuple(
            found[0].value for uid in router.network_uids if (found := view.find(NETWORK, "uid", uid))
        )
        self._leg_uids = set(router.network_uids)

    def resolve(self, spec: RouterRuleSpec, where: str) -> tuple[RouterRuleSpec, _Problems]:
        """The spec with full names, and what is wrong with them. Raises NotFound, InvalidSpec (a name of another project)."""
        if spec.source_nat is not None:
            source_nat, problems = self._source_nat(spec.source_nat, f"{where}.source_nat")
            return replace(spec, source_nat=source_nat), problems
        if spec.static_nat is not None:
            static_nat, problems = self._static_nat(spec.static_nat, f"{where}.static_nat")
            return replace(spec, static_nat=static_nat), problems
        if spec.port_forward is not None:
            forward, problems = self._port_forward(spec.port_forward, f"{where}.port_forward")
            return replace(spec, port_forward=forward), problems
        if spec.firewall is not None:
            firewall, problems = self._firewall(spec.firewall, f"{where}.firewall")
            return replace(spec, firewall=firewall), problems
        return spec, []

    def public_address(self, name: str, field: str) -> tuple[PublicAddress, _Problems]:
        """A public address that this router may use. Raises NotFound, InvalidSpec."""
        address_id = lookup.own_id(self._router.project, "publicAddresses", name, field)
        found = lookup.public_address(self._view, self._router.project, address_id)
        problems: _Problems = []
        if found.network_uid != self._router.outside_uid:
            text = f"{found.name} is of {found.spec.network}, and the router's outside is {self._router.spec.outside_network}"
            problems.append(FieldViolation(field, text, "PUBLIC_ADDRESS_UNSUITABLE"))
        other = next((name for name in routers_using(self._view, found) if name != self._router.name), "")
        if other:
            problems.append(FieldViolation(field, f"{found.name} is used by {other}", "PUBLIC_ADDRESS_IN_USE"))
        return found, problems

    def instance(self, name: str, field: str, version: int = 0) -> tuple[str, _Problems]:
        """The full name of an instance with an address on one of the router's networks.

        Args:
            version: 4 or 6: the family that the address must be of; 0: any.
        """
        instance_id = lookup.own_id(self._router.project, "instances", name, field)
        full = child_name(self._router.project, "instances", instance_id)
        found = self._view.get(INSTANCE, f"{self._router.project}/{instance_id}")
        if found is None:
            return full, [FieldViolation(field, f"{full} does not exist", "TARGET_NOT_A_MEMBER")]
        instance = found.value
        if instance.owner and Claim.NAME not in instance.claims:  # else another of this name follows it
            what = f"belongs to {instance.owner}, which may have another in its place at any time"
            return full, [FieldViolation(field, f"{full} {what}", "TARGET_NOT_A_MEMBER")]
        if instance.desired is DesiredState.DELETED:
            what = "is being deleted"
            return full, [FieldViolation(field, f"{full} {what}", "TARGET_NOT_A_MEMBER")]
        addresses = (a for nic in instance.nics if nic.network_uid in self._leg_uids for a in nic.addresses)
        if any(version in (0, 6 if ":" in address else 4) for address in addresses):
            return full, []
        family = f"IPv{version} address" if version else "address"
        text = f"{full} has no {family} on {', '.join(leg.name for leg in self.legs)}"
        return full, [FieldViolation(field, text, "TARGET_NOT_A_MEMBER")]

    def group(self, name: str, field: str) -> tuple[str, _Problems]:
        """The full name of a group whose members are on one of the router's networks."""
        group_id = lookup.own_id(self._router.project, "groups", name, field)
        full = child_name(self._router.project, "groups", group_id)
        found = self._view.get(GROUP, f"{self._router.project}/{group_id}")
        if found is None or found.value.is_deleting:
            what = "does not exist" if found is None else "is being deleted"
            return full, [FieldViolation(field, f"{full} {what}", "TARGET_NOT_A_MEMBER")]
        named = {nic.network.rpartition("/")[2] for nic in found.value.spec.instance.nics} or {DEFAULT_NETWORK}
        if named & {leg.id for leg in self.legs}:
            return full, []
        text = f"members of {full} are on none of {', '.join(leg.name for leg in self.legs)}"
        return full, [FieldViolation(field, text, "TARGET_NOT_A_MEMBER")]

    def leg(self, name: str, field: str) -> tuple[str, _Problems]:
        """The full name of a network behind the router. Raises InvalidSpec."""
        full = child_name(
            self._router.project, "networks", lookup.own_id(self._router.project, "networks", name, field)
        )
        if any(leg.name == full for leg in self.legs):
            return full, []
        text = f"{full} is not behind {self._router.name}; its networks are {', '.join(leg.name for leg in self.legs)}"
        return full, [FieldViolation(field, text, "TARGET_NOT_A_MEMBER")]

    def _source_nat(self, rule: SourceNat, where: str) -> tuple[SourceNat, _Problems]:
        public, problems = self.public_address(rule.public_address, f"{where}.public_address")
        sources = ipaddress.ip_network(rule.source_cidr)
        subnets = [ipaddress.ip_network(subnet.cidr) for leg in self.legs for subnet in leg.spec.subnets]
        field = f"{where}.source_cidr"
        if not any(
            sources.version == s.version
            and int(s.network_address) <= int(sources.network_address)
            and int(sources.broadcast_address) <= int(s.broadcast_address)
            for s in subnets
        ):
            text = f"{sources} lies in none of the router's networks: {', '.join(map(str, subnets))}"
            problems.append(FieldViolation(field, text, "CIDR_INVALID"))
        elif sources.version != _version(public):
            problems.append(FieldViolation(field, f"cannot leave as {public.address}: another family", "CIDR_INVALID"))
        return replace(rule, public_address=public.name), problems

    def _static_nat(self, rule: StaticNat, where: str) -> tuple[StaticNat, _Problems]:
        public, problems = self.public_address(rule.public_address, f"{where}.public_address")
        instance, more = self.instance(rule.instance, f"{where}.instance", _version(public))
        return StaticNat(public.name, instance), problems + more

    def _port_forward(self, rule: PortForward, where: str) -> tuple[PortForward, _Problems]:
        problems: _Problems = []
        version, name = 0, ""
        if rule.public_address:
            public, problems = self.public_address(rule.public_address, f"{where}.public_address")
            version, name = _version(public), public.name
        instance, more = self.instance(rule.instance, f"{where}.instance", version)
        problems += more + _other_family(rule.source_cidrs, version, f"{where}.source_cidrs")
        return replace(rule, public_address=name, instance=instance), problems

    def _firewall(self, rule: FirewallRule, where: str) -> tuple[FirewallRule, _Problems]:
        problems: _Problems = []
        names = {"from_network": rule.from_network, "to_network": rule.to_network}
        for key, name in names.items():
            if name:
                names[key], more = self.leg(name, f"{where}.{key}")
                problems += more
        if names["from_network"] and names["from_network"] == names["to_network"]:
            text = "is where it comes from; what stays in a network never meets the router"
            problems.append(FieldViolation(f"{where}.to_network", text, "NOT_ALLOWED"))
        return replace(rule, from_network=names["from_network"], to_network=names["to_network"]), problems


def users_of(view: View, public: PublicAddress) -> list[str]:
    """Full names of the rules and balancers that use a public address, in order."""
    rules = view.find(ROUTER_RULE, "public_address", public.name)
    balancers = view.find(BALANCER, "public_address", public.name)
    return sorted([*(found.value.name for found in rules), *(found.value.name for found in balancers)])


def routers_using(view: View, public: PublicAddress) -> list[str]:
    """Full names of the routers whose rules or balancers use it: at most one."""
    return sorted({name.rsplit("/", 2)[0] for name in users_of(view, public)})


def _version(public: PublicAddress) -> int:
    return ipaddress.ip_address(public.address).version


def _other_family(cidrs: Iterable[str], version: int, field: str) -> _Problems:
    if not version:
        return []
    return [
        FieldViolation(f"{field}[{index}]", f"{cidr} is not IPv{version}, and the address is", "CIDR_INVALID")
        for index, cidr in enumerate(cidrs)
        if ipaddress.ip_network(cidr).version != version
    ]

"""Networks: made, changed and deleted, with their VXLAN id and subnets."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from controlplane.access import policy as access_policy
from controlplane.access.quota import Quota, charge
from controlplane.domain.kinds import ADDRESS, BALANCER, GROUP_SLOT, INSTANCE, NETWORK, PROJECT, PUBLIC_ADDRESS, ROUTER
from controlplane.domain.names import check_id, check_labels
from controlplane.domain.networks import AddressLease, DhcpSpec, Network, NetworkKind, NetworkSpec
from controlplane.domain.routers import NAMES_PORT
from controlplane.history import record_event
from controlplane.networks import attachments
from controlplane.networks.subnets import check_spec, overlaps, with_defaults
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dns import forget_records
from controlplane.services.group_uses import groups_needing
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, Exhausted, FieldViolation, InvalidSpec, NotReady
from moorage.store.base import Transaction, View

_FIRST_VNI = 4096  # lower ones are left to whatever else uses VXLAN on the underlay
_LAST_VNI = (1 << 24) - 1


class NetworkService:
    """What callers can do with networks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        network_id: str,
        labels: Mapping[str, str],
        spec: NetworkSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> Network:
        """Make a network.

        Raises:
            InvalidSpec (SUBNET_INVALID, SUBNET_OVERLAPS and others), AlreadyExists, NotFound (project), QuotaExceeded.
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> Network:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.network(tx, project_id, names[0].rpartition("/")[2])
            project = lookup.project(tx, project_id)
            violations = check_id(network_id, "network_id") + check_labels(dict(labels), "network.labels")
            violations += check_spec(spec, "network.spec")
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/networks/{network_id}"
            if tx.get(NETWORK, f"{project_id}/{network_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            full = with_defaults(spec, uid, cidrs_of_project(tx, project_id))
            if full.kind is NetworkKind.SHARED:
                refused = access_policy.check(
                    attachments.host_access([full], "network.spec", by_field=True), project.policy
                )
                if refused:
                    raise InvalidSpec(refused)
                _check_segment(tx, full)
            vni = free_vni(tx, uid) if full.kind is NetworkKind.ISOLATED else 0
            network = Network(uid, project_id, network_id, self._context.clock.now(), full, vni, dict(labels))
            usage = charge(project.quota, project.usage, Quota(networks=1))
            if not validate_only:
                tx.put(PROJECT, replace(project, usage=usage))
                tx.put(NETWORK, network)
                record_event(tx, self._context.clock, network, "CREATED", _describe(full), project=project_id)
                if request_key:
                    lookup.remember(tx, request_key, body, (network.name,), self._context.clock.now())
            return network

        return await self._context.store.update(make)

    def get(self, project_id: str, network_id: str) -> Network:
        """One network. Raises NotFound."""
        return lookup.network(self._context.store.view(), project_id, network_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Network]:
        """A page of a project's networks; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            NETWORK,
            request,
            scope=f"networks of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda n, name: n.spec.kind.name if name == "kind" else label_field(n.labels, name),
            names=("kind",),
            admits=(lambda n: n.project in visible) if every and visible is not None else None,
        )

    async def update(
        self,
        project_id: str,
        network_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        egress: bool | None = None,
        dns: Mapping[str, object] | None = None,
        dhcp: DhcpSpec | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Network:
        """Change labels, egress, DHCP or dns (name of a field to its new value).

        Raises:
            NotFound, InvalidSpec (DOMAIN_INVALID, ADDRESS_TAKEN and others), VersionConflict, NotReady (NETWORK_IN_USE).
        """

        def change(tx: Transaction) -> Network:
            network = lookup.network(tx, project_id, network_id)
            lookup.check_etag(network, etag, network.name)
            spec = network.spec if egress is None else replace(network.spec, egress=egress)
            spec = replace(spec, dns=replace(spec.dns, **dict(dns or {})))  # type: ignore[arg-type]
            spec = spec if dhcp is None else replace(spec, dhcp=None if dhcp == DhcpSpec() else dhcp)
            new_labels = dict(network.labels if labels is None else labels)
            violations = check_labels(new_labels, "network.labels") + check_spec(spec, "network.spec")
            if violations:
                raise InvalidSpec(violations)
            if network.spec.egress and not spec.egress:
                _check_no_outside(tx, network)
            _check_hosts_free(tx, network, spec)
            _check_names_port_free(tx, network, spec)
            changed = replace(network, spec=spec, labels=new_labels, generation=network.generation + 1)
            if not validate_only:
                tx.put(NETWORK, changed)
            return changed

        return await self._context.store.update(change)

    async def delete(self, project_id: str, network_id: str, *, etag: str = "") -> None:
        """Delete a network without members. Raises NotFound, NotReady (NETWORK_IN_USE), VersionConflict."""

        def remove(tx: Transaction) -> None:
            network = lookup.network(tx, project_id, network_id)
            lookup.check_etag(network, etag, network.name)
            _check_unused(tx, network)
            members = tx.find(INSTANCE, "network", network.uid)
            if members:
                raise NotReady(
                    f"{network.name} has {len(members)} members, such as {members[0].value.name}; delete them first",
                    reason="NETWORK_IN_USE",
                    metadata={"members": str(len(members))},
                )
            groups = groups_needing(tx, project_id, lambda spec: any(nic.network == network.name for nic in spec.nics))
            if groups:
                raise NotReady(
                    f"members of {groups[0]} are made on {network.name}; change or delete the group first",
                    reason="NETWORK_IN_USE",
                    metadata={"groups": str(len(groups))},
                )
            leaving = tx.find(ADDRESS, "network", network.uid)
            if leaving:
                raise NotReady(
                    f"{len(leaving)} addresses of {network.name}, such as {leaving[0].value.address}, were taken off interfaces, and "
                    "their hosts have not said yet that they are gone; try again",
                    reason="NETWORK_IN_USE",
                    metadata={"leaving": str(len(leaving))},
                )
            project = lookup.project(tx, project_id)
            tx.put(PROJECT, replace(project, usage=project.usage - Quota(networks=1)))
            forget_records(tx, network)
            tx.delete(NETWORK, NETWORK.key(network))
            record_event(tx, self._context.clock, network, "DELETED", "asked for", project=project_id)

        await self._context.store.update(remove)

    def addresses(self, project_id: str, network_id: str, request: PageRequest) -> Page[AddressLease]:
        """A page of the addresses that are given out. Raises NotFound."""
        network = self.get(project_id, network_id)
        return list_page(
            self._context.store.view(),
            ADDRESS,
            request,
            scope=f"addresses of {network.uid}",
            prefix=f"{network.uid}/",
        )

    def router_before(self, network: Network) -> str:
        """Name of the router that the network is behind; empty: none."""
        found = self._context.store.view().find(ROUTER, "network", network.uid)
        return found[0].value.name if found else ""

    def hosts_and_addresses(self, network: Network) -> tuple[tuple[str, ...], int]:
        """(names of the hosts that have a member, number of addresses given out)."""
        view = self._context.store.view()
        members = view.find(INSTANCE, "network", network.uid)
        hosts = sorted({f"hosts/{m.value.host}" for m in members if m.value.host})
        return tuple(hosts), sum(
            len(n.addresses) for m in members for n in m.value.nics if n.network_uid == network.uid
        )


def cidrs_of_project(view: View, project_id: str) -> list[str]:
    """Every subnet of the project's networks."""
    found = view.range(NETWORK, "", 1_000_000, f"{project_id}/")
    return [subnet.cidr for item in found for subnet in item.value.spec.subnets]


def free_vni(view: View, network_uid: str) -> int:
    """A VXLAN id that no network has. The search begins at a hash, so that a used id is not used again soon.

    Raises:
        Exhausted: all are taken.
    """
    size = _LAST_VNI - _FIRST_VNI + 1
    start = int.from_bytes(hashlib.sha256(network_uid.encode()).digest()[:4]) % size
    for step in range(size):
        vni = _FIRST_VNI + (start + step) % size
        if not view.find(NETWORK, "vni", str(vni)):
            return vni
    raise Exhausted("no VXLAN id is left", reason="VNIS_EXHAUSTED")


def _check_segment(view: View, spec: NetworkSpec) -> None:
    """Two networks on one segment would hand out the same addresses if their subnets overlapped; and a NIC can carry only so much."""
    for found in view.all(NETWORK):
        other = found.value
        if other.spec.kind is not NetworkKind.SHARED:
            continue
        clash = attachments.clash(spec, other.spec)
        if clash:
            raise InvalidSpec.of("network.spec.parent", f"{other.name} {clash}", "PARENT_IN_USE")
        if attachments.segment(other.spec) == attachments.segment(spec):
            cidr = overlaps([s.cidr for s in spec.subnets], [s.cidr for s in other.spec.subnets])
            if cidr is not None:
                raise InvalidSpec.of(
                    "network.spec.subnets",
                    f"{cidr} overlaps a subnet of {other.name} on the same bridge or NIC; split it by ranges in one network",
                    "SUBNET_OVERLAPS",
                )


def _check_unused(view: View, network: Network) -> None:
    """Raises NotReady (NETWORK_IN_USE): a router stands on it, or a public address or one that a group keeps is of it."""
    for index, words in (("network", "is behind"), ("outside", "is the outside of")):
        routers = view.find(ROUTER, index, network.uid)
        if routers:
            name = routers[0].value.name
            raise NotReady(
                f"{network.name} {words} {name}; delete that, or take the network from it",
                reason="NETWORK_IN_USE",
                metadata={"router": name},
            )
    slots = view.find(GROUP_SLOT, "network", network.uid)
    if slots:
        raise NotReady(
            f"{network.name} has addresses that are kept for {len(slots)} slots of groups; delete or scale down the groups",
            reason="NETWORK_IN_USE",
            metadata={"slots": str(len(slots))},
        )
    publics = view.find(PUBLIC_ADDRESS, "network", network.uid)
    if publics:
        name = publics[0].value.name
        raise NotReady(
            f"{network.name} has {len(publics)} public addresses, such as {name}; release them first",
            reason="NETWORK_IN_USE",
            metadata={"public_address": name},
        )


def _check_hosts_free(view: View, network: Network, spec: NetworkSpec) -> None:
    """Raises InvalidSpec: DHCP would newly give a machine the address that an instance has."""
    before = set() if network.spec.dhcp is None else {host.address for host in network.spec.dhcp.hosts}
    violations = [
        FieldViolation(f"network.spec.dhcp.hosts[{index}].address", f"{host.address} is taken", "ADDRESS_TAKEN")
        for index, host in enumerate(() if spec.dhcp is None else spec.dhcp.hosts)
        if host.address not in before and view.get(ADDRESS, f"{network.uid}/{host.address}") is not None
    ]
    if violations:
        raise InvalidSpec(violations)


def _check_names_port_free(view: View, network: Network, spec: NetworkSpec) -> None:
    """Raises InvalidSpec (RULE_CLASH): with DHCP its router would answer for names where a balancer of it listens."""
    if spec.dhcp is None or not spec.dhcp.enabled:
        return
    for router in view.find(ROUTER, "network", network.uid):
        for balancer in view.find(BALANCER, "router", router.value.uid):
            for listener in balancer.value.spec.listeners:
                if (listener.inside_network, listener.port) == (network.name, NAMES_PORT):
                    problem = (
                        f"its router would answer for names on tcp {NAMES_PORT}, where {balancer.value.name} listens"
                    )
                    raise InvalidSpec.of("network.spec.dhcp", problem, "RULE_CLASH")


def _check_no_outside(view: View, network: Network) -> None:
    """Raises NotReady (NETWORK_IN_USE): a router leaves by this network."""
    routers = view.find(ROUTER, "outside", network.uid)
    if routers:
        name = routers[0].value.name
        raise NotReady(
            f"{network.name} is the outside of {name}, which leaves by its egress",
            reason="NETWORK_IN_USE",
            metadata={"router": name},
        )


def _describe(spec: NetworkSpec) -> str:
    return f"{spec.kind.name.lower()}, {', '.join(s.cidr for s in spec.subnets)}"

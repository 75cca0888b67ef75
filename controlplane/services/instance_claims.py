"""What an instance holds: its networks and addresses, and its share of the project's quota. Written in the caller's transaction.

A lease is made in the transaction that names its address in an instance, and ends in one of two: the one that forgets the instance
(`release`), or the one that records that its host has taken the address off (`give_back`). In between it may be leaving: no instance
names it, and nobody else gets it, because the host may still use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from controlplane.access.quota import Quota, charge
from controlplane.domain.instances import Instance, InstanceNic, InstanceSpec, Nic
from controlplane.domain.kinds import ADDRESS, INSTANCE, NETWORK, PROJECT
from controlplane.domain.names import parse_child
from controlplane.domain.networks import AddressLease, Network, NetworkKind, NetworkSpec
from controlplane.domain.projects import Project
from controlplane.networks.leases import Cursors, Taken, assign_nics
from controlplane.networks.subnets import with_defaults
from controlplane.services import group_slots, lookup
from controlplane.services.context import Context
from controlplane.services.networks import cidrs_of_project, free_vni
from controlplane.services.security_groups import grouped, with_full_names
from controlplane.services.usage import settle
from moorage.errors import InvalidSpec, NotFound
from moorage.store.base import Transaction

DEFAULT_NETWORK = "default"


class InstanceClaims:
    """Gives networks and addresses to instances; remembers where it found the last free address of each subnet."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cursors = Cursors()

    def networks(
        self, tx: Transaction, project: Project, spec: InstanceSpec, where: str
    ) -> tuple[dict[str, Network], tuple[Nic, ...]]:
        """The networks of the nics by name, and the nics with full names; the default network is made when first needed."""
        nics = spec.nics
        if not nics and not spec.no_network:
            nics = (Nic(f"projects/{project.id}/networks/{DEFAULT_NETWORK}"),)
        networks: dict[str, Network] = {}
        full: list[Nic] = []
        for index, nic in enumerate(nics):
            field_name = f"{where}.nics[{index}].network"
            network_id = nic.network
            if "/" in network_id:
                owner, network_id = parse_child(network_id, "networks", field_name)
                if owner != project.id:
                    raise InvalidSpec.of(field_name, f"is not in projects/{project.id}", "OTHER_PROJECT")
            found = tx.get(NETWORK, f"{project.id}/{network_id}")
            if found is not None:
                network = found.value
            elif network_id == DEFAULT_NETWORK:
                network = self._make_default_network(tx, project)
            else:
                name = f"projects/{project.id}/networks/{network_id}"
                raise NotFound(f"{name} does not exist ({field_name})", metadata={"name": name, "field": field_name})
            networks[network.name] = network
            named = with_full_names(tx, project.id, nic, f"{where}.nics[{index}]")
            full.append(replace(named, network=network.name))
        return networks, tuple(full)

    def _make_default_network(self, tx: Transaction, project: Project) -> Network:
        uid = self._context.new_id()
        # Like Docker's default bridge, it reaches the outside; networks that people make do so on request.
        spec = with_defaults(NetworkSpec(NetworkKind.ISOLATED, egress=True), uid, cidrs_of_project(tx, project.id))
        network = Network(uid, project.id, DEFAULT_NETWORK, self._context.clock.now(), spec, free_vni(tx, uid))
        charge_project(tx, project.id, Quota(networks=1))
        tx.put(NETWORK, network)
        return network

    def lease(
        self,
        tx: Transaction,
        owner_uid: str,
        nics: tuple[Nic, ...],
        networks: Mapping[str, Network],
        where: str,
        behind: frozenset[str] = frozenset(),
        keep: Sequence[InstanceNic] = (),
    ) -> tuple[InstanceNic, ...]:
        """Choose the addresses of a new instance and write their leases.

        Args:
            behind: uids of the networks that it is the router of.
            keep: interfaces of the one before it in its slot, whose addresses it gets where they fit.
        """
        before = {nic.interface: nic for nic in keep}
        leased = assign_nics(nics, networks, _taken(tx, owner_uid), self._cursors, where, before, behind)
        leased = grouped(tx, nics, leased)
        self._write(tx, owner_uid, leased)
        return leased

    def change(
        self, tx: Transaction, before: Instance, nics: tuple[Nic, ...], networks: Mapping[str, Network], where: str
    ) -> tuple[InstanceNic, ...]:
        """Choose the addresses of an instance that has some: they stay where they fit; others leave, from its next generation on."""
        keep = {nic.interface: nic for nic in before.nics}
        behind = frozenset(nic.network_uid for nic in before.nics if nic.forwards)
        leased = assign_nics(nics, networks, _taken(tx, before.uid), self._cursors, where, keep, behind)
        leased = grouped(tx, nics, leased)
        lent = {nic.network_uid: (nic.lent_addresses, nic.lent_revision) for nic in before.nics}
        leased = tuple(
            replace(nic, lent_addresses=addresses, lent_revision=revision)
            for nic in leased
            for addresses, revision in [lent.get(nic.network_uid, ((), 0))]
        )
        wanted = {(nic.network_uid, address.split("/")[0]) for nic in leased for address in nic.addresses}
        for found in tx.find(ADDRESS, "owner", before.uid):
            lease = found.value
            if (lease.network_uid, lease.address) in wanted:
                continue
            if not before.host_uid:
                tx.delete(ADDRESS, ADDRESS.key(lease))
            elif not lease.leaving_since:
                tx.put(ADDRESS, replace(lease, leaving_since=before.generation + 1))
        self._write(tx, before.uid, leased)
        return leased

    def _write(self, tx: Transaction, owner_uid: str, leased: tuple[InstanceNic, ...]) -> None:
        for nic in leased:
            for address in nic.addresses:
                bare = address.split("/")[0]
                known = tx.get(ADDRESS, f"{nic.network_uid}/{bare}")
                since = known.value.create_time if known is not None else self._context.clock.now()
                tx.put(ADDRESS, AddressLease(nic.network_uid, bare, owner_uid, nic.interface, nic.mac, since))


def _taken(tx: Transaction, owner_uid: str) -> Taken:
    def has_address(network_uid: str, address: str) -> bool:
        lease = tx.get(ADDRESS, f"{network_uid}/{address}")
        return lease is not None and lease.value.owner_uid != owner_uid

    def has_mac(network_uid: str, mac: str) -> bool:
        return any(lease.value.owner_uid != owner_uid for lease in tx.find(ADDRESS, "mac", f"{network_uid}/{mac}"))

    return Taken(has_address, has_mac, owner_uid)


def usage_of(instance: Instance) -> Quota:
    """What an instance costs its project."""
    resources = instance.effective.resources
    return Quota(
        instances=1,
        cpu_millis=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        addresses=sum(len(nic.addresses) for nic in instance.nics),
    )


def release(tx: Transaction, instance: Instance, now: datetime) -> None:
    """Forget an instance that has no container any more: its leases and its share of the quota go with it, but for addresses that stay
    with its slot.
    """
    group_slots.keep_addresses(tx, instance)
    for lease in tx.find(ADDRESS, "owner", instance.uid):
        tx.delete(ADDRESS, ADDRESS.key(lease.value))
    found = tx.get(PROJECT, instance.project)
    if found is not None:
        tx.put(PROJECT, replace(found.value, usage=found.value.usage - usage_of(instance)))
    settle(tx, instance, now)
    tx.delete(INSTANCE, INSTANCE.key(instance))


def give_back(tx: Transaction, instance: Instance, generation: int) -> None:
    """The host has the interfaces of this generation and no others: what left them by then is free."""
    for found in tx.find(ADDRESS, "owner", instance.uid):
        if 0 < found.value.leaving_since <= generation:
            tx.delete(ADDRESS, ADDRESS.key(found.value))


def charge_project(tx: Transaction, project_id: str, amount: Quota) -> None:
    """Add to what the project uses. Raises QuotaExceeded."""
    project = lookup.project(tx, project_id)
    tx.put(PROJECT, replace(project, usage=charge(project.quota, project.usage, amount)))


def recharge_project(tx: Transaction, before: Instance, after: Instance) -> None:
    """Charge what the instance becomes instead of what it was. Raises QuotaExceeded."""
    project = lookup.project(tx, before.project)
    given_back = project.usage - usage_of(before)
    tx.put(PROJECT, replace(project, usage=charge(project.quota, given_back, usage_of(after))))

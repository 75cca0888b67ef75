"""Public addresses: taken from the pool of an outside network, used by rules and balancers of one router, given back.

Invariant: a public address is the owner of the lease of its address, from the transaction that makes it to the one that deletes it.
"""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.access.quota import Quota, charge
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import ADDRESS, INSTANCE, PROJECT, PUBLIC_ADDRESS, ROUTER
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.networks import AddressLease, Network, NetworkKind
from controlplane.domain.routers import PublicAddress, PublicAddressSpec
from controlplane.history import record_event
from controlplane.networks.leases import Cursors
from controlplane.networks.subnets import canonical, check_wanted, free_address, parse_address, subnet_of
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.rule_targets import routers_using, users_of
from controlplane.services.usage import settle
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, NotReady
from moorage.store.base import Transaction, View


class PublicAddressService:
    """What callers can do with public addresses."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cursors = Cursors()

    async def create(
        self,
        project_id: str,
        address_id: str,
        labels: Mapping[str, str],
        spec: PublicAddressSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> PublicAddress:
        """Take an address.

        Raises:
            InvalidSpec (OUTSIDE_UNSUITABLE, ADDRESS_TAKEN and others), AlreadyExists, NotFound (network), QuotaExceeded,
            Exhausted (ADDRESSES_EXHAUSTED).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> PublicAddress:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.public_address(tx, *parse_child(names[0], "publicAddresses"))
            project = lookup.project(tx, project_id)
            violations = check_id(address_id, "address_id") + check_labels(dict(labels), "public_address.labels")
            if not spec.network:
                violations.append(FieldViolation("public_address.spec.network", "is required", "REQUIRED"))
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/publicAddresses/{address_id}"
            if tx.get(PUBLIC_ADDRESS, f"{project_id}/{address_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            network = lookup.network_of(tx, project_id, spec.network, "public_address.spec.network")
            _check_outside(tx, network)
            now = self._context.clock.now()
            address = self._choose(tx, network, spec)
            full = replace(spec, network=network.name)
            made = PublicAddress(uid, project_id, address_id, now, full, network.uid, address, dict(labels))
            tx.put(PROJECT, replace(project, usage=charge(project.quota, project.usage, Quota(addresses=1))))
            tx.put(ADDRESS, AddressLease(network.uid, address, uid, "", "", now))
            tx.put(PUBLIC_ADDRESS, made)
            record_event(tx, self._context.clock, made, "CREATED", f"{address} of {network.id}", project=project_id)
            if request_key:
                lookup.remember(tx, request_key, body, (made.name,), now)
            return made

        return await commit(self._context.store, make, validate_only=validate_only)

    def _choose(self, tx: Transaction, network: Network, spec: PublicAddressSpec) -> str:
        if spec.address:
            return _wanted(tx, network, spec.address)
        version = 6 if spec.ipv6 else 4
        subnet = next((s for s in network.spec.subnets if (6 if ":" in s.cidr else 4) == version), None)
        if subnet is None:
            text = f"{network.name} has no IPv{version} subnet"
            raise InvalidSpec.of("public_address.spec.ipv6", text, "ADDRESS_OUTSIDE_SUBNET")
        key = f"{network.uid}/{subnet.cidr}"
        address = free_address(subnet, lambda a: _is_taken(tx, network, a), self._cursors.after.get(key, ""))
        self._cursors.after[key] = address
        return address

    def get(self, project_id: str, address_id: str) -> PublicAddress:
        """One public address. Raises NotFound."""
        return lookup.public_address(self._context.store.view(), project_id, address_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[PublicAddress]:
        """A page of a project's public addresses; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            PUBLIC_ADDRESS,
            request,
            scope=f"public addresses of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda a, name: label_field(a.labels, name),
            admits=(lambda a: a.project in visible) if every and visible is not None else None,
        )

    def used_by(self, public: PublicAddress) -> tuple[str, tuple[str, ...]]:
        """(router that uses it, or empty; the rules and balancers that do)."""
        view = self._context.store.view()
        return next(iter(routers_using(view, public)), ""), tuple(users_of(view, public))

    async def update(
        self,
        project_id: str,
        address_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> PublicAddress:
        """Change labels. Raises NotFound, InvalidSpec, VersionConflict."""

        def change(tx: Transaction) -> PublicAddress:
            public = lookup.public_address(tx, project_id, address_id)
            lookup.check_etag(public, etag, public.name)
            new_labels = dict(public.labels if labels is None else labels)
            violations = check_labels(new_labels, "public_address.labels")
            if violations:
                raise InvalidSpec(violations)
            changed = replace(public, labels=new_labels, generation=public.generation + 1)
            tx.put(PUBLIC_ADDRESS, changed)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, address_id: str, *, etag: str = "") -> None:
        """Give it back. Raises NotFound, VersionConflict, NotReady (PUBLIC_ADDRESS_IN_USE)."""

        def remove(tx: Transaction) -> None:
            public = lookup.public_address(tx, project_id, address_id)
            lookup.check_etag(public, etag, public.name)
            users = users_of(tx, public)
            if users:
                raise NotReady(
                    f"{public.name} is used by {len(users)}, such as {users[0]}; delete them first",
                    reason="PUBLIC_ADDRESS_IN_USE",
                    metadata={"name": public.name, "user": users[0]},
                )
            holder = _holder(tx, public)
            if holder is not None:
                raise NotReady(
                    f"{public.address} may still be on {holder.name}, whose host has not said that it is off; try again in a moment",
                    reason="PUBLIC_ADDRESS_IN_USE",
                    metadata={"name": public.name, "user": holder.name},
                )
            project = lookup.project(tx, project_id)
            tx.put(PROJECT, replace(project, usage=project.usage - Quota(addresses=1)))
            tx.delete(ADDRESS, f"{public.network_uid}/{public.address}")
            settle(tx, public, self._context.clock.now())
            tx.delete(PUBLIC_ADDRESS, PUBLIC_ADDRESS.key(public))
            record_event(tx, self._context.clock, public, "DELETED", "asked for", project=project_id)

        await self._context.store.update(remove)


def _holder(view: View, public: PublicAddress) -> Instance | None:
    """A router's container that has the address, or may have it because its host has not told of a later set of addresses."""
    for router in view.find(ROUTER, "outside", public.network_uid):
        for found in view.find(INSTANCE, "owner", router.value.name):
            member = found.value
            lent = {a.partition("/")[0] for nic in member.nics for a in nic.lent_addresses}
            is_unsure = bool(member.host_uid) and member.observed.network_generation < member.nics_generation
            if public.address in lent or is_unsure:
                return member
    return None


def _check_outside(view: View, network: Network) -> None:
    """Raises InvalidSpec (OUTSIDE_UNSUITABLE)."""
    if network.spec.kind is NetworkKind.SHARED or view.find(ROUTER, "outside", network.uid):
        return
    raise InvalidSpec.of(
        "public_address.spec.network",
        f"{network.name} is neither shared nor the outside of a router; make the router first",
        "OUTSIDE_UNSUITABLE",
    )


def _wanted(view: View, network: Network, text: str) -> str:
    """Raises InvalidSpec: ADDRESS_INVALID, ADDRESS_OUTSIDE_SUBNET, ADDRESS_RESERVED, ADDRESS_TAKEN."""
    field = "public_address.spec.address"
    if parse_address(text) is None:
        raise InvalidSpec.of(field, f"{text!r} is no address (give it without /prefix)", "ADDRESS_INVALID")
    address = canonical(text)
    subnet = subnet_of(address, network.spec.subnets)
    if subnet is None:
        cidrs = ", ".join(s.cidr for s in network.spec.subnets)
        raise InvalidSpec.of(field, f"{address} is outside {cidrs}", "ADDRESS_OUTSIDE_SUBNET")
    problem = check_wanted(address, subnet)
    if problem is not None:
        raise InvalidSpec.of(field, f"{address} {problem}", "ADDRESS_RESERVED")
    if _is_taken(view, network, address):
        raise InvalidSpec.of(field, f"{address} is taken", "ADDRESS_TAKEN")
    return address


def _is_taken(view: View, network: Network, address: str) -> bool:
    return view.get(ADDRESS, f"{network.uid}/{address}") is not None

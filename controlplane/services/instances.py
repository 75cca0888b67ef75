"""Instances: admitted, changed and released, each in one transaction with its addresses, its share of the quota and its event."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from controlplane.access import policy as access_policy
from controlplane.access.quota import Quota, charge
from controlplane.domain.containers import ContainerDefaults
from controlplane.domain.instances import (
    DesiredState,
    Instance,
    InstanceNic,
    InstanceSpec,
    InstanceState,
    Nic,
    Observed,
)
from controlplane.domain.kinds import ADDRESS, HOST, INSTANCE, NETWORK, PROJECT, TEMPLATE
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.networks import AddressLease, Network, NetworkKind, NetworkSpec
from controlplane.domain.projects import Project
from controlplane.domain.templates import Template, TemplateState
from controlplane.history import record_event
from controlplane.networks.leases import Cursors, Taken, assign_nics
from controlplane.networks.subnets import with_defaults
from controlplane.scheduler.explain import explain, refusal_on
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.effective import effective_spec
from controlplane.services.instance_rules import check_spec, host_access
from controlplane.services.networks import cidrs_of_project, free_vni
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, NotFound, NotReady
from moorage.store.base import Transaction, View

T = TypeVar("T")

DEFAULT_NETWORK = "default"
LARGEST_BATCH = 1000

#: Fields that the host can change while the instance runs; all others need a new container.
IN_PLACE = frozenset({"resources", "restart", "published_ports", "extra_hosts"})


@dataclass(frozen=True, slots=True)
class NewInstance:
    """What one create asks for. `field` is the path of the instance in the request, for errors."""

    instance_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: InstanceSpec = InstanceSpec()
    field: str = "instance"


class _DryRun(Exception):
    """Takes the result of a transaction out of it without keeping what it wrote."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result


class InstanceService:
    """What callers can do with instances."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cursors = Cursors()

    async def create(
        self,
        project_id: str,
        wanted: Sequence[NewInstance],
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> list[Instance]:
        """Admit all or none of them.

        Args:
            request_key: user, method and request id; a known one answers with what it made. Empty: no memory.
            body: the request, to tell a retry from another request under the same id.
            validate_only: change nothing; the result holds an explanation of where each would go.
        Raises:
            InvalidSpec, NotFound (project, template, network), AlreadyExists, NotReady (TEMPLATE_NOT_READY),
            QuotaExceeded, Exhausted (ADDRESSES_EXHAUSTED).
        """
        if len(wanted) > LARGEST_BATCH:
            raise InvalidSpec.of("requests", f"at most {LARGEST_BATCH} at a time", "OUT_OF_RANGE")

        def admit(tx: Transaction) -> list[Instance]:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return [_by_name(tx, name) for name in names]
            made = self._admit(tx, project_id, wanted)
            if validate_only:
                raise _DryRun(explain(tx, made, self._context.clock.now()))
            if request_key:
                lookup.remember(tx, request_key, body, tuple(i.name for i in made), self._context.clock.now())
            return made

        try:
            return await self._context.store.update(admit)
        except _DryRun as dry:
            assert isinstance(dry.result, list)
            return dry.result

    def _admit(self, tx: Transaction, project_id: str, wanted: Sequence[NewInstance]) -> list[Instance]:
        project = lookup.project(tx, project_id)
        violations: list[FieldViolation] = []
        for item in wanted:
            where = item.field
            if item.instance_id:
                violations += check_id(item.instance_id, f"{where.rpartition('instance')[0]}instance_id")
            violations += check_labels(dict(item.labels), f"{where}.labels")
            violations += check_spec(item.spec, f"{where}.spec")
        if violations:
            raise InvalidSpec(violations)
        return [self._admit_one(tx, project, item) for item in wanted]

    def _admit_one(self, tx: Transaction, project: Project, item: NewInstance) -> Instance:
        now = self._context.clock.now()
        uid = self._context.new_id()
        template = _ready_template(tx, project.id, item.spec.template, f"{item.field}.spec.template")
        instance_id = item.instance_id or f"{template.id[:50]}-{uid[:6]}"
        if tx.get(INSTANCE, f"{project.id}/{instance_id}") is not None:
            name = f"projects/{project.id}/instances/{instance_id}"
            raise AlreadyExists(f"{name} exists; choose another name or delete it", metadata={"name": name})
        spec = replace(item.spec, template=template.name)
        networks, nics = self._networks(tx, project, spec, f"{item.field}.spec")
        _check_policy(spec, project, networks, f"{item.field}.spec")
        leased = self._lease(tx, uid, nics, networks, f"{item.field}.spec.nics", {})
        effective = effective_spec(replace(spec, nics=nics), template.defaults, instance_id)
        instance = Instance(
            uid=uid,
            project=project.id,
            id=instance_id,
            create_time=now,
            spec=spec,
            effective=effective,
            template_uid=template.uid,
            image=f"{template.repository}@{template.status.digest}",
            platforms=template.status.platforms,
            nics=leased,
            labels=dict(item.labels),
            observed=Observed(InstanceState.PENDING, "", "waits for a host"),
        )
        _charge(tx, project.id, usage_of(instance))
        tx.put(INSTANCE, instance)
        record_event(tx, self._context.clock, instance, "CREATED", f"from {template.name}", project=project.id)
        return instance

    def _networks(
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
            full.append(replace(nic, network=network.name))
        return networks, tuple(full)

    def _make_default_network(self, tx: Transaction, project: Project) -> Network:
        uid = self._context.new_id()
        # Like Docker's default bridge, it reaches the outside; networks that people make do so on request.
        spec = with_defaults(NetworkSpec(NetworkKind.ISOLATED, egress=True), uid, cidrs_of_project(tx, project.id))
        network = Network(uid, project.id, DEFAULT_NETWORK, self._context.clock.now(), spec, free_vni(tx, uid))
        _charge(tx, project.id, Quota(networks=1))
        tx.put(NETWORK, network)
        return network

    def _lease(
        self,
        tx: Transaction,
        owner_uid: str,
        nics: tuple[Nic, ...],
        networks: Mapping[str, Network],
        where: str,
        keep: Mapping[str, InstanceNic],
    ) -> tuple[InstanceNic, ...]:
        """Choose the addresses and write their leases."""

        def owner_of(network_uid: str, address: str) -> str | None:
            lease = tx.get(ADDRESS, f"{network_uid}/{address}")
            return lease.value.owner_uid if lease is not None else None

        def has_mac(network_uid: str, mac: str) -> bool:
            return bool(tx.find(ADDRESS, "mac", f"{network_uid}/{mac}"))

        leased = assign_nics(nics, networks, Taken(owner_of, has_mac), self._cursors, where, keep)
        now = self._context.clock.now()
        for nic in leased:
            for address in nic.addresses:
                bare = address.split("/")[0]
                tx.put(ADDRESS, AddressLease(nic.network_uid, bare, owner_uid, nic.interface, nic.mac, now))
        return leased

    def get(self, project_id: str, instance_id: str) -> Instance:
        """One instance. Raises NotFound."""
        return lookup.instance(self._context.store.view(), project_id, instance_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[Instance]:
        """A page of a project's instances; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        if not every:
            lookup.project(self._context.store.view(), project_id)
        return list_page(
            self._context.store.view(),
            INSTANCE,
            request,
            scope=f"instances of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=_filter_field,
            names=("state", "host", "template", "desired_state", "reason"),
            admits=(lambda i: i.project in visible) if every and visible is not None else None,
        )

    async def delete(
        self, project_id: str, instance_ids: Sequence[str], *, etag: str = "", force: bool = False
    ) -> None:
        """Ask for the removal of all or none. Addresses are free once the host says that the container is gone.

        Raises:
            NotFound, VersionConflict, InvalidSpec (more than LARGEST_BATCH).
        """
        if len(instance_ids) > LARGEST_BATCH:
            raise InvalidSpec.of("names", f"at most {LARGEST_BATCH} at a time", "OUT_OF_RANGE")

        def ask(tx: Transaction) -> None:
            for instance_id in dict.fromkeys(instance_ids):
                instance = lookup.instance(tx, project_id, instance_id)
                lookup.check_etag(instance, etag, instance.name)
                if not instance.host_uid:
                    release(tx, instance)
                    record_event(
                        tx, self._context.clock, instance, "DELETED", "before it had a host", project=project_id
                    )
                elif instance.desired is not DesiredState.DELETED or (force and not instance.force):
                    changed = replace(
                        instance, desired=DesiredState.DELETED, force=force, generation=instance.generation + 1
                    )
                    tx.put(INSTANCE, changed)
                    record_event(tx, self._context.clock, instance, "DELETING", "asked for", project=project_id)

        await self._context.store.update(ask)

    async def start(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Start a stopped or failed instance; one that runs is left alone. Raises NotFound, NotReady, VersionConflict."""

        def change(instance: Instance) -> Instance:
            if instance.desired is DesiredState.PAUSED:
                raise NotReady(f"{instance.name} is paused; unpause it", reason="INSTANCE_PAUSED")
            runs = instance.desired is DesiredState.RUNNING and instance.observed.state < InstanceState.STOPPING
            if runs:
                return instance
            return replace(instance, desired=DesiredState.RUNNING, run_request=instance.run_request + 1)

        return await self._change(project_id, instance_id, etag, "START", change)

    async def stop(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Stop the process and keep the container. Raises NotFound, NotReady, VersionConflict."""
        return await self._change(
            project_id, instance_id, etag, "STOP", lambda i: replace(i, desired=DesiredState.STOPPED)
        )

    async def reboot(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Stop and start: same container, files and addresses. Raises NotFound, NotReady, VersionConflict."""
        return await self._change(
            project_id,
            instance_id,
            etag,
            "REBOOT",
            lambda i: replace(i, desired=DesiredState.RUNNING, run_request=i.run_request + 1),
        )

    async def pause(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Freeze the processes. Raises NotReady unless it runs; NotFound, VersionConflict."""

        def change(instance: Instance) -> Instance:
            if instance.desired is DesiredState.PAUSED:
                return instance
            if instance.observed.state is not InstanceState.RUNNING:
                raise NotReady(
                    f"{instance.name} is {instance.observed.state.name}; only a running instance can be paused",
                    reason="INSTANCE_NOT_RUNNING",
                )
            return replace(instance, desired=DesiredState.PAUSED)

        return await self._change(project_id, instance_id, etag, "PAUSE", change)

    async def unpause(self, project_id: str, instance_id: str, etag: str = "") -> Instance:
        """Thaw the processes. Raises NotReady unless it is paused; NotFound, VersionConflict."""

        def change(instance: Instance) -> Instance:
            if instance.desired is not DesiredState.PAUSED:
                raise NotReady(f"{instance.name} is not paused", reason="INSTANCE_NOT_PAUSED")
            return replace(instance, desired=DesiredState.RUNNING)

        return await self._change(project_id, instance_id, etag, "UNPAUSE", change)

    async def update(
        self,
        project_id: str,
        instance_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        spec_fields: Mapping[str, object] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Instance:
        """Change what can be changed in place.

        Args:
            labels: all labels anew; None leaves them.
            spec_fields: name of a field of the spec to its new value.
        Raises:
            NotReady: NEEDS_REPLACE, metadata `fields` names those that need a new container. NotFound, InvalidSpec, QuotaExceeded.
        """
        changes = dict(spec_fields or {})
        refused = sorted(set(changes) - IN_PLACE)

        def change(tx: Transaction) -> Instance:
            instance = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            _refuse_deleted(instance)
            if refused:
                raise NotReady(
                    f"{', '.join(refused)} cannot be changed while the container lives; use `moor instance replace`",
                    reason="NEEDS_REPLACE",
                    metadata={"fields": ",".join(refused)},
                )
            spec = replace(instance.spec, **changes)  # type: ignore[arg-type]
            new_labels = dict(instance.labels if labels is None else labels)
            violations = check_spec(spec, "instance.spec") + check_labels(new_labels, "instance.labels")
            if violations:
                raise InvalidSpec(violations)
            template = lookup.by_uid(tx, TEMPLATE, instance.template_uid)
            defaults = template.defaults if template is not None else ContainerDefaults()
            whole = effective_spec(spec, defaults, instance.id)
            # The template's defaults may have changed since; an instance keeps the ones that it was made with.
            effective = replace(instance.effective, **{name: getattr(whole, name) for name in changes})
            changed = replace(
                instance, spec=spec, effective=effective, labels=new_labels, generation=instance.generation + 1
            )
            _check_still_fits(tx, instance, changed)
            _recharge(tx, instance, changed)
            if validate_only:
                raise _DryRun(changed)
            tx.put(INSTANCE, changed)
            return changed

        try:
            return await self._context.store.update(change)
        except _DryRun as dry:
            assert isinstance(dry.result, Instance)
            return dry.result

    async def replace(
        self,
        project_id: str,
        instance_id: str,
        *,
        spec: InstanceSpec | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Instance:
        """A new container in the same place, with the template's newest digest. Addresses are kept where the networks are the same.

        Raises:
            NotFound, InvalidSpec, NotReady (TEMPLATE_NOT_READY, DOES_NOT_FIT), QuotaExceeded, VersionConflict.
        """

        def change(tx: Transaction) -> Instance:
            instance = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            _refuse_deleted(instance)
            project = lookup.project(tx, project_id)
            wanted = instance.spec if spec is None else spec
            violations = check_spec(wanted, "spec")
            if violations:
                raise InvalidSpec(violations)
            template = _ready_template(tx, project_id, wanted.template, "spec.template")
            networks, nics = self._networks(tx, project, wanted, "spec")
            _check_policy(wanted, project, networks, "spec")
            keep = {nic.interface: nic for nic in instance.nics}
            for lease in tx.find(ADDRESS, "owner", instance.uid):
                tx.delete(ADDRESS, ADDRESS.key(lease.value))
            leased = self._lease(tx, instance.uid, nics, networks, "spec.nics", keep)
            changed = replace(
                instance,
                spec=replace(wanted, template=template.name),
                effective=effective_spec(replace(wanted, nics=nics), template.defaults, instance.id),
                template_uid=template.uid,
                image=f"{template.repository}@{template.status.digest}",
                platforms=template.status.platforms,
                nics=leased,
                desired=DesiredState.RUNNING,
                generation=instance.generation + 1,
                run_request=instance.run_request + 1,
                container_generation=instance.container_generation + 1,
            )
            _check_still_fits(tx, instance, changed)
            _recharge(tx, instance, changed)
            if validate_only:
                raise _DryRun(changed)
            tx.put(INSTANCE, changed)
            record_event(tx, self._context.clock, changed, "REPLACING", "asked for", project=project_id)
            return changed

        try:
            return await self._context.store.update(change)
        except _DryRun as dry:
            assert isinstance(dry.result, Instance)
            return dry.result

    async def _change(
        self, project_id: str, instance_id: str, etag: str, verb: str, change: Callable[[Instance], Instance]
    ) -> Instance:
        def apply(tx: Transaction) -> Instance:
            instance = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            _refuse_deleted(instance)
            changed = change(instance)
            if changed == instance:
                return instance
            changed = replace(changed, generation=instance.generation + 1)
            tx.put(INSTANCE, changed)
            record_event(tx, self._context.clock, instance, verb, "asked for", project=project_id)
            return changed

        return await self._context.store.update(apply)


def usage_of(instance: Instance) -> Quota:
    """What an instance costs its project."""
    resources = instance.effective.resources
    return Quota(
        instances=1,
        cpu_millis=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        addresses=sum(len(nic.addresses) for nic in instance.nics),
    )


def release(tx: Transaction, instance: Instance) -> None:
    """Forget an instance that has no container any more: its leases and its share of the quota go with it."""
    for lease in tx.find(ADDRESS, "owner", instance.uid):
        tx.delete(ADDRESS, ADDRESS.key(lease.value))
    found = tx.get(PROJECT, instance.project)
    if found is not None:
        tx.put(PROJECT, replace(found.value, usage=found.value.usage - usage_of(instance)))
    tx.delete(INSTANCE, INSTANCE.key(instance))


def _charge(tx: Transaction, project_id: str, amount: Quota) -> None:
    project = lookup.project(tx, project_id)
    tx.put(PROJECT, replace(project, usage=charge(project.quota, project.usage, amount)))


def _recharge(tx: Transaction, before: Instance, after: Instance) -> None:
    project = lookup.project(tx, before.project)
    given_back = project.usage - usage_of(before)
    tx.put(PROJECT, replace(project, usage=charge(project.quota, given_back, usage_of(after))))


def _by_name(view: View, name: str) -> Instance:
    project_id, instance_id = parse_child(name, "instances")
    return lookup.instance(view, project_id, instance_id)


def _refuse_deleted(instance: Instance) -> None:
    if instance.desired is DesiredState.DELETED:
        raise NotReady(f"{instance.name} is being deleted", reason="INSTANCE_DELETING")


def _ready_template(view: View, project_id: str, name: str, field_name: str) -> Template:
    template_id = name
    if "/" in name:
        owner, template_id = parse_child(name, "templates", field_name)
        if owner != project_id:
            raise InvalidSpec.of(field_name, f"is not in projects/{project_id}", "OTHER_PROJECT")
    template = lookup.template(view, project_id, template_id)
    if template.status.state is not TemplateState.READY:
        detail = template.status.message or "see its operation"
        raise NotReady(
            f"{template.name} is {template.status.state.name}: {detail}",
            reason="TEMPLATE_NOT_READY",
            metadata={"name": template.name, "operation": template.status.operation},
        )
    return template


def _check_policy(spec: InstanceSpec, project: Project, networks: Mapping[str, Network], where: str) -> None:
    bridges = tuple(sorted({n.spec.bridge for n in networks.values() if n.spec.kind is NetworkKind.SHARED}))
    violations = access_policy.check(host_access(spec, where, bridges), project.policy)
    if violations:
        raise InvalidSpec(violations)


def _check_still_fits(tx: Transaction, before: Instance, after: Instance) -> None:
    """An instance never moves: what it becomes must fit on the host that it has."""
    if not before.host_uid:
        return
    host = lookup.by_uid(tx, HOST, before.host_uid)
    if host is None:
        return
    others = [i.value for i in tx.find(INSTANCE, "host", before.host_uid) if i.value.uid != before.uid]
    refusal = refusal_on(host, others, after, tx)
    if refusal:
        raise NotReady(
            f"{after.name} would not fit on {host.name}: {refusal}; delete it and create it anew",
            reason="DOES_NOT_FIT",
            metadata={"host": host.name},
        )


def _filter_field(instance: Instance, name: str) -> str | None:
    match name:
        case "state":
            return instance.observed.state.name
        case "reason":
            return instance.observed.reason
        case "desired_state":
            return instance.desired.name
        case "host":
            return f"hosts/{instance.host}" if instance.host else ""
        case "template":
            return instance.spec.template
    return label_field(instance.labels, name)

"""How instances come to be and are sent away, whoever asks: users, groups, jobs. One transaction with what they hold and an event."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from controlplane.domain.claims import DEFAULT_TERMS, LeaseTerms, claims_of, is_leased
from controlplane.domain.groups import SlotPolicy
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec, InstanceState, Observed
from controlplane.domain.kinds import INSTANCE
from controlplane.domain.names import check_id, check_labels
from controlplane.domain.projects import Project
from controlplane.domain.readiness import is_started
from controlplane.domain.routers import is_router
from controlplane.history import record_event
from controlplane.routers.naming import routers_naming
from controlplane.services import lookup, volume_use
from controlplane.services.context import Context
from controlplane.services.effective import effective_spec
from controlplane.services.group_slots import take_addresses
from controlplane.services.instance_admission import check_policy, check_publishable, ready_template
from controlplane.services.instance_claims import InstanceClaims, charge_project, release, usage_of
from controlplane.services.instance_rules import check_spec
from controlplane.services.secret_uses import resolve
from controlplane.services.slot_volumes import with_slot_volumes
from controlplane.services.taking_over import lost_id
from controlplane.services.undelete import kept, taken_hint, words_of
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec
from moorage.store.base import Transaction


@dataclass(frozen=True, slots=True)
class NewInstance:
    """What one create asks for. `field` is the path of the instance in the request, for errors."""

    instance_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: InstanceSpec = InstanceSpec()
    field: str = "instance"


@dataclass(frozen=True, slots=True)
class Membership:
    """What an instance belongs to; without an owner, to nobody but its project."""

    owner: str = ""
    slot: int = -1
    revision: int = 0
    slots: SlotPolicy = SlotPolicy()  # what stays with the slot
    avoid_hosts: tuple[str, ...] = ()  # uids of hosts on which those before it failed


class InstanceMaking:
    """Admits instances, and asks for their removal.

    Args:
        terms: of the leases of those that claim something.
    """

    def __init__(self, context: Context, claims: InstanceClaims, terms: LeaseTerms = DEFAULT_TERMS) -> None:
        self._context = context
        self._claims = claims
        self._terms = terms

    def admit_all(
        self,
        tx: Transaction,
        project_id: str,
        wanted: list[NewInstance],
        membership: Membership = Membership(),
        why: str = "",
    ) -> list[Instance]:
        """Admit all or none of them.

        Raises:
            InvalidSpec, NotFound (project, template, network), AlreadyExists, NotReady (TEMPLATE_NOT_READY),
            QuotaExceeded, Exhausted (ADDRESSES_EXHAUSTED), NotReady (VOLUME_IN_USE, VOLUME_DELETING).
        """
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
        return [self._admit_one(tx, project, item, membership, why) for item in wanted]

    def _admit_one(
        self, tx: Transaction, project: Project, item: NewInstance, membership: Membership, why: str
    ) -> Instance:
        now = self._context.clock.now()
        uid = self._context.new_id()
        template = ready_template(tx, project.id, item.spec.template, f"{item.field}.spec.template")
        instance_id = item.instance_id or f"{template.id[:50]}-{uid[:6]}"
        if tx.get(INSTANCE, f"{project.id}/{instance_id}") is not None:
            name = f"projects/{project.id}/instances/{instance_id}"
            hint = taken_hint(tx, INSTANCE, f"{project.id}/{instance_id}", f"moor rm --now {instance_id}")
            text = f"{name} exists{hint}; choose another name or delete it"
            raise AlreadyExists(text, metadata={"name": name})
        spec = replace(item.spec, template=template.name)
        spec, pins = resolve(tx, project.id, spec, f"{item.field}.spec")
        networks, nics = self._claims.networks(tx, project, spec, f"{item.field}.spec")
        check_policy(spec, project, networks, f"{item.field}.spec")
        check_publishable(tx, spec, (network.uid for network in networks.values()), f"{item.field}.spec")
        keep = take_addresses(tx, membership.owner, membership.slot) if membership.slots.sticky_address else ()
        leased = self._claims.lease(tx, uid, nics, networks, f"{item.field}.spec.nics", keep=keep)
        if membership.slots.volumes:
            of_slot = membership.slots.volumes
            spec = with_slot_volumes(self._context, tx, spec, membership.owner, membership.slot, of_slot)
        volumes = volume_use.take(tx, project.id, spec.volumes, f"{item.field}.spec.volumes")
        spec = replace(spec, volumes=volumes.mounts)
        effective = effective_spec(replace(spec, nics=nics), template.defaults, instance_id)
        claimed = claims_of(effective, membership.slot, membership.slots, has_exclusive_volume=volumes.needs_claim)
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
            owner=membership.owner,
            slot=membership.slot,
            revision=membership.revision,
            pins=pins,
            volume_uids=volumes.uids,
            claims=claimed,
            lease_seconds=self._terms.seconds_for(effective, claimed),
            avoid_hosts=membership.avoid_hosts,
        )
        charge_project(tx, project.id, usage_of(instance))
        tx.put(INSTANCE, instance)
        why = why or f"from {template.name}"
        record_event(tx, self._context.clock, instance, "CREATED", why, project=project.id)
        return instance

    def ask_leave(self, tx: Transaction, instance: Instance, why: str) -> None:
        """Send an instance away in order: no new clients from now on; its removal is asked for once those that balancers brought it are
        gone. At once when there are none.
        """
        if instance.leave_time is not None or instance.desired is DesiredState.DELETED:
            return
        if not is_started(instance) or not routers_naming(tx, instance):
            self.ask_removal(tx, instance, why)
            return
        now = self._context.clock.now()
        changed = replace(instance, leave_time=now, leave_revision=tx.revision, generation=instance.generation + 1)
        tx.put(INSTANCE, changed)
        record_event(tx, self._context.clock, instance, "LEAVING", why, project=instance.project)

    def keep(self, tx: Transaction, instance: Instance, purge_time: datetime, *, force: bool) -> None:
        """Delete an instance that has a host, and keep what it has until then. It leaves in order (unless `force`), then stands still."""
        if instance.purge_time is not None or instance.desired is DesiredState.DELETED:
            return
        now = self._context.clock.now()
        drains = not force and is_started(instance) and bool(routers_naming(tx, instance))
        tx.put(INSTANCE, kept(instance, now, purge_time, tx.revision, force=force, drains=drains))
        why = f"asked for; kept until {words_of(purge_time)}"
        record_event(tx, self._context.clock, instance, "KEPT", why, project=instance.project)

    def ask_removal(self, tx: Transaction, instance: Instance, why: str, *, force: bool = False) -> None:
        """Send an instance away: at once when it has no host; else its addresses are free once the host says that it is gone."""
        clock, project = self._context.clock, instance.project
        if not instance.host_uid:
            release(tx, instance, self._context.clock.now())
            record_event(tx, clock, instance, "DELETED", f"{why}, before it had a host", project=project)
        elif instance.desired is not DesiredState.DELETED or (force and not instance.force):
            changed = replace(instance, desired=DesiredState.DELETED, force=force, generation=instance.generation + 1)
            tx.put(INSTANCE, changed)
            record_event(tx, clock, instance, "DELETING", why, project=project)

    def give_up(self, tx: Transaction, instance: Instance, why: str, *, is_word: bool) -> None:
        """Count an instance as lost, so that another may take its place. Its record and addresses stay until its host has removed it,
        which it does at once when it is back: nobody needs what it still does by then.

        Args:
            is_word: an operator says that it does not run any more. What it claims without a lease is free then; with one, when that ends.
        """
        is_free = instance.is_claim_free or (is_word and bool(instance.claims) and not is_leased(instance))
        changed = replace(instance, desired=DesiredState.DELETED, force=True, is_claim_free=is_free)
        changed = replace(changed, given_up=instance.given_up or why)
        if changed == instance:
            return
        if is_router(instance) and not instance.given_up:
            # Routers' containers are known by their names, which the successor gets. A group looks after its members' names itself.
            changed = replace(changed, id=lost_id(instance))
            tx.delete(INSTANCE, INSTANCE.key(instance))
        tx.put(INSTANCE, replace(changed, generation=instance.generation + 1))
        if not instance.given_up:
            record_event(tx, self._context.clock, instance, "LOST", why, project=instance.project, severity="warning")

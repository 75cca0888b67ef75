"""Changes of what an instance is: in place while it runs, or by a new container in the same place."""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.containers import ContainerDefaults
from controlplane.domain.instances import Claim, DesiredState, Instance, InstanceSpec
from controlplane.domain.kinds import INSTANCE, TEMPLATE
from controlplane.domain.names import check_labels
from controlplane.domain.routers import is_router
from controlplane.history import record_event
from controlplane.networks.leases import with_interfaces
from controlplane.scheduler.volumes import settle
from controlplane.services import lookup, volume_use
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.effective import effective_spec
from controlplane.services.instance_admission import (
    check_networks,
    check_policy,
    check_publishable,
    check_still_fits,
    ready_template,
    refuse_deleted,
    refuse_owned,
)
from controlplane.services.instance_claims import InstanceClaims, recharge_project
from controlplane.services.instance_rules import check_spec
from controlplane.services.router_admission import member_template
from controlplane.services.secret_uses import resolve
from moorage.errors import FieldViolation, InvalidSpec, NotReady
from moorage.store.base import Transaction

_PLUGGING = frozenset({"nics", "no_network"})
#: Fields that the host can change while the instance runs; all others need a new container.
IN_PLACE = frozenset(
    {"resources", "restart", "published_ports", "extra_hosts", "user_data", "probes", "delete_protection", *_PLUGGING}
)

#: Fields that nobody can change once it is made: what was granted to the instance depends on them.
FOR_GOOD = ("exclusive", "survives_isolation")


class InstanceChanges:
    """Update and replace."""

    def __init__(self, context: Context, claims: InstanceClaims) -> None:
        self._context = context
        self._claims = claims

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
            NotReady: NEEDS_REPLACE, metadata `fields` names those that need a new container; INSTANCE_OWNED.
            NotFound, InvalidSpec, QuotaExceeded, Exhausted (ADDRESSES_EXHAUSTED).
        """
        changes = dict(spec_fields or {})
        refused = sorted(set(changes) - IN_PLACE)

        def change(tx: Transaction) -> Instance:
            instance = before = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            refuse_deleted(instance)
            refuse_owned(instance)
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
            names = set(changes)
            if _PLUGGING & names:
                instance, spec = self._replug(tx, instance, spec)
                names |= _PLUGGING
            template = lookup.by_uid(tx, TEMPLATE, instance.template_uid)
            defaults = template.defaults if template is not None else ContainerDefaults()
            whole = effective_spec(spec, defaults, instance.id)
            # The template's defaults may have changed since; an instance keeps the ones that it was made with.
            effective = replace(instance.effective, **{name: getattr(whole, name) for name in names})
            changed = replace(
                instance, spec=spec, effective=effective, labels=new_labels, generation=instance.generation + 1
            )
            if {"published_ports", "nics"} & names:
                check_publishable(tx, spec, (nic.network_uid for nic in changed.nics), "instance.spec")
            changed = check_still_fits(tx, instance, changed)
            recharge_project(tx, before, changed)
            tx.put(INSTANCE, changed)
            if changed.nics != before.nics:
                what = ", ".join(f"{nic.interface} on {nic.network}" for nic in changed.nics) or "no network"
                record_event(tx, self._context.clock, changed, "NICS_CHANGED", what, project=project_id)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    def _replug(self, tx: Transaction, instance: Instance, spec: InstanceSpec) -> tuple[Instance, InstanceSpec]:
        """The instance with the interfaces that the spec asks for, and the spec with their names. Only what is new needs the policy."""
        project = lookup.project(tx, instance.project)
        networks, nics = self._claims.networks(tx, project, spec, "instance.spec")
        nics = with_interfaces(nics, instance.nics)
        known = {nic.network for nic in instance.nics}
        check_networks(project, {name: one for name, one in networks.items() if name not in known}, "instance.spec")
        leased = self._claims.change(tx, instance, nics, networks, "instance.spec.nics")
        if leased != instance.nics:
            instance = replace(instance, nics=leased, nics_generation=instance.generation + 1)
        return instance, replace(spec, nics=nics)

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
            NotFound, InvalidSpec, NotReady (TEMPLATE_NOT_READY, DOES_NOT_FIT, INSTANCE_OWNED, VOLUME_IN_USE), QuotaExceeded,
            VersionConflict.
        """

        def change(tx: Transaction) -> Instance:
            instance = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            refuse_deleted(instance)
            is_own = is_router(instance)
            if spec is not None or not is_own:
                refuse_owned(instance)
            project = lookup.project(tx, project_id)
            wanted = instance.spec if spec is None else spec
            violations = [] if is_own else check_spec(wanted, "spec")
            for name in FOR_GOOD:
                if getattr(wanted, name) != getattr(instance.spec, name):
                    violations.append(
                        FieldViolation(f"spec.{name}", "cannot be changed; make another instance", "IMMUTABLE")
                    )
            if violations:
                raise InvalidSpec(violations)
            wanted, pins = resolve(tx, project_id, wanted, "spec")
            networks, nics = self._claims.networks(tx, project, wanted, "spec")
            if is_own:
                # What its owner may, the project's policy need not allow.
                template = member_template(tx, wanted.template)
            else:
                template = ready_template(tx, project_id, wanted.template, "spec.template")
                check_policy(wanted, project, networks, "spec")
                check_publishable(tx, wanted, (network.uid for network in networks.values()), "spec")
            leased = self._claims.change(tx, instance, nics, networks, "spec.nics")
            volumes = volume_use.take(tx, project_id, wanted.volumes, "spec.volumes", instance.uid)
            if volumes.needs_claim and Claim.VOLUME not in instance.claims:
                text = "it must be made with a volume that is replaced when its host is lost; make another instance"
                raise InvalidSpec.of("spec.volumes", text, "IMMUTABLE")
            wanted = replace(wanted, volumes=volumes.mounts)
            changed = replace(
                instance,
                spec=replace(wanted, template=template.name),
                effective=effective_spec(replace(wanted, nics=nics), template.defaults, instance.id),
                template_uid=template.uid,
                image=f"{template.repository}@{template.status.digest}",
                platforms=template.status.platforms,
                nics=leased,
                pins=pins,
                volume_uids=volumes.uids,
                nics_generation=instance.nics_generation if leased == instance.nics else instance.generation + 1,
                desired=DesiredState.RUNNING,
                generation=instance.generation + 1,
                run_request=instance.run_request + 1,
                container_generation=instance.container_generation + 1,
            )
            changed = check_still_fits(tx, instance, changed)
            if changed.host_uid:
                settle(tx, changed, changed.host_uid, changed.host)
            recharge_project(tx, instance, changed)
            tx.put(INSTANCE, changed)
            record_event(tx, self._context.clock, changed, "REPLACING", "asked for", project=project_id)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

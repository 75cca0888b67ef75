"""Changes of what an instance is: in place while it runs, or by a new container in the same place."""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.domain.containers import ContainerDefaults
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec
from controlplane.domain.kinds import ADDRESS, INSTANCE, TEMPLATE
from controlplane.domain.names import check_labels
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.effective import effective_spec
from controlplane.services.instance_admission import check_policy, check_still_fits, ready_template, refuse_deleted
from controlplane.services.instance_claims import InstanceClaims, recharge_project
from controlplane.services.instance_rules import check_spec
from moorage.errors import InvalidSpec, NotReady
from moorage.store.base import Transaction

#: Fields that the host can change while the instance runs; all others need a new container.
IN_PLACE = frozenset({"resources", "restart", "published_ports", "extra_hosts"})


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
            NotReady: NEEDS_REPLACE, metadata `fields` names those that need a new container. NotFound, InvalidSpec, QuotaExceeded.
        """
        changes = dict(spec_fields or {})
        refused = sorted(set(changes) - IN_PLACE)

        def change(tx: Transaction) -> Instance:
            instance = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(instance, etag, instance.name)
            refuse_deleted(instance)
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
            check_still_fits(tx, instance, changed)
            recharge_project(tx, instance, changed)
            tx.put(INSTANCE, changed)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

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
            refuse_deleted(instance)
            project = lookup.project(tx, project_id)
            wanted = instance.spec if spec is None else spec
            violations = check_spec(wanted, "spec")
            if violations:
                raise InvalidSpec(violations)
            template = ready_template(tx, project_id, wanted.template, "spec.template")
            networks, nics = self._claims.networks(tx, project, wanted, "spec")
            check_policy(wanted, project, networks, "spec")
            keep = {nic.interface: nic for nic in instance.nics}
            for lease in tx.find(ADDRESS, "owner", instance.uid):
                tx.delete(ADDRESS, ADDRESS.key(lease.value))
            leased = self._claims.lease(tx, instance.uid, nics, networks, "spec.nics", keep)
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
            check_still_fits(tx, instance, changed)
            recharge_project(tx, instance, changed)
            tx.put(INSTANCE, changed)
            record_event(tx, self._context.clock, changed, "REPLACING", "asked for", project=project_id)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

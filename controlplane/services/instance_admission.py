"""Whether an instance may be what it asks to be: its template, its project's policy, and room on the host that it has."""

from collections.abc import Iterable, Mapping

from controlplane.access import policy as access_policy
from controlplane.access.policy import HostAccess
from controlplane.domain.groups import is_member
from controlplane.domain.instances import DesiredState, Instance, InstanceSpec
from controlplane.domain.jobs import is_of_job
from controlplane.domain.kinds import HOST, INSTANCE, ROUTER
from controlplane.domain.names import parse_child
from controlplane.domain.networks import Network
from controlplane.domain.projects import Project
from controlplane.domain.routers import is_router
from controlplane.domain.templates import Template, TemplateState
from controlplane.networks import attachments
from controlplane.scheduler.explain import fit_on
from controlplane.services import lookup
from controlplane.services.instance_rules import host_access
from moorage.errors import InvalidSpec, NotReady
from moorage.store.base import Transaction, View


def refuse_deleted(instance: Instance) -> None:
    """Raises NotReady (INSTANCE_DELETING)."""
    if instance.purge_time is not None and instance.desired is not DesiredState.DELETED:
        text = f"{instance.name} was deleted, and is only kept for a while; `moor instance undelete {instance.id}` brings it back"
        raise NotReady(text, reason="INSTANCE_DELETING")
    if instance.desired is DesiredState.DELETED or instance.leave_time is not None:
        raise NotReady(f"{instance.name} is being deleted", reason="INSTANCE_DELETING")


def refuse_owned(instance: Instance) -> None:
    """For what only an instance's owner may do with it. Raises NotReady (INSTANCE_OWNED)."""
    refuse_of_router(instance)
    refuse_of_job(instance)
    if is_member(instance):
        raise NotReady(
            f"{instance.name} is a member of {instance.owner}: change the group (moor group update, moor group scale); a member that is "
            "deleted gets a successor",
            reason="INSTANCE_OWNED",
            metadata={"name": instance.name, "owner": instance.owner},
        )


def refuse_of_job(instance: Instance) -> None:
    """An index of a job is tried once by each instance. Raises NotReady (INSTANCE_OWNED)."""
    if is_of_job(instance):
        raise NotReady(
            f"{instance.name} belongs to {instance.owner}, which makes another one where it fails: it can be read and deleted",
            reason="INSTANCE_OWNED",
            metadata={"name": instance.name, "owner": instance.owner},
        )


def refuse_of_router(instance: Instance) -> None:
    """For what users may do with members of groups, and not with those of routers. Raises NotReady (INSTANCE_OWNED)."""
    if is_router(instance):
        raise NotReady(
            f"{instance.name} belongs to {instance.owner}, which looks after it: change or delete that; users may read, reboot "
            "and replace it",
            reason="INSTANCE_OWNED",
            metadata={"name": instance.name, "owner": instance.owner},
        )


def check_publishable(view: View, spec: InstanceSpec, network_uids: Iterable[str], where: str) -> None:
    """Raises InvalidSpec (PORT_NOT_PUBLISHABLE): ports of hosts do not lead into networks behind a router."""
    for uid in network_uids if spec.published_ports else ():
        found = view.find(ROUTER, "network", uid)
        if found:
            name = found[0].value.name
            raise InvalidSpec.of(
                f"{where}.published_ports",
                f"hosts have no way into a network behind {name}; make a port forward there (moor router rule add), and "
                "ingress ports of the router for ports of hosts",
                "PORT_NOT_PUBLISHABLE",
            )


def ready_template(view: View, project_id: str, name: str, field_name: str) -> Template:
    """The template, by its full or last name. Raises InvalidSpec, NotFound, NotReady (TEMPLATE_NOT_READY)."""
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


def check_policy(spec: InstanceSpec, project: Project, networks: Mapping[str, Network], where: str) -> None:
    """Raises InvalidSpec (POLICY_*): the project's policy does not allow what the spec asks of the host."""
    violations = access_policy.check(host_access(spec, where, _asked(networks, where)), project.policy)
    if violations:
        raise InvalidSpec(violations)


def check_networks(project: Project, networks: Mapping[str, Network], where: str) -> None:
    """Raises InvalidSpec (POLICY_*): the project's policy does not allow these networks."""
    violations = access_policy.check(_asked(networks, where), project.policy)
    if violations:
        raise InvalidSpec(violations)


def _asked(networks: Mapping[str, Network], where: str) -> HostAccess:
    return attachments.host_access([network.spec for network in networks.values()], f"{where}.nics")


def check_still_fits(tx: Transaction, before: Instance, after: Instance) -> Instance:
    """An instance never moves: what it becomes must fit on the host that it has. Returns it with the devices that it gets there.

    Raises:
        NotReady: DOES_NOT_FIT.
    """
    host = lookup.by_uid(tx, HOST, before.host_uid) if before.host_uid else None
    if host is None:
        return after
    here = (*tx.find(INSTANCE, "host", before.host_uid), *tx.find(INSTANCE, "promised", before.host_uid))
    others = [found.value for found in here if found.value.uid != before.uid]
    refusal, fitted = fit_on(host, others, before, after, tx)
    if refusal:
        raise NotReady(
            f"{after.name} would not fit on {host.name}: {refusal}; delete it and create it anew",
            reason="DOES_NOT_FIT",
            metadata={"host": host.name},
        )
    return fitted

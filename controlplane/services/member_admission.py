"""Whether instances that something makes later (a group, a job, a cron job) could be made at all: by the same rules as users' own, and
within the project's quota. What can never run is refused when it is asked for.
"""

from dataclasses import replace

from controlplane.access.quota import RESOURCES, Quota, charge
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.projects import Project
from controlplane.services.effective import effective_spec
from controlplane.services.instance_admission import check_policy, check_publishable, ready_template
from controlplane.services.instance_claims import InstanceClaims
from moorage.store.base import Transaction

_NOTHING = Quota()


def admit_members(
    tx: Transaction,
    claims: InstanceClaims,
    project: Project,
    spec: InstanceSpec,
    where: str,
    count: int,
    own: Quota = _NOTHING,
) -> InstanceSpec:
    """The spec with full names. The network "default" is made when this is the first to need it.

    Args:
        where: field of the spec in the request.
        count: instances that there will be at a time. They are charged when they are made: this only asks whether that could ever go well.
        own: what the asker's instances use already.
    Raises:
        InvalidSpec (POLICY_*, PORT_NOT_PUBLISHABLE, OTHER_PROJECT), NotFound (template, network, security group), QuotaExceeded,
        NotReady (TEMPLATE_NOT_READY).
    """
    template = ready_template(tx, project.id, spec.template, f"{where}.template")
    asked = replace(spec, template=template.name)
    networks, nics = claims.networks(tx, project, asked, where)
    check_policy(asked, project, networks, where)
    check_publishable(tx, asked, (network.uid for network in networks.values()), where)
    if asked.nics:
        asked = replace(asked, nics=nics)
    whole = effective_spec(asked, template.defaults, "")
    addresses = sum(max(len(nic.addresses), len(networks[nic.network].spec.subnets)) for nic in nics)
    wished = Quota(
        instances=count,
        cpu_millis=count * whole.resources.cpu_millis,
        memory_bytes=count * whole.resources.memory_bytes,
        addresses=count * addresses,
    )
    more = Quota(**{name: max(0, getattr(wished, name) - getattr(own, name)) for name in RESOURCES})
    charge(project.quota, project.usage, more)
    return asked

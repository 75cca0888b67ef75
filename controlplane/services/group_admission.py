"""Whether the members of a group could be made at all: by the same rules as users' instances, and within the project's quota."""

from collections.abc import Iterable
from dataclasses import replace

from controlplane.access.quota import RESOURCES, Quota, charge
from controlplane.domain.groups import Group, GroupMode, GroupSpec
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE
from controlplane.domain.projects import Project
from controlplane.services.effective import effective_spec
from controlplane.services.instance_admission import check_policy, check_publishable, ready_template
from controlplane.services.instance_claims import InstanceClaims, usage_of
from moorage.store.base import Transaction, View


def members_of(view: View, group: Group) -> list[Instance]:
    """Its instances, those that leave or are being removed among them, in order of name."""
    return sorted((found.value for found in view.find(INSTANCE, "owner", group.name)), key=lambda i: i.id)


def admit(
    tx: Transaction, claims: InstanceClaims, project: Project, spec: GroupSpec, field: str, members: Iterable[Instance]
) -> GroupSpec:
    """The spec with full names. The network "default" is made when a group is the first to need it.

    Args:
        members: that the group has already; they count once.
    Raises:
        InvalidSpec (POLICY_*, PORT_NOT_PUBLISHABLE, OTHER_PROJECT), NotFound (template, network, security group), QuotaExceeded,
        NotReady (TEMPLATE_NOT_READY).
    """
    where = f"{field}.instance"
    template = ready_template(tx, project.id, spec.instance.template, f"{where}.template")
    asked = replace(spec.instance, template=template.name)
    networks, nics = claims.networks(tx, project, asked, where)
    check_policy(asked, project, networks, where)
    check_publishable(tx, asked, (network.uid for network in networks.values()), where)
    if asked.nics:
        asked = replace(asked, nics=nics)
    whole = effective_spec(asked, template.defaults, "")
    # Charged when the members are made: this only asks whether that could ever go well. How many hosts fit is not known here.
    count = 1 if spec.mode is GroupMode.PER_HOST else spec.replicas
    addresses = sum(max(len(nic.addresses), len(networks[nic.network].spec.subnets)) for nic in nics)
    wished = Quota(
        instances=count,
        cpu_millis=count * whole.resources.cpu_millis,
        memory_bytes=count * whole.resources.memory_bytes,
        addresses=count * addresses,
    )
    own = sum((usage_of(member) for member in members), start=Quota())
    more = Quota(**{name: max(0, getattr(wished, name) - getattr(own, name)) for name in RESOURCES})
    charge(project.quota, project.usage, more)
    return replace(spec, instance=asked)

"""The members of a group, and whether those that it asks for could be made at all."""

from collections.abc import Iterable
from dataclasses import replace

from controlplane.access.quota import Quota
from controlplane.domain.groups import Group, GroupMode, GroupSpec
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE
from controlplane.domain.projects import Project
from controlplane.services.instance_claims import InstanceClaims, usage_of
from controlplane.services.member_admission import admit_members
from moorage.store.base import Transaction, View


def members_of(view: View, group: Group) -> list[Instance]:
    """Its instances, those that leave or are being removed among them, in order of name."""
    return sorted((found.value for found in view.find(INSTANCE, "owner", group.name)), key=lambda i: i.id)


def normal(spec: GroupSpec) -> GroupSpec:
    """Nothing left open that cannot be changed later."""
    return replace(spec, mode=GroupMode.REPLICATED) if spec.mode is GroupMode.UNSPECIFIED else spec


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
    # How many hosts fit is not known here.
    count = 1 if spec.mode is GroupMode.PER_HOST else spec.replicas
    own = sum((usage_of(member) for member in members), start=Quota())
    return replace(spec, instance=admit_members(tx, claims, project, spec.instance, f"{field}.instance", count, own))

"""Whether instances that something makes later (a group, a job, a cron job) could be made at all: by the same rules as users' own, and
within the project's quota. What can never run is refused when it is asked for.
"""

from dataclasses import replace

from controlplane.access.quota import RESOURCES, Quota, charge
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.projects import Project
from controlplane.domain.volumes import VolumeMount
from controlplane.services.effective import effective_spec
from controlplane.services.instance_admission import check_policy, check_publishable, ready_template
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.secret_uses import resolve
from controlplane.services.volume_use import find_volume
from moorage.errors import InvalidSpec
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
        InvalidSpec (POLICY_*, PORT_NOT_PUBLISHABLE, OTHER_PROJECT, VOLUME_NOT_SHARED, VERSION_*), NotFound (template, network, security
        group, volume, secret, config), QuotaExceeded, NotReady (TEMPLATE_NOT_READY).
    """
    template = ready_template(tx, project.id, spec.template, f"{where}.template")
    asked = replace(spec, template=template.name)
    asked, _ = resolve(tx, project.id, asked, where)  # versions are pinned when an instance is made
    networks, nics = claims.networks(tx, project, asked, where)
    asked = replace(asked, volumes=_volumes(tx, project, asked, f"{where}.volumes", count))
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


def _volumes(tx: Transaction, project: Project, spec: InstanceSpec, where: str, count: int) -> tuple[VolumeMount, ...]:
    """The volumes that all have together, with full names. Whether somebody else has one now is asked when an instance is made."""
    found = []
    for index, mount in enumerate(spec.volumes):
        volume = find_volume(tx, project.id, mount.volume, f"{where}[{index}].volume")
        if volume.is_exclusive and count > 1:
            text = f"{volume.name} is for one instance at a time, and there are {count}; make it shared, or one for each slot"
            raise InvalidSpec.of(f"{where}[{index}].volume", text, "VOLUME_NOT_SHARED")
        found.append(replace(mount, volume=volume.name))
    return tuple(found)

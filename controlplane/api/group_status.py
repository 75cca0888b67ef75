"""What is seen of a group, from its record and its members. Pure."""

from collections.abc import Sequence

from controlplane.domain.groups import Group, GroupStatus, SlotStatus
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.readiness import is_ready


def status_of(group: Group, members: Sequence[Instance]) -> GroupStatus:
    """The group's status. `members`: all its instances."""
    staying = [m for m in members if m.leave_time is None and m.desired is not DesiredState.DELETED and not m.given_up]
    ready = [member for member in staying if is_ready(member)]
    slots = sorted(staying, key=lambda member: (member.slot, member.create_time))
    return GroupStatus(
        group.state,
        group.reason,
        group.message,
        wanted=group.spec.replicas,
        members=len(staying),
        ready=len(ready),
        updated=sum(member.revision == group.target_revision for member in ready),
        target_revision=group.target_revision,
        stable_revision=group.stable_revision,
        slots=tuple(SlotStatus(m.slot, m.name, m.revision, is_ready(m), m.observed.message) for m in slots),
    )

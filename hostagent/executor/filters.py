"""What shall filter the interfaces of an instance, out of what the journal knows of its security groups. Pure."""

from collections.abc import Mapping

from hostagent.domain import GroupMembers, InstanceAssignment, NicFilter, SecurityGroup
from moorage.ids import NetworkId


def filters_of(
    assignment: InstanceAssignment,
    groups: Mapping[str, SecurityGroup],
    members: Mapping[tuple[str, NetworkId], GroupMembers],
) -> tuple[NicFilter, ...] | None:
    """One for each interface that carries groups; None: what a group allows is not known here, so it must not be plugged."""
    found: list[NicFilter] = []
    for nic in assignment.nics:
        if not nic.security_groups:
            continue
        own = [groups.get(group_id) for group_id in nic.security_groups]
        known = tuple(group for group in own if group is not None)
        if len(known) < len(own):
            return None
        named = sorted({rule.group for group in known for rule in group.rules if rule.group})
        pairs = [(group_id, nic.network_id) for group_id in named]
        found.append(
            NicFilter(
                nic.name,
                nic.network_id,
                tuple(address.partition("/")[0] for address in nic.addresses),
                known,
                tuple(members.get(pair, GroupMembers(*pair)) for pair in pairs),
            )
        )
    return tuple(found)


def is_filtered(assignment: InstanceAssignment) -> bool:
    """Whether an interface carries security groups."""
    return any(nic.security_groups for nic in assignment.nics)

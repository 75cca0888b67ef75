"""What a host is told of security groups: those that its interfaces carry, and who the members of the groups are that their rules name.

A rule that names a group means the addresses of the interfaces that carry it, as far as the rule's own interface reaches them under these
addresses: on its network, and on those that a router connects with it. On other networks of the project the same address may be somebody
else's. So members are told for a group and a network. A member counts from the moment that it has its address, before it has a host, until
the address is free again: no allowed packet comes too early, and none from the address's next owner.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace

from controlplane.dispatch.assignments import NicAssignment
from controlplane.domain.kinds import INSTANCE, ROUTER, SECURITY_GROUP
from controlplane.domain.security_groups import SecurityGroup, SecurityRule
from moorage.store.base import View


@dataclass(frozen=True, slots=True)
class SecurityGroupAssignment:
    """A group that an interface of the host carries; mirrors moorage.v1.SecurityGroupAssignment."""

    group_id: str
    name: str
    rules: tuple[SecurityRule, ...] = ()
    deny_out: bool = False


@dataclass(frozen=True, slots=True)
class GroupMembersUpdate:
    """Members that came or went; mirrors the message of the same name."""

    group_id: str
    network_id: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class SecurityChange:
    """What a host has to be told."""

    groups: tuple[SecurityGroupAssignment, ...] = ()
    removed_groups: tuple[str, ...] = ()
    members: tuple[GroupMembersUpdate, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.removed_groups or self.members)


@dataclass
class SentSecurity:
    """What an agent has been told of security groups, so that only differences are sent."""

    groups: dict[str, SecurityGroupAssignment] = field(default_factory=dict)
    members: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # by group and network

    def knows(self, group_uid: str) -> bool:
        """Whether a change of the group, or of its members, concerns the host."""
        return group_uid in self.groups or any(group == group_uid for group, _ in self.members)

    def groups_on(self, network_uids: Set[str]) -> set[str]:
        """Groups whose members on one of these networks the host was told."""
        return {group for group, network in self.members if network in network_uids}

    def update(self, view: View, nics: Iterable[NicAssignment], dirty: Set[str]) -> SecurityChange:
        """The difference to what `nics`, all of the host's, need now. `dirty`: groups that may have changed, or their members."""
        carried = {(uid, nic.network_id) for nic in nics for uid in nic.security_groups}
        groups: dict[str, SecurityGroupAssignment] = {}
        for uid in sorted({uid for uid, _ in carried}):
            known = self.groups.get(uid)
            found = known if known is not None and uid not in dirty else group_assignment(view, uid)
            if found is not None:
                groups[uid] = found
        named = {
            (rule.group, network)
            for uid, network in carried
            if uid in groups
            for rule in groups[uid].rules
            if rule.group
        }
        members = {
            pair: members_of(view, *pair) if pair[0] in dirty or pair not in self.members else self.members[pair]
            for pair in sorted(named)
        }
        change = SecurityChange(
            tuple(group for uid, group in groups.items() if self.groups.get(uid) != group),
            tuple(sorted(self.groups.keys() - groups.keys())),
            (
                *self._member_changes(members),
                *(_dropped(pair) for pair in sorted(self.members.keys() - members.keys())),
            ),
        )
        self.groups, self.members = groups, members
        return change

    def _member_changes(self, members: dict[tuple[str, str], frozenset[str]]) -> list[GroupMembersUpdate]:
        found = []
        for pair, now in members.items():
            before = self.members.get(pair)
            if before != now:
                known = before or frozenset()
                found.append(GroupMembersUpdate(*pair, tuple(sorted(now - known)), tuple(sorted(known - now))))
        return found


def group_assignment(view: View, group_uid: str) -> SecurityGroupAssignment | None:
    """What a host is told of one group; None: it does not exist."""
    found = view.find(SECURITY_GROUP, "uid", group_uid)
    if not found:
        return None
    group: SecurityGroup = found[0].value
    rules = tuple(
        replace(rule, group=group.group_uids[rule.group]) if rule.group else rule for rule in group.spec.rules
    )
    return SecurityGroupAssignment(group.uid, group.id, rules, group.spec.deny_out)


def members_of(view: View, group_uid: str, network_uid: str) -> frozenset[str]:
    """Addresses of the group's members, as an interface on the network reaches them."""
    reached = _connected(view, network_uid)
    return frozenset(
        address.partition("/")[0]
        for found in view.find(INSTANCE, "security_group", group_uid)
        for nic in found.value.nics
        if group_uid in nic.security_group_uids and nic.network_uid in reached
        for address in nic.addresses
    )


def _connected(view: View, network_uid: str) -> set[str]:
    """The network, and those that its router leads to without changing a member's address."""
    connected = {network_uid}
    for found in view.find(ROUTER, "network", network_uid):
        connected |= {*found.value.network_uids, found.value.outside_uid}
    return connected


def _dropped(pair: tuple[str, str]) -> GroupMembersUpdate:
    return GroupMembersUpdate(*pair, dropped=True)

"""Revisions of a group: when a change makes one, which one members shall have, and how many are kept. In the caller's transaction.

A revision is what members are: their spec and labels. Going back to one takes it up under its own number, so that members which still
are of it stay as they are.
"""

from dataclasses import replace
from datetime import datetime

from controlplane.domain.groups import Group, GroupRevision, GroupSpec, GroupState
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import GROUP_REVISION, GROUP_SLOT, INSTANCE
from controlplane.services import group_slots
from moorage.errors import NotReady
from moorage.store.base import Transaction, View

DEFAULT_KEPT = 10


def revisions_of(view: View, group: Group) -> list[GroupRevision]:
    """Those that are kept, oldest first."""
    return sorted((found.value for found in view.find(GROUP_REVISION, "group", group.uid)), key=lambda r: r.number)


def add_revision(tx: Transaction, group: Group, number: int, author: str, now: datetime) -> GroupRevision:
    """Keep what the group's spec says of members, under a number."""
    spec = group.spec
    made = GroupRevision(group.uid, number, now, spec.instance, dict(spec.instance_labels), author)
    tx.put(GROUP_REVISION, made)
    return made


def follow_spec(tx: Transaction, group: Group, author: str, now: datetime) -> Group:
    """The group, whose spec was changed, with the revision for it as its target; a new one unless what is asked for is the target, the
    newest or the stable one. So what failed is tried again when somebody asks for it anew, and not when the same is applied twice.
    """
    kept = revisions_of(tx, group)
    by_number = {revision.number: revision for revision in kept}
    content = _content(group.spec)
    for number in (group.target_revision, kept[-1].number, group.stable_revision):
        known = by_number.get(number)
        if known is not None and _content(known) == content:
            return aim(tx, group, known, now) if number != group.target_revision else group
    made = add_revision(tx, group, kept[-1].number + 1, author, now)
    aimed = aim(tx, group, made, now)
    prune(tx, aimed)
    return aimed


def aim(tx: Transaction, group: Group, revision: GroupRevision, now: datetime, *, is_promoted: bool = False) -> Group:
    """The group with another target. Failures that it had are forgotten: it is tried once more."""
    if revision.failure:
        tx.put(GROUP_REVISION, replace(revision, failure=""))
    for found in tx.find(GROUP_SLOT, "group", group.uid):
        if found.value.revision == revision.number:
            group_slots.forget(tx, group, found.value.slot, keeps_addresses=True)
    return replace(
        group,
        target_revision=revision.number,
        is_promoted=is_promoted or revision.number == group.stable_revision,
        state=GroupState.PAUSED if group.is_paused else GroupState.ROLLING,
        reason="",
        message="",
        progress_time=now,
    )


def find_revision(view: View, group: Group, number: int) -> GroupRevision:
    """The revision that a rollback asks for. 0: the stable one, or where that is the target and the spec, the newest before it that did
    not fail.

    Raises:
        NotReady: REVISION_UNKNOWN, NO_STABLE_REVISION.
    """
    kept = revisions_of(view, group)
    if number:
        found = next((revision for revision in kept if revision.number == number), None)
        if found is None:
            numbers = ", ".join(str(revision.number) for revision in kept)
            raise NotReady(
                f"{group.name} has no revision {number} (any more); it has {numbers}",
                reason="REVISION_UNKNOWN",
                metadata={"name": group.name},
            )
        return found
    stable = next((revision for revision in kept if revision.number == group.stable_revision), None)
    if stable is not None and (stable.number != group.target_revision or _content(stable) != _content(group.spec)):
        return stable
    older = [revision for revision in kept if revision.number < group.target_revision and not revision.failure]
    if not older:
        raise NotReady(
            f"{group.name} has no revision before {group.target_revision} that could be gone back to",
            reason="NO_STABLE_REVISION",
            metadata={"name": group.name},
        )
    return older[-1]


def _content(of: GroupRevision | GroupSpec) -> tuple[InstanceSpec, dict[str, str]]:
    return of.instance, dict(of.instance_labels)


def prune(tx: Transaction, group: Group) -> None:
    """Forget the oldest beyond those that the spec keeps. What members are or shall be of stays."""
    needed = {found.value.revision for found in tx.find(INSTANCE, "owner", group.name)}
    needed |= {group.target_revision, group.stable_revision}
    kept = revisions_of(tx, group)
    surplus = len(kept) - (group.spec.kept_revisions or DEFAULT_KEPT)
    for revision in kept[: max(0, surplus)]:
        if revision.number not in needed:
            tx.delete(GROUP_REVISION, GROUP_REVISION.key(revision))

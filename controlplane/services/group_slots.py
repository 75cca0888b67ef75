"""What is remembered of a group's slots while nobody in them does: failures, and addresses that stay. In the caller's transaction.

Addresses of a slot whose policy keeps them change hands three times: the member's leases become the slot's in the transaction that
forgets the member, they become the next member's in the one that makes it, and they are free when the slot is not wanted any more.
Each is leased to one owner at any time, and charged to the project all along.
"""

from dataclasses import replace

from controlplane.access.quota import Quota
from controlplane.domain.groups import Group, GroupSlot
from controlplane.domain.instances import Instance, InstanceNic
from controlplane.domain.kinds import ADDRESS, GROUP, GROUP_SLOT, PROJECT
from moorage.store.base import Transaction, View


def group_of(view: View, owner: str) -> Group | None:
    """The group with this full name; None: it is no group's, or the group is gone."""
    project, is_group, group_id = owner.removeprefix("projects/").partition("/groups/")
    found = view.get(GROUP, f"{project}/{group_id}") if is_group else None
    return found.value if found is not None else None


def get(view: View, group: Group, slot: int) -> GroupSlot:
    """The record, or a new one that remembers nothing yet."""
    found = view.get(GROUP_SLOT, f"{group.uid}/{slot:06d}")
    return found.value if found is not None else GroupSlot(group.uid, slot)


def put(tx: Transaction, record: GroupSlot) -> None:
    """Write it; one that remembers nothing goes."""
    if record.failures or record.nics:
        tx.put(GROUP_SLOT, record)
    else:
        tx.delete(GROUP_SLOT, GROUP_SLOT.key(record))


def forget(tx: Transaction, group: Group, slot: int, *, keeps_addresses: bool) -> None:
    """Remember nothing of a slot any more, or nothing but its addresses."""
    known = get(tx, group, slot)
    if not keeps_addresses:
        _free(tx, group, known)
    put(tx, GroupSlot(group.uid, slot, nics=known.nics if keeps_addresses else ()))


def keep_addresses(tx: Transaction, instance: Instance) -> None:
    """Make the leases of a member that is about to be forgotten those of its slot, where they stay. The caller takes what the member
    costs off the project's use.
    """
    group = group_of(tx, instance.owner) if instance.slot >= 0 else None
    if group is None or not group.spec.slots.sticky_address or (group.is_deleting and group.purge_time is None):
        return
    record = get(tx, group, instance.slot)
    if record.nics or not any(nic.addresses for nic in instance.nics):
        return
    count = 0
    for lease in tx.find(ADDRESS, "owner", instance.uid):
        if not lease.value.leaving_since:
            tx.put(ADDRESS, replace(lease.value, owner_uid=record.uid))
            count += 1
    nics = tuple(replace(nic, lent_addresses=(), lent_revision=0) for nic in instance.nics)
    put(tx, replace(record, nics=nics))
    found = tx.get(PROJECT, group.project)
    if found is not None:
        tx.put(PROJECT, replace(found.value, usage=found.value.usage + Quota(addresses=count)))


def take_addresses(tx: Transaction, owner: str, slot: int) -> tuple[InstanceNic, ...]:
    """Free the addresses that wait in a slot, for the member that is made in this very transaction. Returns the interfaces with them."""
    group = group_of(tx, owner)
    if group is None:
        return ()
    record = get(tx, group, slot)
    _free(tx, group, record)
    put(tx, replace(record, nics=()))
    return record.nics


def _free(tx: Transaction, group: Group, record: GroupSlot) -> None:
    leases = tx.find(ADDRESS, "owner", record.uid)
    for lease in leases:
        tx.delete(ADDRESS, ADDRESS.key(lease.value))
    found = tx.get(PROJECT, group.project)
    if found is not None:
        tx.put(PROJECT, replace(found.value, usage=found.value.usage - Quota(addresses=len(leases))))

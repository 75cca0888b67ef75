"""What is remembered of a group's slots, written in the caller's transaction: see `GroupSlot`."""

from dataclasses import replace

from controlplane.domain.groups import Group, GroupSlot
from controlplane.domain.kinds import GROUP_SLOT
from controlplane.services.context import Context
from moorage.store.base import Transaction


class GroupSlots:
    """Owns the records of slots."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, tx: Transaction, group: Group, slot: int) -> GroupSlot:
        """The record, or a new one that remembers nothing yet."""
        found = tx.get(GROUP_SLOT, f"{group.uid}/{slot:06d}")
        return found.value if found is not None else GroupSlot(self._context.new_id(), group.uid, slot)

    def put(self, tx: Transaction, record: GroupSlot) -> None:
        """Write it; one that remembers nothing goes."""
        if record.failures or record.nics:
            tx.put(GROUP_SLOT, record)
        else:
            tx.delete(GROUP_SLOT, GROUP_SLOT.key(record))

    def forget(self, tx: Transaction, group: Group, slot: int, *, keeps_addresses: bool) -> None:
        """Remember nothing of a slot any more, or nothing but its addresses."""
        known = self.get(tx, group, slot)
        self.put(tx, replace(GroupSlot(known.uid, group.uid, slot), nics=known.nics if keeps_addresses else ()))

"""A lost instance gives what it claims to the one that takes its place, in the transaction that makes that one."""

from dataclasses import replace

from controlplane.domain.claims import blocks_successor
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import ADDRESS, INSTANCE
from controlplane.services import group_slots
from controlplane.services.instance_claims import recharge_project
from moorage.errors import NotReady
from moorage.store.base import Transaction

_LONGEST_ID = 63


def lost_id(lost: Instance) -> str:
    """The last part of its name once its successor has the one that it had."""
    ending = f"-lost-{lost.uid[:6]}"
    return lost.id if lost.id.endswith(ending) else f"{lost.id[: _LONGEST_ID - len(ending)]}{ending}"


def hand_over(tx: Transaction, lost: Instance) -> Instance:
    """Free a lost instance's name, addresses and MACs. Call it before the successor is made, in the same transaction.

    The record stays, under a name of its own and without addresses, until its host has removed what is left there; it names nothing
    then that is another's. Returns it as it is now.

    Raises:
        NotReady: CLAIM_HELD, it does not count as lost, or may still have what it claims.
    """
    if not lost.given_up or blocks_successor(lost):
        raise NotReady(f"{lost.name} may still have what it claims", reason="CLAIM_HELD", metadata={"name": lost.name})
    after = replace(
        lost,
        id=lost_id(lost),
        nics=tuple(replace(nic, mac="", addresses=(), lent_addresses=()) for nic in lost.nics),
        generation=lost.generation + 1,
    )
    if replace(after, generation=lost.generation) == lost:
        return lost
    group_slots.keep_addresses(tx, lost)  # where they stay with its slot, the next member takes them from there
    for found in tx.find(ADDRESS, "owner", lost.uid):
        tx.delete(ADDRESS, ADDRESS.key(found.value))
    recharge_project(tx, lost, after)
    tx.delete(INSTANCE, INSTANCE.key(lost))
    tx.put(INSTANCE, after)
    return after

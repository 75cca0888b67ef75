"""The store's lineage: at which revision each start of a control plane began, so that a restored backup is noticed.

Agents remember the newest (term, revision) that they were told. A store that has not been there, or was not that far, has gone
back in time: what it does not know of may still be wanted, and nothing is removed on its word.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EpochStart:
    """One start: its epoch, which is the term that agents are told, and the first revision written in it."""

    epoch: int
    revision: int


def has_lost_history(starts: Iterable[EpochStart], current_revision: int, term: int, revision: int) -> bool:
    """Whether an agent knows more than this store ever did.

    Args:
        starts: every start of this store.
        term, revision: the newest that the agent was told; term 0 for an agent that was told nothing yet.
    """
    if term == 0:
        return False
    ordered = sorted(starts, key=lambda start: start.epoch)
    if all(start.epoch != term for start in ordered):
        return True
    ends = [start.revision for start in ordered if start.epoch > term]
    # The next start wrote its first revision: what that epoch told of lies before it.
    return revision >= ends[0] if ends else revision > current_revision

"""Transactions that may be dry runs (`validate_only`): all checks are made, nothing is kept."""

from collections.abc import Callable
from typing import TypeVar

from moorage.store.base import Store, Transaction

T = TypeVar("T")


class _DryRun(Exception):
    """Takes the result of a transaction out of it without keeping what it wrote."""


async def commit(store: Store, work: Callable[[Transaction], T], *, validate_only: bool) -> T:
    """Run `work` in a transaction; with `validate_only` only its result remains. Raises what `work` raises."""
    found: list[T] = []

    def run(tx: Transaction) -> T:
        result = work(tx)
        if validate_only:
            found.append(result)
            raise _DryRun
        return result

    try:
        return await store.update(run)
    except _DryRun:
        return found[0]

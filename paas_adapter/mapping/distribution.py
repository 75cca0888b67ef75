"""How many members of a cluster each pool has."""

from collections.abc import Sequence

from paas_adapter.mapping.model import Filling, Pool


def room(pools: Sequence[Pool]) -> int | None:
    """Members that fit at most; None: there is no limit."""
    caps = [pool.cap for pool in pools]
    return None if any(cap is None for cap in caps) else sum(cap for cap in caps if cap is not None)


def distribute(count: int, pools: Sequence[Pool], filling: Filling, now: Sequence[int] = ()) -> tuple[int, ...]:
    """Members of each pool when there are to be `count`, given those that each has now; their sum is less where no room is left.

    Nobody moves: where members must come, others stay, and the other way round. In order: the first pool with room gets the next member,
    the last that has some loses one. Evenly: the emptiest with room gets it, the fullest loses it. Pools above their cap are brought down
    to it first.
    """
    counts = (
        [min(have, pool.cap) if pool.cap is not None else have for have, pool in zip(now, pools, strict=True)]
        if now
        else []
    )
    counts = counts or [0] * len(pools)
    while sum(counts) < count:
        free = [i for i, pool in enumerate(pools) if pool.cap is None or counts[i] < pool.cap]
        if not free:
            break
        counts[_first(free, counts, filling)] += 1
    while sum(counts) > max(count, 0):
        some = [i for i, have in enumerate(counts) if have]
        counts[_last(some, counts, filling)] -= 1
    return tuple(counts)


def _first(free: Sequence[int], counts: Sequence[int], filling: Filling) -> int:
    return free[0] if filling is Filling.IN_ORDER else min(free, key=lambda i: (counts[i], i))


def _last(some: Sequence[int], counts: Sequence[int], filling: Filling) -> int:
    return some[-1] if filling is Filling.IN_ORDER else max(some, key=lambda i: (counts[i], i))

"""Whether a word is a slip of another."""

from collections.abc import Iterable


def distance(one: str, other: str, limit: int) -> int:
    """Letters to add, drop, change or swap with their neighbour to make other of one; limit + 1 where it is more than limit."""
    if abs(len(one) - len(other)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)


def plain(word: str) -> str:
    """Without case, hyphens and underscores."""
    return word.replace("-", "").replace("_", "").lower()


def near_miss(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one is likely meant to be; None: none is near.

    Spelling aside, one letter in words from four letters on, two from eight on.
    """
    if len(word) > 100:
        return None
    best: tuple[int, str] | None = None
    for candidate in known:
        limit = 2 if len(candidate) >= 8 else 1 if len(candidate) >= 4 else 0
        found = distance(plain(word), plain(candidate), limit)
        if found <= limit and (best is None or found < best[0]):
            best = (found, candidate)
    return best[1] if best else None

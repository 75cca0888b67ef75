"""A store that was put back from a backup is noticed by what agents remember."""

import pytest

from controlplane.domain.lineage import EpochStart, has_lost_history

STARTS = (EpochStart(100, 1), EpochStart(200, 50), EpochStart(300, 90))


@pytest.mark.parametrize(
    ("term", "revision", "is_lost", "why"),
    [
        (0, 0, False, "an agent that was told nothing yet"),
        (100, 49, False, "all of an older epoch"),
        (100, 50, True, "the older epoch went on after the backup was taken"),
        (200, 89, False, "the end of the epoch before"),
        (300, 120, False, "the newest revision"),
        (300, 121, True, "more than this store has"),
        (250, 10, True, "an epoch that this store never had, however low the revision"),
        (400, 10, True, "an epoch after all of ours"),
    ],
)
def test_what_an_agent_knows_tells_whether_the_store_went_back(
    term: int, revision: int, is_lost: bool, why: str
) -> None:
    assert has_lost_history(STARTS, 120, term, revision) is is_lost, why

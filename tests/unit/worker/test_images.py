"""Which images go, and in which order."""

from hostagent.journal.state import PulledImage
from hostagent.worker.images import MAX_AGE_SECONDS, next_removal

OLD, NEW = PulledImage("old", 0, 100), PulledImage("new", 0, 200)


def test_nothing_goes_while_there_is_room_and_time() -> None:
    assert next_removal([OLD, NEW], (), now=300, disk_percent=80, is_emptying=False) is None


def test_the_longest_unused_goes_first_until_the_low_mark() -> None:
    assert next_removal([NEW, OLD], (), now=300, disk_percent=90, is_emptying=False) == OLD
    assert next_removal([NEW], (), now=300, disk_percent=80, is_emptying=True) == NEW
    assert next_removal([NEW], (), now=300, disk_percent=74, is_emptying=True) is None


def test_a_used_image_never_goes() -> None:
    assert next_removal([OLD], {"old"}, now=1e9, disk_percent=99, is_emptying=True) is None


def test_age_is_enough() -> None:
    now = 101 + MAX_AGE_SECONDS
    assert next_removal([OLD, NEW], (), now=now, disk_percent=1, is_emptying=False) == OLD
    assert next_removal([NEW], (), now=now, disk_percent=1, is_emptying=False) is None

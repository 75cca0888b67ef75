"""What a host says of itself."""

from pathlib import Path

from hostagent.facts import disk_condition, held_digests, machine_mark
from hostagent.journal.state import PulledImage
from moorage.devices import MOST_IMAGES


def test_a_mark_is_of_the_folder_and_the_machine() -> None:
    assert machine_mark("a") == machine_mark("a")
    assert machine_mark("a") != machine_mark("b")


def test_a_disk_that_cannot_be_asked_is_no_condition(tmp_path: Path) -> None:
    assert disk_condition(str(tmp_path / "nowhere")) is None


def test_the_images_that_were_used_last_are_told() -> None:
    images = [PulledImage(f"127.0.0.1:5577/p/app@sha256:{number:03}", 0, number) for number in range(MOST_IMAGES + 2)]
    found = held_digests(images)
    assert len(found) == MOST_IMAGES
    assert found[0] == "sha256:002"
    assert found == held_digests(reversed(images)), "in one order, so that only a change is a change"

"""What a host says of itself."""

from pathlib import Path

from hostagent.facts import disk_condition, machine_mark


def test_a_mark_is_of_the_folder_and_the_machine() -> None:
    assert machine_mark("a") == machine_mark("a")
    assert machine_mark("a") != machine_mark("b")


def test_a_disk_that_cannot_be_asked_is_no_condition(tmp_path: Path) -> None:
    assert disk_condition(str(tmp_path / "nowhere")) is None

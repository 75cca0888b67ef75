"""Volumes on a host: made once, found again, never made in place of files that are lost, removed only on request."""

import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.domain import (
    ContainerObservation,
    ContainerPhase,
    HostVolume,
    InstanceAssignment,
    VolumeAssignment,
    VolumeUsage,
)
from hostagent.executor.host_state import GENERATION_LABEL, INSTANCE_LABEL, NONCE_LABEL, HostState
from hostagent.executor.volumes import InstanceVolumes
from hostagent.journal.journal import AssignmentChange, Journal
from hostagent.volumes import images
from hostagent.volumes.store import VolumeStore
from hostagent.worker.volumes import VolumeMeter
from moorage.clock import ManualClock
from moorage.errors import InvalidSpec, NotFound, NotReady, Unavailable
from moorage.ids import ContainerId, InstanceId
from tests.fakes.engine import FakeEngine
from tests.unit.worker.world import assignment

VOLUME = HostVolume("v1", 1, owner_uid=os.getuid(), owner_gid=os.getgid(), mode=0o750)


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(tmp_path / "volumes")


def test_it_is_made_once(store: VolumeStore, tmp_path: Path) -> None:
    data = store.prepare(VOLUME)
    assert data == tmp_path / "volumes/v1-1/data"
    assert data.stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "volumes").stat().st_mode & 0o7777 == 0o700
    (data / "file").write_text("kept")
    assert store.prepare(replace(VOLUME, must_exist=True, mode=0o700)) == data
    assert (data / "file").read_text() == "kept"
    assert data.stat().st_mode & 0o7777 == 0o750
    assert store.prepare(replace(VOLUME, incarnation=2)) != data


def test_what_is_lost_is_not_made_anew(store: VolumeStore) -> None:
    with pytest.raises(NotReady) as refused:
        store.prepare(replace(VOLUME, must_exist=True))
    assert refused.value.reason == "VOLUME_MISSING"


def test_a_make_that_was_cut_off_is_begun_again(store: VolumeStore, tmp_path: Path) -> None:
    left = tmp_path / "volumes/v1-1/data.new"
    left.mkdir(parents=True)
    left.chmod(0o700)
    assert store.prepare(VOLUME).stat().st_mode & 0o7777 == 0o750
    assert not left.exists()


def test_a_folder_of_it(store: VolumeStore) -> None:
    data = store.prepare(VOLUME)
    assert store.resolve(VOLUME, "") == data
    made = store.resolve(VOLUME, "a/b")
    assert made == data / "a/b"
    assert made.stat().st_mode & 0o7777 == 0o750
    (data / "out").symlink_to("/etc")
    (data / "file").write_text("")
    for path in ("out", "out/x", "file", "file/x"):
        with pytest.raises((InvalidSpec, NotADirectoryError)) as refused:
            store.resolve(VOLUME, path)
        assert isinstance(refused.value, InvalidSpec)


def test_what_it_takes(store: VolumeStore) -> None:
    assert store.usage(VOLUME) is None
    data = store.prepare(VOLUME)
    empty = store.usage(VOLUME)
    (data / "a").mkdir()
    (data / "a/file").write_bytes(b"x" * 100_000)
    (data / "link").hardlink_to(data / "a/file")
    (data / "loop").symlink_to(".")
    used = store.usage(VOLUME)
    assert empty is not None
    assert used is not None
    assert 100_000 <= used[0] - empty[0] < 200_000
    assert used[1] == 0


def test_it_is_removed_with_all_that_is_in_it(store: VolumeStore, tmp_path: Path) -> None:
    store.remove(VOLUME)
    data = store.prepare(VOLUME)
    (data / "file").write_text("")
    (data / "outside").symlink_to(tmp_path)
    (tmp_path / "volumes/.removed-earlier/x").mkdir(parents=True)
    store.remove(VOLUME)
    assert list((tmp_path / "volumes").iterdir()) == []


def needing(instance_id: str, *wanted: VolumeAssignment) -> InstanceAssignment:
    return replace(assignment(), instance_id=InstanceId(instance_id), name=instance_id, volumes=wanted)


async def test_two_instances_never_have_what_one_may_have(store: VolumeStore, tmp_path: Path) -> None:
    journal, state = Journal.open(tmp_path, now=time.time()), HostState(nonce="n")
    woken: list[int] = []
    volumes = InstanceVolumes(store, FakeEngine(), journal, state, lambda: woken.append(1))
    mine = VolumeAssignment(VOLUME, "/data", exclusive=True)
    one, two = needing("i1", mine), needing("i2", mine)
    journal.apply(AssignmentChange(False, 1, 1, (one, two)), now=0)
    assert not volumes.is_ready(one)
    await volumes.prepare(one)
    assert volumes.is_ready(one)
    assert woken == [1]
    (mount,) = volumes.mounts(one.instance_id)
    assert (mount.target, mount.source, mount.kind) == ("/data", str(tmp_path / "volumes/v1-1/data"), "bind")
    labels = {INSTANCE_LABEL: "i1", NONCE_LABEL: "n", GENERATION_LABEL: "1"}
    state.put(ContainerObservation(ContainerId("c"), "c", labels, ContainerPhase.RUNNING))
    with pytest.raises(Unavailable) as busy:
        await volumes.prepare(two)
    assert busy.value.reason == "VOLUME_BUSY"
    with pytest.raises(NotReady) as used:
        await volumes.remove(VOLUME)
    assert used.value.reason == "VOLUME_IN_USE"
    state.drop(one.instance_id, ContainerId("c"))
    await volumes.prepare(two)
    volumes.look_again(two.instance_id)
    assert not volumes.is_ready(two)
    journal.apply(AssignmentChange(True, 2, 2), now=0)
    journal.forget(one.instance_id)
    journal.forget(two.instance_id)
    await volumes.remove(VOLUME)
    assert not (tmp_path / "volumes/v1-1").exists()
    journal.close()


async def test_what_volumes_take_is_told_when_it_changes(store: VolumeStore, tmp_path: Path) -> None:
    journal, state = Journal.open(tmp_path, now=time.time()), HostState(nonce="n")
    told: list[VolumeUsage] = []
    volumes = InstanceVolumes(store, FakeEngine(), journal, state, lambda: None)
    meter = VolumeMeter(volumes, ManualClock(), told.extend)
    wanted = needing("i1", VolumeAssignment(VOLUME, "/data"), VolumeAssignment(VOLUME, "/again"))
    journal.apply(AssignmentChange(False, 1, 1, (wanted,)), now=0)
    await meter.measure_once()
    assert told == []
    await volumes.prepare(wanted)
    await meter.measure_once()
    await meter.measure_once()
    assert [one.volume_id for one in told] == ["v1"]
    meter.renew()
    await meter.measure_once()
    assert len(told) == 2
    journal.close()


async def chunks_of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_a_backup_restores_to_the_same(store: VolumeStore, tmp_path: Path) -> None:
    journal, state = Journal.open(tmp_path, now=time.time()), HostState(nonce="n")
    volumes = InstanceVolumes(store, FakeEngine(), journal, state, lambda: None)
    data = store.prepare(VOLUME)
    (data / "folder").mkdir(mode=0o711)
    (data / "folder/file").write_bytes(os.urandom(100_000))
    (data / "folder/link").symlink_to("/etc/passwd")
    (data / "hard").hardlink_to(data / "folder/file")
    with (data / "sparse").open("wb") as file:
        file.truncate(50_000_000)
    tar = b"".join([chunk async for chunk in volumes.read(VOLUME, no_pause=False)])
    assert len(tar) < 1_000_000
    content = (data / "folder/file").read_bytes()
    (data / "folder/file").unlink()
    (data / "later").write_text("goes")
    with pytest.raises(InvalidSpec) as refused:
        await volumes.write(VOLUME, chunks_of(tar[: len(tar) // 2]))
    assert refused.value.violations[0].reason == "ARCHIVE_INVALID"
    with pytest.raises(InvalidSpec):
        await volumes.write(VOLUME, chunks_of(b"this is no tar" * 1000))
    with pytest.raises(InvalidSpec):
        await volumes.write(VOLUME, chunks_of(b""))
    assert (data / "later").exists(), "nothing changes unless it came in whole"
    await volumes.write(VOLUME, chunks_of(tar))
    assert sorted(path.name for path in data.iterdir()) == ["folder", "hard", "sparse"]
    assert (data / "folder/file").read_bytes() == content
    assert (data / "folder/file").samefile(data / "hard")
    assert os.readlink(data / "folder/link") == "/etc/passwd"
    assert (data / "folder").stat().st_mode & 0o777 == 0o711
    assert (data / "sparse").stat().st_size == 50_000_000
    assert (data / "sparse").stat().st_blocks * 512 < 1_000_000
    assert sorted(path.name for path in (tmp_path / "volumes").iterdir()) == ["v1-1"]
    assert sorted(path.name for path in data.parent.iterdir()) == ["data"]
    journal.close()


async def test_snapshots_and_clones(store: VolumeStore, tmp_path: Path) -> None:
    journal, state = Journal.open(tmp_path, now=time.time()), HostState(nonce="n")
    volumes = InstanceVolumes(store, FakeEngine(), journal, state, lambda: None)
    data = store.prepare(VOLUME)
    (data / "file").write_text("one")
    await volumes.snapshot(VOLUME, "s1", no_pause=False)
    (data / "file").write_text("two")
    await volumes.snapshot(VOLUME, "s1", no_pause=False)  # asked again: the first one counts
    clone = replace(VOLUME, volume_id="v2")
    await volumes.copy(clone, VOLUME, "")
    await volumes.copy(VOLUME, VOLUME, "s1")
    assert (data / "file").read_text() == "one"
    assert (store.prepare(clone) / "file").read_text() == "two"
    tar = b"".join([chunk async for chunk in volumes.read(VOLUME, no_pause=False, snapshot_id="s1")])
    assert b"one" in tar
    await volumes.remove_snapshot(VOLUME, "s1")
    await volumes.remove_snapshot(VOLUME, "s1")
    with pytest.raises(NotFound) as missing:
        await volumes.copy(clone, VOLUME, "s1")
    assert missing.value.reason == "SNAPSHOT_MISSING"
    assert (store.prepare(clone) / "file").read_text() == "two"
    assert sorted(path.name for path in (tmp_path / "volumes").iterdir()) == ["v1-1", "v2-1"]
    journal.close()


async def test_instances_stand_still_while_their_volume_is_read(store: VolumeStore, tmp_path: Path) -> None:
    journal, state, engine = Journal.open(tmp_path, now=time.time()), HostState(nonce="n"), Pausing()
    volumes = InstanceVolumes(store, engine, journal, state, lambda: None)  # type: ignore[arg-type]
    one, other = needing("i1", VolumeAssignment(VOLUME, "/data")), needing("i2")
    journal.apply(AssignmentChange(False, 1, 1, (one, other)), now=0)
    await volumes.prepare(one)
    for number in ("1", "2"):
        labels = {INSTANCE_LABEL: f"i{number}", NONCE_LABEL: "n", GENERATION_LABEL: "1"}
        state.put(ContainerObservation(ContainerId(f"c{number}"), "c", labels, ContainerPhase.RUNNING))
    reading = volumes.read(VOLUME, no_pause=False)
    await anext(reading)
    assert engine.paused == {"c1"}
    assert state.held == {"i1"}
    await reading.aclose()  # type: ignore[attr-defined]
    assert engine.paused == set()
    assert state.held == set()
    unpaused = volumes.read(VOLUME, no_pause=True)
    await anext(unpaused)
    assert engine.paused == set()
    await unpaused.aclose()  # type: ignore[attr-defined]
    with pytest.raises(NotReady) as refused:
        await volumes.write(VOLUME, chunks_of(b""))
    assert refused.value.reason == "VOLUME_IN_USE"
    assert volumes.is_ready(other)
    journal.close()


def test_an_exchange_that_was_cut_off_is_finished(store: VolumeStore) -> None:
    data = store.prepare(VOLUME)
    (data / "old").write_text("")
    (store.begin_refill(VOLUME) / "new").write_text("")
    assert store.prepare(VOLUME) == data
    assert (data / "old").exists()
    (data.parent / "data.incoming.whole").touch()
    data.rename(data.with_name("gone"))
    assert store.prepare(replace(VOLUME, must_exist=True)) == data
    assert (data / "new").exists()


class Pausing:
    """Remembers who is paused."""

    def __init__(self) -> None:
        self.paused: set[str] = set()

    async def pause(self, container_id: str) -> None:
        self.paused.add(container_id)

    async def unpause(self, container_id: str) -> None:
        self.paused.discard(container_id)


@pytest.mark.skipif(os.geteuid() != 0 or bool(images.problem()), reason="needs root, loop devices and mkfs.ext4")
def test_a_limit_holds(store: VolumeStore, tmp_path: Path) -> None:
    small = replace(VOLUME, size_bytes=16 * 1024 * 1024)
    try:
        data = store.prepare(small)
        assert data.stat().st_mode & 0o7777 == 0o750
        with pytest.raises(OSError, match="No space left"):
            (data / "big").write_bytes(b"x" * 20 * 1024 * 1024)
        used = store.usage(small)
        assert used is not None
        assert 8 * 1024 * 1024 < used[1] <= 16 * 1024 * 1024
        images.unmount(data.parent)  # as after a restart of the machine
        assert store.prepare(replace(small, must_exist=True)) == data
        assert (data / "big").exists()
        (data / "big").unlink()
        (store.begin_refill(small) / "new").write_text("")
        store.finish_refill(small)
        assert [path.name for path in data.iterdir()] == ["new"]
    finally:
        store.remove(small)
    assert list((tmp_path / "volumes").iterdir()) == []
    with pytest.raises(NotReady) as lost:
        store.prepare(replace(small, must_exist=True))
    assert lost.value.reason == "VOLUME_MISSING"

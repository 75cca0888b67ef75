"""Volumes on a host: made once, found again, never made in place of files that are lost, removed only on request."""

import os
import time
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
from hostagent.volumes.store import VolumeStore
from hostagent.worker.volumes import VolumeMeter
from moorage.clock import ManualClock
from moorage.errors import InvalidSpec, NotReady, Unavailable
from moorage.ids import ContainerId, InstanceId
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
    assert store.used_bytes(VOLUME) is None
    data = store.prepare(VOLUME)
    empty = store.used_bytes(VOLUME)
    (data / "a").mkdir()
    (data / "a/file").write_bytes(b"x" * 100_000)
    (data / "link").hardlink_to(data / "a/file")
    (data / "loop").symlink_to(".")
    used = store.used_bytes(VOLUME)
    assert empty is not None
    assert used is not None
    assert 100_000 <= used - empty < 200_000


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
    volumes = InstanceVolumes(store, journal, state, lambda: woken.append(1))
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
    volumes = InstanceVolumes(store, journal, state, lambda: None)
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

"""What a volume needs next, decided from values alone: the same scene, the same actions; none when all is well.

Safety hangs on this: a volume begins anew elsewhere only when its host is given up, somebody waits for it, and whoever had it there has let
go; it is forgotten only when no host of the fleet has files of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.claims import has_let_go
from controlplane.domain.hosts import Host, HostLinkState
from controlplane.domain.instances import Instance
from controlplane.domain.volumes import (
    HostLossPolicy,
    Volume,
    VolumeCopy,
    VolumeFill,
    VolumeRemoval,
    VolumeSnapshot,
    VolumeSnapshotState,
    own_copy,
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A volume and all that decides about it."""

    volume: Volume
    users: Sequence[Instance]
    hosts: Mapping[str, Host]  # by uid: those of the fleet that it, its snapshots and what is copied into it name
    is_owner_gone: bool = False
    snapshots: Sequence[VolumeSnapshot] = ()


@dataclass(frozen=True, slots=True)
class AskRemoval:
    """Send the volume away."""

    why: str


@dataclass(frozen=True, slots=True)
class RemoveFiles:
    """Have a host remove files of the volume. Takes as long as it takes."""

    copy: VolumeCopy
    why: str


@dataclass(frozen=True, slots=True)
class Forget:
    """No host has files of it."""

    why: str


@dataclass(frozen=True, slots=True)
class StartAnew:
    """Let it begin without files, on whatever host it is needed."""

    left_behind: tuple[VolumeCopy, ...]  # that its host still has
    why: str


@dataclass(frozen=True, slots=True)
class Lose:
    """Its files cannot be had."""

    why: str


@dataclass(frozen=True, slots=True)
class Find:
    """Its files can be had again."""

    why: str


@dataclass(frozen=True, slots=True)
class Fill:
    """Have what is asked for copied into the volume. Takes as long as it takes."""

    fill: VolumeFill
    why: str


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Have its host keep what the volume has now. Takes as long as it takes."""

    snapshot: VolumeSnapshot
    why: str


@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """Have a host remove a snapshot. Takes as long as it takes."""

    snapshot: VolumeSnapshot
    why: str


@dataclass(frozen=True, slots=True)
class ForgetSnapshot:
    """Its host is gone, and the snapshot with it."""

    snapshot: VolumeSnapshot
    why: str


#: What hosts do; the rest is written down at once.
Work = RemoveFiles | Fill | TakeSnapshot | RemoveSnapshot
Action = (
    AskRemoval | RemoveFiles | Forget | StartAnew | Lose | Find | Fill | TakeSnapshot | RemoveSnapshot | ForgetSnapshot
)


def plan(scene: Scene) -> list[Action]:
    """What to do now."""
    volume = scene.volume
    if volume.is_deleting:
        return [] if volume.purge_time is not None else _remove(scene)
    is_free = not (scene.users or scene.snapshots or volume.fill or volume.spec.delete_protection)
    if volume.owner and scene.is_owner_gone and is_free and volume.spec.removal is VolumeRemoval.WITH_OWNER:
        return [AskRemoval(f"{volume.owner}, which made it, is gone")]
    found = _snapshots(scene)
    return [*found, *(_host_loss(scene) or _fill(scene))] if volume.host_uid else found


def _snapshots(scene: Scene) -> list[Action]:
    found: list[Action] = []
    for snapshot in scene.snapshots:
        host = scene.hosts.get(snapshot.copy.host_uid)
        if host is None:
            found.append(ForgetSnapshot(snapshot, f"hosts/{snapshot.copy.host}, which had it, was removed"))
        elif host.link_state is HostLinkState.UP and snapshot.state is VolumeSnapshotState.DELETING:
            found.append(RemoveSnapshot(snapshot, "the snapshot is deleted"))
        elif host.link_state is HostLinkState.UP and snapshot.state is VolumeSnapshotState.CREATING:
            found.append(TakeSnapshot(snapshot, "the snapshot is asked for"))
    return found


def _fill(scene: Scene) -> list[Action]:
    fill = scene.volume.fill
    if fill is None:
        return []
    ends = [scene.hosts.get(uid) for uid in (scene.volume.host_uid, fill.copy.host_uid)]
    is_possible = all(host is not None and host.link_state is HostLinkState.UP for host in ends)
    return [Fill(fill, "the volume begins with a copy")] if is_possible else []


def _remove(scene: Scene) -> list[Action]:
    left = [copy for copy in _all_files(scene.volume) if copy.host_uid in scene.hosts]
    if not left:
        return [Forget("its hosts have no files of it")]
    return [
        RemoveFiles(copy, "the volume is deleted")
        for copy in left
        if scene.hosts[copy.host_uid].link_state is HostLinkState.UP
    ]


def _all_files(volume: Volume) -> tuple[VolumeCopy, ...]:
    own = (own_copy(volume),) if volume.host_uid else ()
    return (*volume.copies, *own)


def _host_loss(scene: Scene) -> list[Action]:
    volume, host = scene.volume, scene.hosts.get(scene.volume.host_uid)
    policy = volume.spec.on_host_loss
    if host is not None and host.loss is None:
        is_back = volume.lost and host.link_state is HostLinkState.UP
        return [Find(f"hosts/{volume.host} is back")] if is_back else []
    how = f"hosts/{volume.host} was removed" if host is None else f"hosts/{volume.host} is given up"
    if policy is HostLossPolicy.REPLACE:
        if not _is_needed(scene):
            return []
        own = (own_copy(volume),) if host is not None else ()
        return [StartAnew(own, f"{how}, and an instance needs it: it begins without files (on_host_loss is REPLACE)")]
    if host is None or (policy is HostLossPolicy.FAIL and _is_needed(scene)):
        why = f"{volume.name} is lost: {how}"
        return [Lose(why)] if volume.lost != why else []
    return [Find("it is waited for")] if volume.lost and policy is HostLossPolicy.WAIT else []


def _is_needed(scene: Scene) -> bool:
    """Whether somebody waits for it, and whoever had it has let go."""
    placed = [user for user in scene.users if user.host_uid]
    return len(placed) < len(scene.users) and all(has_let_go(user) for user in placed)

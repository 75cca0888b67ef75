"""What a volume needs next, decided from values alone: the same scene, the same actions; none when all is well.

Safety hangs on this: a volume begins anew elsewhere only when its host is given up, somebody waits for it, and whoever had it there has let
go; it is forgotten only when no host of the fleet has files of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.claims import has_let_go
from controlplane.domain.hosts import Host, HostLinkState
from controlplane.domain.instances import Instance
from controlplane.domain.volumes import HostLossPolicy, Volume, VolumeCopy, VolumeRemoval


@dataclass(frozen=True, slots=True)
class Scene:
    """A volume and all that decides about it."""

    volume: Volume
    users: Sequence[Instance]
    hosts: Mapping[str, Host]  # by uid: those of the fleet that it names
    is_owner_gone: bool = False


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


Action = AskRemoval | RemoveFiles | Forget | StartAnew | Lose | Find


def plan(scene: Scene) -> list[Action]:
    """What to do now."""
    volume = scene.volume
    if volume.is_deleting:
        return _remove(scene)
    if volume.owner and scene.is_owner_gone and not scene.users and volume.spec.removal is VolumeRemoval.WITH_OWNER:
        return [AskRemoval(f"{volume.owner}, which made it, is gone")]
    return _host_loss(scene) if volume.host_uid else []


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
    own = (VolumeCopy(volume.host_uid, volume.host, volume.incarnation),) if volume.host_uid else ()
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
        own = (VolumeCopy(volume.host_uid, volume.host, volume.incarnation),) if host is not None else ()
        return [StartAnew(own, f"{how}, and an instance needs it: it begins without files (on_host_loss is REPLACE)")]
    if host is None or (policy is HostLossPolicy.FAIL and _is_needed(scene)):
        why = f"{volume.name} is lost: {how}"
        return [Lose(why)] if volume.lost != why else []
    return [Find("it is waited for")] if volume.lost and policy is HostLossPolicy.WAIT else []


def _is_needed(scene: Scene) -> bool:
    """Whether somebody waits for it, and whoever had it has let go."""
    placed = [user for user in scene.users if user.host_uid]
    return len(placed) < len(scene.users) and all(has_let_go(user) for user in placed)

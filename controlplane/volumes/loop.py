"""Wakes up on changes, lets `plan.py` decide for each volume, commits; has hosts remove files. Level-triggered."""

import logging
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from controlplane.dispatch.volume_work import HostVolumes
from controlplane.dispatch.volumes import host_volume
from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import GROUP, HOST, INSTANCE, VOLUME, VOLUME_SNAPSHOT
from controlplane.domain.volumes import Volume, VolumeCopy, VolumeSnapshot, VolumeSnapshotState
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.volumes import ask_removal, forget
from controlplane.volumes.plan import (
    Action,
    AskRemoval,
    Fill,
    Find,
    Forget,
    ForgetSnapshot,
    Lose,
    RemoveFiles,
    RemoveSnapshot,
    Scene,
    StartAnew,
    TakeSnapshot,
    Work,
    plan,
)
from moorage.errors import HistoryCompacted, MoorageError
from moorage.store.base import Change, Transaction, View
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

_KINDS = (VOLUME, VOLUME_SNAPSHOT, INSTANCE, HOST, GROUP)
_RETRY_SECONDS = 5.0


class VolumeKeeper:
    """Owns what becomes of volumes after they were made. `run` and `keep_time` are tasks of main.py's.

    Args:
        hosts: the way to the volumes of a host.
        tasks: own what hosts do, which takes its time.
    """

    def __init__(self, context: Context, hosts: HostVolumes, tasks: TaskOwner) -> None:
        self._context = context
        self._hosts = hosts
        self._tasks = tasks
        self._busy: set[str] = set()  # uids of volumes that a host works on
        self._refused: dict[str, float] = {}  # by uid, monotonic seconds at which it is tried again

    async def run(self) -> None:
        """Look after volumes until cancelled."""
        store = self._context.store
        while True:
            _, watch = store.view_and_watch(_KINDS)
            async with watch:
                await self.reconcile_once()
                try:
                    async for batch in watch:
                        if any(_matters(change) for change in batch.changes):
                            await self.reconcile_once()
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at every volume")

    async def keep_time(self) -> None:
        """Try again what hosts could not do, until cancelled."""
        while True:
            await self._context.clock.sleep(_RETRY_SECONDS)
            if self._refused:
                await self.reconcile_once()

    async def reconcile_once(self) -> None:
        """One turn over every volume; what hosts do goes on after it."""
        view = self._context.store.view()
        for found in view.all(VOLUME):
            actions = plan(_scene(view, found.value))
            if any(not isinstance(action, Work) for action in actions):
                await self._context.store.update(partial(self._settle, volume_uid=found.value.uid))
            for action in actions:
                if isinstance(action, Work):
                    self._begin(found.value, action)

    def _settle(self, tx: Transaction, volume_uid: str) -> None:
        """Decide again on the newest state, and write it down."""
        volume = lookup.by_uid(tx, VOLUME, volume_uid)
        for action in plan(_scene(tx, volume)) if volume is not None else ():
            assert volume is not None
            self._apply(tx, volume, action)

    def _apply(self, tx: Transaction, volume: Volume, action: Action) -> None:
        clock, project = self._context.clock, volume.project
        match action:
            case AskRemoval():
                if tx.find(VOLUME, "fills", volume.uid):
                    return  # a clone is being made of it, whose end begins another turn
                ask_removal(self._context, tx, volume, action.why)
            case ForgetSnapshot():
                self._forget_snapshot(tx, action.snapshot, action.why)
            case Forget():
                forget(self._context, tx, volume, action.why)
            case StartAnew():
                tx.put(
                    VOLUME,
                    replace(
                        volume,
                        host_uid="",
                        host="",
                        incarnation=volume.incarnation + 1,
                        is_made=False,
                        copies=(*volume.copies, *action.left_behind),
                        lost="",
                        fill=None,
                        message="",
                        used_bytes=0,
                        usage_time=None,
                    ),
                )
                record_event(tx, clock, volume, "BEGUN_ANEW", action.why, project=project, severity="warning")
            case Lose():
                tx.put(VOLUME, replace(volume, lost=action.why))
                record_event(tx, clock, volume, "LOST", action.why, project=project, severity="warning")
            case Find():
                tx.put(VOLUME, replace(volume, lost=""))
                record_event(tx, clock, volume, "FOUND", action.why, project=project)

    def _begin(self, volume: Volume, work: Work) -> None:
        """Begin a host's work, unless it is under way, or was refused just now. One volume has one work at a time."""
        if volume.uid in self._busy or self._refused.get(volume.uid, 0.0) > self._context.clock.monotonic():
            return
        self._busy.add(volume.uid)
        self._tasks.spawn(self._carry_out(volume, work), name=f"work on volume {volume.uid}")

    async def _carry_out(self, volume: Volume, work: Work) -> None:
        store = self._context.store
        try:
            await self._do(volume, work)
            self._refused.pop(volume.uid, None)
            await store.update(lambda tx: self._done(tx, volume, work))
        except MoorageError as error:
            self._refused[volume.uid] = self._context.clock.monotonic() + _RETRY_SECONDS
            log.warning("a host did not do its work", extra={"volume": volume.name, "reason": error.reason})
            problem = f"{error.reason}: {error.message}; it is tried again"
            await store.update(lambda tx: _note(tx, volume.uid, work, problem))
        finally:
            self._busy.discard(volume.uid)
        # What was written above was looked at while this volume was still busy: the next work of it would never begin.
        await self.reconcile_once()

    async def _do(self, volume: Volume, work: Work) -> None:
        own = host_volume(volume)
        match work:
            case RemoveFiles(copy=copy):
                await self._hosts.remove(copy.host_uid, replace(own, incarnation=copy.incarnation))
            case TakeSnapshot(snapshot=snapshot):
                wanted = replace(own, incarnation=snapshot.copy.incarnation)
                await self._hosts.snapshot(snapshot.copy.host_uid, wanted, snapshot.uid, no_pause=snapshot.no_pause)
            case RemoveSnapshot(snapshot=snapshot):
                wanted = replace(own, incarnation=snapshot.copy.incarnation)
                await self._hosts.remove_snapshot(snapshot.copy.host_uid, wanted, snapshot.uid)
            case Fill(fill=fill):
                source = replace(own, volume_id=fill.volume_uid, incarnation=fill.copy.incarnation, must_exist=True)
                if fill.copy.host_uid == volume.host_uid:
                    await self._hosts.copy(volume.host_uid, own, source, fill.snapshot_uid)
                else:
                    tar = self._hosts.read(fill.copy.host_uid, source, no_pause=False, snapshot_id=fill.snapshot_uid)
                    async with aclosing(tar):
                        await self._hosts.write(volume.host_uid, own, tar)

    def _done(self, tx: Transaction, volume: Volume, work: Work) -> None:
        clock, project = self._context.clock, volume.project
        match work:
            case RemoveFiles(copy=copy):
                _drop(tx, volume.uid, copy)
            case TakeSnapshot(snapshot=snapshot):
                now = lookup.by_uid(tx, VOLUME_SNAPSHOT, snapshot.uid)
                if now is not None and now.state is VolumeSnapshotState.CREATING:
                    tx.put(VOLUME_SNAPSHOT, replace(now, state=VolumeSnapshotState.READY, message=""))
                    record_event(tx, clock, now, "READY", f"on hosts/{snapshot.copy.host}", project=project)
            case RemoveSnapshot(snapshot=snapshot):
                self._forget_snapshot(tx, snapshot, "its host removed it")
            case Fill(fill=fill):
                current = lookup.by_uid(tx, VOLUME, volume.uid)
                if current is not None and current.fill == fill:
                    tx.put(VOLUME, replace(current, fill=None, message="", is_made=True))
                    what = "from a snapshot" if fill.snapshot_uid else "from another volume"
                    record_event(tx, clock, current, "RESTORED", what, project=project)

    def _forget_snapshot(self, tx: Transaction, snapshot: VolumeSnapshot, why: str) -> None:
        tx.delete(VOLUME_SNAPSHOT, VOLUME_SNAPSHOT.key(snapshot))
        record_event(tx, self._context.clock, snapshot, "DELETED", why, project=snapshot.project)


def _note(tx: Transaction, volume_uid: str, work: Work, problem: str) -> None:
    """Let users see why it is not done yet."""
    if isinstance(work, TakeSnapshot | RemoveSnapshot):
        snapshot = lookup.by_uid(tx, VOLUME_SNAPSHOT, work.snapshot.uid)
        if snapshot is not None and snapshot.message != problem:
            tx.put(VOLUME_SNAPSHOT, replace(snapshot, message=problem))
        return
    volume = lookup.by_uid(tx, VOLUME, volume_uid)
    if volume is not None and volume.message != problem:
        tx.put(VOLUME, replace(volume, message=problem))


def _drop(tx: Transaction, volume_uid: str, copy: VolumeCopy) -> None:
    """A host has no files of this incarnation any more."""
    volume = lookup.by_uid(tx, VOLUME, volume_uid)
    if volume is None:
        return
    is_newest = (volume.host_uid, volume.incarnation) == (copy.host_uid, copy.incarnation)
    tx.put(
        VOLUME,
        replace(
            volume,
            host_uid="" if is_newest else volume.host_uid,
            host="" if is_newest else volume.host,
            copies=tuple(other for other in volume.copies if other != copy),
        ),
    )


def _scene(view: View, volume: Volume) -> Scene:
    snapshots = [found.value for found in view.find(VOLUME_SNAPSHOT, "volume", volume.uid)]
    uids = {volume.host_uid, *(copy.host_uid for copy in volume.copies), *(one.copy.host_uid for one in snapshots)}
    uids = uids | ({volume.fill.copy.host_uid} if volume.fill is not None else set()) - {""}
    hosts = {uid: host for uid in sorted(uids) if (host := lookup.by_uid(view, HOST, uid)) is not None}
    users = [found.value for found in view.find(INSTANCE, "volume", volume.uid)]
    group = volume.owner.rpartition("/")[2]
    is_owner_gone = bool(group) and view.get(GROUP, f"{volume.project}/{group}") is None
    return Scene(volume, users, hosts, is_owner_gone, snapshots)


def _matters(change: Change) -> bool:
    before = change.before.value if change.before is not None else None
    after = change.after.value if change.after is not None else None
    if change.kind in (VOLUME, VOLUME_SNAPSHOT):
        return True
    if change.kind is GROUP:
        return after is None
    if change.kind is HOST:
        return bool(_link(before) != _link(after))
    return bool(_use(before) != _use(after))


def _link(host: Host | None) -> Any:
    return None if host is None else (host.link_state, host.loss is None)


def _use(instance: Instance | None) -> Any:
    if instance is None or not instance.volume_uids:
        return None
    return instance.volume_uids, instance.host_uid, instance.given_up, instance.is_claim_free

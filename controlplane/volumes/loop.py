"""Wakes up on changes, lets `plan.py` decide for each volume, commits; has hosts remove files. Level-triggered."""

import logging
from dataclasses import replace
from functools import partial
from typing import Any

from controlplane.dispatch.volume_work import HostVolumes
from controlplane.dispatch.volumes import host_volume
from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import GROUP, HOST, INSTANCE, VOLUME
from controlplane.domain.volumes import Volume, VolumeCopy
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.volumes import ask_removal, forget
from controlplane.volumes.plan import Action, AskRemoval, Find, Forget, Lose, RemoveFiles, Scene, StartAnew, plan
from moorage.errors import HistoryCompacted, MoorageError
from moorage.store.base import Change, Transaction, View
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

_KINDS = (VOLUME, INSTANCE, HOST, GROUP)
_RETRY_SECONDS = 5.0


class VolumeKeeper:
    """Owns what becomes of volumes after they were made. `run` and `keep_time` are tasks of main.py's.

    Args:
        hosts: the way to the volumes of a host.
        tasks: own the removals, which take their time.
    """

    def __init__(self, context: Context, hosts: HostVolumes, tasks: TaskOwner) -> None:
        self._context = context
        self._hosts = hosts
        self._tasks = tasks
        self._removing: set[VolumeCopy] = set()
        self._refused: dict[VolumeCopy, float] = {}  # monotonic seconds at which it is tried again

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
        """One turn over every volume; removals go on after it."""
        view = self._context.store.view()
        for found in view.all(VOLUME):
            actions = plan(_scene(view, found.value))
            if any(not isinstance(action, RemoveFiles) for action in actions):
                await self._context.store.update(partial(self._settle, volume_uid=found.value.uid))
            for action in actions:
                if isinstance(action, RemoveFiles):
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
                ask_removal(self._context, tx, volume, action.why)
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

    def _begin(self, volume: Volume, action: RemoveFiles) -> None:
        copy = action.copy
        if copy in self._removing or self._refused.get(copy, 0.0) > self._context.clock.monotonic():
            return
        self._removing.add(copy)
        self._tasks.spawn(self._remove(volume, copy), name=f"files of volume {volume.uid}")

    async def _remove(self, volume: Volume, copy: VolumeCopy) -> None:
        try:
            await self._hosts.remove(copy.host_uid, replace(host_volume(volume), incarnation=copy.incarnation))
            await self._context.store.update(lambda tx: _drop(tx, volume.uid, copy))
            self._refused.pop(copy, None)
        except MoorageError as error:
            self._refused[copy] = self._context.clock.monotonic() + _RETRY_SECONDS
            log.warning("a host did not remove a volume", extra={"volume": volume.name, "reason": error.reason})
        finally:
            self._removing.discard(copy)


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
    uids = {volume.host_uid, *(copy.host_uid for copy in volume.copies)} - {""}
    hosts = {uid: host for uid in sorted(uids) if (host := lookup.by_uid(view, HOST, uid)) is not None}
    users = [found.value for found in view.find(INSTANCE, "volume", volume.uid)]
    group = volume.owner.rpartition("/")[2]
    is_owner_gone = bool(group) and view.get(GROUP, f"{volume.project}/{group}") is None
    return Scene(volume, users, hosts, is_owner_gone)


def _matters(change: Change) -> bool:
    before = change.before.value if change.before is not None else None
    after = change.after.value if change.after is not None else None
    if change.kind is VOLUME:
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

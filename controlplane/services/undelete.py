"""Undelete: instances, groups and volumes that were deleted in a project with an undelete window, and what they had.

An instance stands still meanwhile: its container with its files, its addresses, ports and room on its host are kept, and count. A group's
members go at once, and are made anew; its record, revisions and slots are kept. A volume keeps its files.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from controlplane.domain.groups import Group, GroupState
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.kinds import GROUP, INSTANCE, VOLUME
from controlplane.domain.volumes import Volume
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from moorage.errors import NotReady
from moorage.store.base import Kind, Transaction, View

T = TypeVar("T", Instance, Group, Volume)


def purge_time_of(view: View, project_id: str, now: datetime, *, at_once: bool) -> datetime | None:
    """Until when something that is deleted now is kept; None: it is not."""
    seconds = lookup.project(view, project_id).undelete_window_seconds
    return now + timedelta(seconds=seconds) if seconds and not at_once else None


def kept(
    instance: Instance, now: datetime, purge_time: datetime, revision: int, *, force: bool, drains: bool
) -> Instance:
    """An instance that is deleted and kept.

    Args:
        revision: of the commit that does it.
        drains: balancers lead clients to it: it stands still once they are gone.
    """
    return replace(
        instance,
        desired=instance.desired if drains else DesiredState.STOPPED,
        force=force,
        leave_time=instance.leave_time or now,
        leave_revision=revision,
        purge_time=purge_time,
        was_stopped=instance.desired is DesiredState.STOPPED,
        generation=instance.generation + 1,
    )


def taken_hint(view: View, kind: Kind[T], key: str, command: str) -> str:
    """For an error about a taken name: that its holder was deleted, and is kept; empty when it is not."""
    found = view.get(kind, key)
    time = None if found is None else found.value.purge_time
    return "" if time is None else f" (deleted, and kept until {words_of(time)}; `{command}` frees the name)"


def words_of(time: datetime) -> str:
    """For people."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


class UndeleteService:
    """Brings back what is still kept."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def instance(self, project_id: str, instance_id: str) -> Instance:
        """Bring an instance back; it runs unless it was stopped before. Raises NotFound, NotReady (NOT_DELETED, INSTANCE_DELETING)."""

        def restored(found: Instance) -> Instance:
            if found.desired is DesiredState.DELETED:
                raise NotReady(f"{found.name} is being removed already", reason="INSTANCE_DELETING")
            is_still = found.desired is DesiredState.STOPPED
            return replace(
                found,
                desired=DesiredState.STOPPED if found.was_stopped else DesiredState.RUNNING,
                run_request=found.run_request + (1 if is_still and not found.was_stopped else 0),
                force=False,
                leave_time=None,
                leave_revision=0,
                was_stopped=False,
            )

        return await self._undelete(lambda tx: lookup.instance(tx, project_id, instance_id), INSTANCE, restored)

    async def group(self, project_id: str, group_id: str) -> Group:
        """Bring a group back; its members are made anew. Raises NotFound, NotReady (NOT_DELETED)."""

        def restored(found: Group) -> Group:
            now = self._context.clock.now()
            return replace(
                found, is_deleting=False, state=GroupState.DEGRADED, reason="", message="", progress_time=now
            )

        return await self._undelete(lambda tx: lookup.group(tx, project_id, group_id), GROUP, restored)

    async def volume(self, project_id: str, volume_id: str) -> Volume:
        """Bring a volume back with its files. Raises NotFound, NotReady (NOT_DELETED)."""

        def restored(found: Volume) -> Volume:
            return replace(found, is_deleting=False)

        return await self._undelete(lambda tx: lookup.volume(tx, project_id, volume_id), VOLUME, restored)

    async def _undelete(self, find: Callable[[Transaction], T], kind: Kind[T], restored: Callable[[T], T]) -> T:
        def change(tx: Transaction) -> T:
            found: Any = find(tx)
            if found.purge_time is None:
                text = f"{found.name} is not deleted, or not kept; only what was deleted in a project with an undelete window is"
                raise NotReady(text, reason="NOT_DELETED", metadata={"name": found.name})
            changed: T = replace(restored(found), purge_time=None, generation=found.generation + 1)
            tx.put(kind, changed)
            record_event(tx, self._context.clock, changed, "UNDELETED", "asked for", project=found.project)
            return changed

        return await self._context.store.update(change)

"""What callers see of groups: how one stands, and what would happen to it. Reads only."""

import asyncio

from controlplane.domain.groups import Group, GroupStatus
from controlplane.rollout.reading import read
from controlplane.rollout.status import group_status
from controlplane.rollout.waves import Waves, waves
from controlplane.rollout.world import World
from controlplane.services.context import Context
from moorage.store.base import View


class Looking:
    """Looks at groups with the eyes of the rollout, which acts on the same world."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._one_at_a_time = asyncio.Lock()

    def status(self, group: Group) -> GroupStatus:
        """How it stands now."""
        return group_status(read(self._context.store.view(), group, self._context.clock.now()))

    def world(self, view: View, group: Group) -> World:
        """All that is looked at. `view`: with the group as it is, or as it would be."""
        return read(view, group, self._context.clock.now())

    async def ahead(self, world: World) -> Waves:
        """What would happen from now on, if nothing went wrong. Off the event loop, one at a time: of a large group it takes seconds."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(waves, world)

"""What callers see of groups: how one stands, and what would happen to it. Reads only."""

from controlplane.domain.groups import Group, GroupStatus
from controlplane.rollout.reading import read
from controlplane.rollout.status import group_status
from controlplane.rollout.waves import Waves, waves
from controlplane.services.context import Context
from moorage.store.base import View


class Looking:
    """Looks at groups with the eyes of the rollout, which acts on the same world."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def status(self, group: Group) -> GroupStatus:
        """How it stands now."""
        return group_status(read(self._context.store.view(), group, self._context.clock.now()))

    def ahead(self, view: View, group: Group) -> Waves:
        """What would happen from now on, if nothing went wrong. `view`: with the group as it would be."""
        return waves(read(view, group, self._context.clock.now()))

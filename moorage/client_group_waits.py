"""Waiting for groups: until their members are as they were asked to be, or gone."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from moorage.client_waits import Limit, Waits, project_of
from moorage.errors import Internal, NotFound, NotReady

if TYPE_CHECKING:
    from moorage.v1 import groups_pb2, watch_pb2
    from moorage.v1.groups_pb2_grpc import GroupServiceAsyncStub


class GroupWaits(Waits):
    """What `moorage.client.Client` has of it."""

    @property
    @abstractmethod
    def groups(self) -> "GroupServiceAsyncStub": ...

    async def wait_group(
        self,
        name: str,
        timeout_seconds: float | None = None,
        *,
        revision: int = 0,
        on_change: "Callable[[groups_pb2.Group], None] | None" = None,
    ) -> "groups_pb2.Group":
        """Wait until a group has all its members, ready and of its target revision; or its canaries, which wait for PromoteGroup.

        Args:
            name: projects/{project}/groups/{group}.
            revision: that must be the target still; 0: any.
            on_change: called with each version that is seen.
        Raises:
            DeadlineExceeded: it is not so yet. NotFound: the group is gone.
            NotReady: the rollout failed or was rolled back (the reason and the words of its status), has another target now
            (TARGET_CHANGED), or is paused (GROUP_PAUSED).
        """
        from moorage.v1 import groups_pb2

        said = "not seen"

        async def read() -> list[str]:
            return [name]

        following = aclosing(self._follow(project_of(name), ("groups", "instances"), read, _group_concerned))
        async with Limit(timeout_seconds, lambda: f"group {name} ({said})"), following as changes:
            async for _, concerned in changes:
                if concerned != name:
                    continue
                group = await self.groups.GetGroup(groups_pb2.GetGroupRequest(name=name))
                if on_change is not None:
                    on_change(group)
                if _is_as_asked(group, revision):
                    return group
                status = group.status
                said = status.message or f"{status.ready} of {status.wanted} ready"
        raise Internal("a watch ended without an error")

    async def wait_group_gone(self, name: str, timeout_seconds: float | None = None) -> None:
        """Wait until nothing of a group is left. Raises DeadlineExceeded."""
        from moorage.v1 import groups_pb2

        said = "not seen"

        async def read() -> list[str]:
            return [name]

        following = aclosing(self._follow(project_of(name), ("groups", "instances"), read, _group_concerned))
        async with Limit(timeout_seconds, lambda: f"the end of group {name} ({said})"), following as changes:
            async for _, concerned in changes:
                if concerned != name:
                    continue
                try:
                    group = await self.groups.GetGroup(groups_pb2.GetGroupRequest(name=name))
                except NotFound:
                    return
                said = f"{group.status.members} members"
        raise Internal("a watch ended without an error")


def _group_concerned(change: "watch_pb2.Change") -> str:
    """The name of the group that a change is of, or of one of whose members."""
    return change.group.name if change.HasField("group") else change.instance.status.owner


def _is_as_asked(group: "groups_pb2.Group", revision: int) -> bool:
    """Whether a group is what was asked for. Raises NotReady: it will not be, or not without a word."""
    from moorage.v1 import groups_pb2

    status, of = group.status, {"name": group.name}
    if status.state == groups_pb2.GROUP_STATE_FAILED:
        raise NotReady(f"{group.name}: {status.message}", reason=status.reason or "ROLLOUT_FAILED", metadata=of)
    if revision and status.target_revision != revision:
        what = status.message or f"it has revision {status.target_revision} as its target now, not {revision}"
        raise NotReady(f"{group.name}: {what}", reason=status.reason or "TARGET_CHANGED", metadata=of)
    if status.state == groups_pb2.GROUP_STATE_CANARY:
        return True
    is_settled = status.target_revision == status.stable_revision
    if status.state == groups_pb2.GROUP_STATE_PAUSED and not is_settled:
        raise NotReady(f"{group.name} is paused; resume it", reason="GROUP_PAUSED", metadata=of)
    # Ready is not enough: the state says whether they have been so for long enough.
    is_calm = status.state in (groups_pb2.GROUP_STATE_STABLE, groups_pb2.GROUP_STATE_PAUSED)
    return is_calm and is_settled and status.wanted == status.members == status.ready == status.updated

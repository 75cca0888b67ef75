"""Groups as a test sees them: made, waited for, and watched for what they must never do."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import field_mask_pb2

from moorage.client import paginate
from moorage.errors import NotFound
from moorage.v1 import groups_pb2, watch_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support.plane import Plane

WAIT_SECONDS = 60.0


@dataclass
class Seen:
    """What a watch saw of a group."""

    least_ready: int = 1_000_000
    most_members: int = 0
    states: list[str] = field(default_factory=list)


class Groups:
    """Groups of the plane's project."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._stub: Any = plane.client.groups

    def name(self, last: str) -> str:
        """Full name."""
        return self._plane.name("groups", last)

    async def create(
        self,
        last: str,
        replicas: int,
        spec: pb.InstanceSpec,
        *,
        rollout: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> groups_pb2.Group:
        """Make a group and wait until its members are ready."""
        wanted = groups_pb2.GroupSpec(replicas=replicas, instance=spec, **fields)
        wanted.rollout.MergeFrom(groups_pb2.RolloutPolicy(**(rollout or {})))
        request = groups_pb2.CreateGroupRequest(
            parent=self._plane.project, group_id=last, group=groups_pb2.Group(spec=wanted)
        )
        made = await self._stub.CreateGroup(request)
        return await self._plane.client.wait_group(made.name, WAIT_SECONDS, revision=1)

    async def change(self, last: str, spec: pb.InstanceSpec, *, wait: bool = True) -> groups_pb2.Group:
        """Ask for other members, and wait until the group has them. Raises NotReady: the rollout failed."""
        group = groups_pb2.Group(name=self.name(last))
        group.spec.instance.CopyFrom(spec)
        mask = field_mask_pb2.FieldMask(paths=["spec.instance"])
        made = await self._stub.UpdateGroup(groups_pb2.UpdateGroupRequest(group=group, update_mask=mask))
        if not wait:
            return made  # type: ignore[no-any-return]
        return await self.wait(last, revision=made.status.target_revision)

    async def wait(self, last: str, *, revision: int = 0) -> groups_pb2.Group:
        """Until its members are ready, or its canaries."""
        return await self._plane.client.wait_group(self.name(last), WAIT_SECONDS, revision=revision)

    async def get(self, last: str) -> groups_pb2.Group:
        """As it is now."""
        found: groups_pb2.Group = await self._stub.GetGroup(groups_pb2.GetGroupRequest(name=self.name(last)))
        return found

    async def members(self, last: str) -> list[pb.Instance]:
        """Its instances that stay, in order of slot."""
        request = pb.ListInstancesRequest(parent=self._plane.project, page_size=1000, filter=f"group={self.name(last)}")
        pages = paginate(self._plane.client.instances.ListInstances, request, lambda page: page.instances)
        found = [instance async for instance in pages]
        staying = [
            i for i in found if i.desired_state != pb.DESIRED_STATE_DELETED and not i.status.HasField("leave_time")
        ]
        return sorted(staying, key=lambda instance: instance.status.slot)

    @asynccontextmanager
    async def watched(self, last: str) -> AsyncIterator[Seen]:
        """What the group's status says at each change of it or of an instance, meanwhile."""
        seen = Seen()
        request = watch_pb2.WatchRequest(
            kinds=["groups", "instances"],
            parent=self._plane.project,
            from_revision=await self._plane.client.revision(self._plane.project),
        )

        async def follow() -> None:
            async for response in self._plane.client.watch.Watch(request):
                if not response.HasField("change"):
                    continue
                status = (await self.get(last)).status
                seen.least_ready = min(seen.least_ready, status.ready)
                seen.most_members = max(seen.most_members, status.members)
                state = groups_pb2.GroupState.Name(status.state).removeprefix("GROUP_STATE_")
                if seen.states[-1:] != [state]:
                    seen.states.append(state)

        following = asyncio.create_task(follow(), name="watching a group")
        try:
            yield seen
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def remove_all(self) -> None:
        """Delete all groups of the project, and wait until they are gone."""
        listed = await self._stub.ListGroups(groups_pb2.ListGroupsRequest(parent=self._plane.project))
        for group in listed.groups:
            with suppress(NotFound):
                await self._stub.DeleteGroup(groups_pb2.DeleteGroupRequest(name=group.name))
        for group in listed.groups:
            await self._plane.client.wait_group_gone(group.name, WAIT_SECONDS)

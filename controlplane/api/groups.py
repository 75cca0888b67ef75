"""GroupService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.api.caller import current_user
from controlplane.domain.groups import Group, GroupSpec
from controlplane.domain.names import parse_child
from controlplane.rollout.looking import Looking
from controlplane.services.group_changes import GroupChange, GroupChanges
from controlplane.services.groups import GroupService
from controlplane.services.undelete import UndeleteService
from moorage import protoconv
from moorage.v1 import groups_pb2, groups_pb2_grpc, instances_pb2

_Context = grpc.aio.ServicerContext[Any, Any]

_PARTED = ("instance", "rollout")  # whose fields can be set one by one
_WHOLE = tuple(f"spec.{field.name}" for field in groups_pb2.GroupSpec.DESCRIPTOR.fields)
_PARTS = (
    *(f"spec.instance.{field.name}" for field in instances_pb2.InstanceSpec.DESCRIPTOR.fields),
    *(f"spec.rollout.{field.name}" for field in groups_pb2.RolloutPolicy.DESCRIPTOR.fields),
)
_OWN = ("labels", "delete_protection")
_FINEST = (*_OWN, *(path for path in _WHOLE if path.removeprefix("spec.") not in _PARTED), *_PARTS)


def _change(group: groups_pb2.Group, mask: Any) -> GroupChange:
    """What an update sets. Without a mask that is what the message fills, a field of what members are at a time."""
    if not mask.paths:
        allowed: tuple[str, ...] = _FINEST
    elif list(mask.paths) == ["*"]:
        allowed = (*_OWN, *_WHOLE)
    else:
        allowed = (*_OWN, *_WHOLE, *_PARTS)
    paths = masks.paths(mask, group, allowed, "a group")
    spec = requests.read(GroupSpec, group.spec, "group.spec")
    fields: dict[str, object] = {}
    for path in paths - set(_OWN):
        *outer, name = path.removeprefix("spec.").split(".")
        part = getattr(spec, outer[0]) if outer else spec
        # Durations have the unit in the record's name.
        name = name if hasattr(part, name) else f"{name}_seconds"
        fields[".".join([*outer, name])] = getattr(part, name)
    labels = dict(group.labels) if "labels" in paths else None
    return GroupChange(labels, group.delete_protection if "delete_protection" in paths else None, fields)


class GroupServicer(groups_pb2_grpc.GroupServiceServicer):
    """Groups of instances."""

    def __init__(
        self, groups: GroupService, changes: GroupChanges, undelete: UndeleteService, looking: Looking
    ) -> None:
        self._undelete = undelete
        self._groups = groups
        self._changes = changes
        self._looking = looking

    def _message(self, record: Group) -> groups_pb2.Group:
        return convert.group(record, self._looking.status(record))

    async def CreateGroup(self, request: groups_pb2.CreateGroupRequest, context: _Context) -> groups_pb2.Group:
        record = await self._groups.create(
            requests.parent_of(request),
            request.group_id,
            dict(request.group.labels),
            requests.read(GroupSpec, request.group.spec, "group.spec"),
            author=current_user().user,
            delete_protection=request.group.delete_protection,
            validate_only=request.validate_only,
            **requests.retry("CreateGroup", request),
        )
        return self._message(record)

    async def GetGroup(self, request: groups_pb2.GetGroupRequest, context: _Context) -> groups_pb2.Group:
        return self._message(self._groups.get(*parse_child(request.name, "groups")))

    async def ListGroups(
        self, request: groups_pb2.ListGroupsRequest, context: _Context
    ) -> groups_pb2.ListGroupsResponse:
        page = self._groups.list(requests.parent_of(request), requests.page(request), requests.visible())
        return groups_pb2.ListGroupsResponse(
            groups=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateGroup(self, request: groups_pb2.UpdateGroupRequest, context: _Context) -> groups_pb2.Group:
        record = await self._changes.update(
            *parse_child(request.group.name, "groups", "group.name"),
            _change(request.group, request.update_mask),
            author=current_user().user,
            etag=request.group.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteGroup(
        self, request: groups_pb2.DeleteGroupRequest, context: _Context
    ) -> groups_pb2.DeleteGroupResponse:
        await self._groups.delete(
            *parse_child(request.name, "groups"),
            etag=request.etag,
            with_dependents=request.with_dependents,
            now=request.now,
        )
        return groups_pb2.DeleteGroupResponse()

    async def UndeleteGroup(self, request: groups_pb2.UndeleteGroupRequest, context: _Context) -> groups_pb2.Group:
        return self._message(await self._undelete.group(*parse_child(request.name, "groups")))

    async def ScaleGroup(self, request: groups_pb2.ScaleGroupRequest, context: _Context) -> groups_pb2.Group:
        record = await self._changes.scale(
            *parse_child(request.name, "groups"),
            request.replicas,
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def PlanGroup(self, request: groups_pb2.PlanGroupRequest, context: _Context) -> groups_pb2.PlanGroupResponse:
        change = _change(request.group, request.update_mask) if request.HasField("group") else None
        revision = request.revision if request.HasField("revision") else None
        record, world = await self._changes.preview(
            *parse_child(request.name, "groups"), self._looking.world, change=change, revision=revision
        )
        ahead = await self._looking.ahead(world)
        response = groups_pb2.PlanGroupResponse(ends_because=ahead.ends_because)
        protoconv.fill(record.spec, response.spec)
        response.target_revision = record.target_revision
        response.waves.extend(convert.plan_wave(wave) for wave in ahead.waves)
        return response

    async def PauseGroup(self, request: groups_pb2.PauseGroupRequest, context: _Context) -> groups_pb2.Group:
        return self._message(await self._changes.pause(*parse_child(request.name, "groups"), etag=request.etag))

    async def ResumeGroup(self, request: groups_pb2.ResumeGroupRequest, context: _Context) -> groups_pb2.Group:
        return self._message(await self._changes.resume(*parse_child(request.name, "groups"), etag=request.etag))

    async def PromoteGroup(self, request: groups_pb2.PromoteGroupRequest, context: _Context) -> groups_pb2.Group:
        return self._message(await self._changes.promote(*parse_child(request.name, "groups"), etag=request.etag))

    async def RollbackGroup(self, request: groups_pb2.RollbackGroupRequest, context: _Context) -> groups_pb2.Group:
        record = await self._changes.rollback(
            *parse_child(request.name, "groups"),
            request.revision,
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def ListGroupRevisions(
        self, request: groups_pb2.ListGroupRevisionsRequest, context: _Context
    ) -> groups_pb2.ListGroupRevisionsResponse:
        page = self._groups.revisions(*parse_child(request.parent, "groups", "parent"), requests.page(request))
        return groups_pb2.ListGroupRevisionsResponse(
            revisions=[convert.group_revision(item.value, request.parent) for item in page.items],
            next_page_token=page.next_page_token,
        )

"""Groups of the control plane made of dictionaries (plane.py): each is at once what it was asked to be."""

from typing import Any

import grpc

from moorage.v1 import groups_pb2, groups_pb2_grpc


class Groups(groups_pb2_grpc.GroupServiceServicer):
    def __init__(self, plane: Any) -> None:
        self.plane = plane

    def _put(self, group: groups_pb2.Group, *, target: int = 0) -> groups_pb2.Group:
        status = group.status
        status.target_revision = target or status.target_revision or 1
        status.stable_revision = status.target_revision
        status.wanted = status.members = status.ready = status.updated = group.spec.replicas
        status.state = groups_pb2.GROUP_STATE_STABLE
        self.plane.put(group)
        return group

    def CreateGroup(self, request: Any, context: Any) -> Any:
        group = groups_pb2.Group(etag="e1")
        group.MergeFrom(request.group)
        group.name = f"{request.parent}/groups/{request.group_id}"
        return group if request.validate_only else self._put(group)

    def GetGroup(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListGroups(self, request: Any, context: Any) -> Any:
        return groups_pb2.ListGroupsResponse(groups=self.plane.listed(groups_pb2.Group, request.parent))

    def UpdateGroup(self, request: Any, context: Any) -> Any:
        group = self.plane.get(request.group.name)
        before = group.spec.instance.SerializeToString(deterministic=True)
        request.update_mask.MergeMessage(request.group, group, True, True)
        is_other = group.spec.instance.SerializeToString(deterministic=True) != before
        return self._put(group, target=group.status.target_revision + is_other)

    def DeleteGroup(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return groups_pb2.DeleteGroupResponse()

    def ScaleGroup(self, request: Any, context: Any) -> Any:
        group = self.plane.get(request.name)
        group.spec.replicas = request.replicas
        return self._put(group)

    def _touched(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    PauseGroup = ResumeGroup = PromoteGroup = UndeleteGroup = _touched

    def RollbackGroup(self, request: Any, context: Any) -> Any:
        return self._put(self.plane.get(request.name), target=request.revision)

    def PlanGroup(self, request: Any, context: Any) -> Any:
        answer = groups_pb2.PlanGroupResponse(ends_because="the canaries wait for PromoteGroup")
        make = answer.waves.add().steps.add(
            action=groups_pb2.PLAN_ACTION_MAKE, slot=0, revision=2, why="it is of revision 1"
        )
        make.host = "hosts/h1"
        answer.waves.add().steps.add(action=groups_pb2.PLAN_ACTION_SETTLE, slot=-1, revision=2, why="all are there")
        return answer if request.HasField("group") else groups_pb2.PlanGroupResponse()

    def ListGroupRevisions(self, request: Any, context: Any) -> Any:
        group = self.plane.get(request.parent)
        made = [
            groups_pb2.GroupRevision(
                name=f"{group.name}/revisions/{number}", number=number, instance=group.spec.instance
            )
            for number in range(1, group.status.target_revision + 1)
        ]
        return groups_pb2.ListGroupRevisionsResponse(revisions=made)


def add_to(server: grpc.Server, plane: Any) -> None:
    """Serve them."""
    groups_pb2_grpc.add_GroupServiceServicer_to_server(Groups(plane), server)

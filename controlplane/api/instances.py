"""InstanceService."""

from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.instances import Instance, InstanceSpec
from controlplane.domain.kinds import HOST
from controlplane.domain.names import parse_child
from controlplane.services.instance_changes import IN_PLACE, InstanceChanges
from controlplane.services.instance_making import NewInstance
from controlplane.services.instance_names import InstanceNames
from controlplane.services.instances import InstanceService
from controlplane.services.undelete import UndeleteService
from moorage.errors import InvalidSpec
from moorage.store.base import Store
from moorage.v1 import instances_pb2, instances_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

_SPEC_PATHS = tuple(f"spec.{field.name}" for field in instances_pb2.InstanceSpec.DESCRIPTOR.fields)


def _new(request: instances_pb2.CreateInstanceRequest, field: str) -> NewInstance:
    spec = requests.read(InstanceSpec, request.instance.spec, f"{field}.spec")
    return NewInstance(request.instance_id, dict(request.instance.labels), spec, field)


class InstanceServicer(instances_pb2_grpc.InstanceServiceServicer):
    """Containers."""

    def __init__(
        self,
        instances: InstanceService,
        changes: InstanceChanges,
        names: InstanceNames,
        undelete: UndeleteService,
        store: Store,
    ) -> None:
        self._instances = instances
        self._changes = changes
        self._names = names
        self._undelete = undelete
        self._store = store

    def _message(self, record: Instance) -> instances_pb2.Instance:
        host = self._store.view().get(HOST, record.host) if record.host_uid else None
        stale = bool(record.host_uid) and convert.is_away(host.value if host is not None else None)
        return convert.instance(record, is_stale=stale)

    async def CreateInstance(
        self, request: instances_pb2.CreateInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        made = await self._instances.create(
            requests.parent_of(request),
            [_new(request, "instance")],
            validate_only=request.validate_only,
            **requests.retry("CreateInstance", request),
        )
        return self._message(made[0])

    async def BatchCreateInstances(
        self, request: instances_pb2.BatchCreateInstancesRequest, context: _Context
    ) -> instances_pb2.BatchCreateInstancesResponse:
        for index, item in enumerate(request.requests):
            if item.parent not in ("", request.parent):
                raise InvalidSpec.of(f"requests[{index}].parent", "must be empty or the batch's", "OTHER_PROJECT")
        made = await self._instances.create(
            requests.parent_of(request),
            [_new(item, f"requests[{index}].instance") for index, item in enumerate(request.requests)],
            validate_only=request.validate_only,
            **requests.retry("BatchCreateInstances", request),
        )
        return instances_pb2.BatchCreateInstancesResponse(instances=[self._message(record) for record in made])

    async def GetInstance(self, request: instances_pb2.GetInstanceRequest, context: _Context) -> instances_pb2.Instance:
        return self._message(self._instances.get(*parse_child(request.name, "instances")))

    async def ListInstances(
        self, request: instances_pb2.ListInstancesRequest, context: _Context
    ) -> instances_pb2.ListInstancesResponse:
        page = self._instances.list(requests.parent_of(request), requests.page(request), requests.visible())
        return instances_pb2.ListInstancesResponse(
            instances=[self._message(item.value) for item in page.items],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def UpdateInstance(
        self, request: instances_pb2.UpdateInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        instance = request.instance
        allowed = ("labels", *_SPEC_PATHS)
        paths = masks.paths(request.update_mask, instance, allowed, "an instance")
        if list(request.update_mask.paths) == ["*"]:
            paths = {"labels", *(f"spec.{name}" for name in IN_PLACE)}
        spec = requests.read(InstanceSpec, instance.spec, "instance.spec")
        fields = {}
        for path in paths - {"labels"}:
            name = path.removeprefix("spec.")
            # Durations have the unit in the record's name.
            fields[name] = getattr(spec, name, None) if hasattr(spec, name) else getattr(spec, f"{name}_seconds")
        record = await self._changes.update(
            *parse_child(instance.name, "instances", "instance.name"),
            labels=dict(instance.labels) if "labels" in paths else None,
            spec_fields=fields,
            etag=instance.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteInstance(
        self, request: instances_pb2.DeleteInstanceRequest, context: _Context
    ) -> instances_pb2.DeleteInstanceResponse:
        project_id, instance_id = parse_child(request.name, "instances")
        await self._instances.delete(project_id, [instance_id], etag=request.etag, force=request.force, now=request.now)
        return instances_pb2.DeleteInstanceResponse()

    async def UndeleteInstance(
        self, request: instances_pb2.UndeleteInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        return self._message(await self._undelete.instance(*parse_child(request.name, "instances")))

    async def BatchDeleteInstances(
        self, request: instances_pb2.BatchDeleteInstancesRequest, context: _Context
    ) -> instances_pb2.BatchDeleteInstancesResponse:
        project_id = requests.parent_of(request)
        names = [parse_child(name, "instances", f"names[{i}]")[1] for i, name in enumerate(request.names)]
        await self._instances.delete(project_id, names, force=request.force, now=request.now)
        return instances_pb2.BatchDeleteInstancesResponse()

    async def StartInstance(
        self, request: instances_pb2.StartInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        return self._message(await self._instances.start(*parse_child(request.name, "instances"), request.etag))

    async def StopInstance(
        self, request: instances_pb2.StopInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        return self._message(await self._instances.stop(*parse_child(request.name, "instances"), request.etag))

    async def RebootInstance(
        self, request: instances_pb2.RebootInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        return self._message(await self._instances.reboot(*parse_child(request.name, "instances"), request.etag))

    async def ReplaceInstance(
        self, request: instances_pb2.ReplaceInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        spec = requests.read(InstanceSpec, request.spec, "spec") if request.HasField("spec") else None
        record = await self._changes.replace(
            *parse_child(request.name, "instances"), spec=spec, etag=request.etag, validate_only=request.validate_only
        )
        return self._message(record)

    async def RenameInstance(
        self, request: instances_pb2.RenameInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        record = await self._names.rename(
            *parse_child(request.name, "instances"),
            request.new_instance_id,
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def PauseInstance(
        self, request: instances_pb2.PauseInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        return self._message(await self._instances.pause(*parse_child(request.name, "instances"), request.etag))

    async def UnpauseInstance(
        self, request: instances_pb2.UnpauseInstanceRequest, context: _Context
    ) -> instances_pb2.Instance:
        return self._message(await self._instances.unpause(*parse_child(request.name, "instances"), request.etag))

"""What a stock client sees: errors with their details, masks, retries, paging, audit, health and reflection."""

import asyncio
import logging
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from controlplane.access.permissions import TABLE
from controlplane.access.quota import Quota
from controlplane.access.roles import Role
from controlplane.domain.kinds import AUDIT_EVENT, INSTANCE, OPERATION
from controlplane.domain.operations import OperationState
from moorage import logs
from moorage.v1 import (
    access_pb2,
    access_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    hosts_pb2,
    hosts_pb2_grpc,
    instance_streams_pb2,
    instance_streams_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
    networks_pb2,
    networks_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    projects_pb2,
    projects_pb2_grpc,
    templates_pb2,
    templates_pb2_grpc,
    zones_pb2,
    zones_pb2_grpc,
)
from tests.support.controlplane import Plane, bearer, detail, instance, reason_of, refusal


def _stub(kind: Any, plane: Plane) -> Any:
    return kind(plane.channel())


def _create(name: str = "", **fields: Any) -> instances_pb2.CreateInstanceRequest:
    return instances_pb2.CreateInstanceRequest(
        **{"parent": "projects/default", "instance_id": name, "instance": instance(), **fields}
    )


async def test_every_bad_field_at_once(plane: Plane) -> None:
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    wrong = instance("", workdir="relative", env={"A B": "x"}, no_network=True, nics=[instances_pb2.Nic(network="n")])
    wrong.labels["moorage.x"] = "y"
    error = await refusal(api.CreateInstance(_create("UPPER", instance=wrong), metadata=bearer(plane.admin_key)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = detail(error, error_details_pb2.BadRequest)
    assert bad is not None
    assert [(v.field, v.reason) for v in bad.field_violations] == [
        ("instance_id", "NAME_INVALID"),
        ("instance.labels[moorage.x]", "LABEL_RESERVED"),
        ("instance.spec.template", "REQUIRED"),
        ("instance.spec.env[A B]", "ENV_INVALID"),
        ("instance.spec.workdir", "INVALID_PATH"),
        ("instance.spec.nics", "INVALID"),
    ]
    assert all(v.description for v in bad.field_violations)
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, info.domain) == ("INVALID_SPEC", "moorage")


async def test_very_many_bad_fields_still_arrive(plane: Plane) -> None:
    """An answer travels in HTTP/2 trailers, which clients bound at 8-16 KiB."""
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    requests = [_create("UPPER" * 20, parent="", instance=instance("", workdir="x" * 200)) for _ in range(500)]
    batch = instances_pb2.BatchCreateInstancesRequest(parent="projects/default", requests=requests)
    error = await refusal(api.BatchCreateInstances(batch, metadata=bearer(plane.admin_key)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = detail(error, error_details_pb2.BadRequest)
    assert bad is not None
    assert len(bad.field_violations) >= 5
    assert "more" in (error.details() or "")


async def test_a_long_message_still_arrives(plane: Plane) -> None:
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    name = "projects/default/instances/" + "x" * 20_000
    error = await refusal(
        api.GetInstance(instances_pb2.GetInstanceRequest(name=name), metadata=bearer(plane.admin_key))
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error) == "NOT_FOUND"


async def test_quota_failure(plane: Plane) -> None:
    await plane.project("small", quota=Quota(instances=1, memory_bytes=1))
    await plane.template("small")
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    wanted = instance(resources={"memory_bytes": 2**30, "cpu_millis": 100})
    error = await refusal(
        api.CreateInstance(_create(parent="projects/small", instance=wanted), metadata=bearer(plane.admin_key))
    )
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    failure = detail(error, error_details_pb2.QuotaFailure)
    assert failure is not None
    assert [v.subject for v in failure.violations] == ["memory_bytes"]
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info is not None
    assert info.metadata["memory_bytes.limit"] == "1"


async def test_unavailable_says_when_to_retry(plane: Plane) -> None:
    await plane.template()
    await plane.agent("a")
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    made = await api.CreateInstance(_create("web"), metadata=bearer(plane.admin_key))
    await plane.running(made.name)
    streams = _stub(instance_streams_pb2_grpc.InstanceStreamServiceStub, plane)
    request = instance_streams_pb2.StreamLogsRequest(name=made.name)
    error = await refusal(streams.StreamLogs(request, metadata=bearer(plane.admin_key)))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "HOST_AWAY")
    retry = detail(error, error_details_pb2.RetryInfo)
    assert retry is not None
    assert retry.retry_delay.seconds == 1


async def test_a_surprise_of_ours_tells_nothing_but_a_reference(plane: Plane, caplog: Any) -> None:
    plane.store.__dict__["view"] = None  # whatever breaks inside
    api = _stub(zones_pb2_grpc.ZoneServiceStub, plane)
    try:
        error = await refusal(api.ListZones(zones_pb2.ListZonesRequest(), metadata=bearer(plane.admin_key)))
    finally:
        del plane.store.__dict__["view"]
    assert error.code() is grpc.StatusCode.INTERNAL
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info is not None
    assert info.metadata["reference"] in caplog.text
    assert "NoneType" not in (error.details() or "")


async def test_a_retried_create_is_the_same_create(plane: Plane) -> None:
    await plane.template()
    metadata = bearer(plane.admin_key)
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    dry = await api.CreateInstance(_create(request_id="r1", validate_only=True), metadata=metadata)
    assert dry.status.placement.summary.startswith("no host has joined yet")
    assert plane.store.view().count(INSTANCE) == 0
    first = await api.CreateInstance(_create(request_id="r1"), metadata=metadata)
    again = await api.CreateInstance(_create(request_id="r1"), metadata=metadata)
    assert first.name == again.name
    assert plane.store.view().count(INSTANCE) == 1
    error = await refusal(api.CreateInstance(_create("other", request_id="r1"), metadata=metadata))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    other = await plane.key("other", {"default": Role.OPERATOR})
    theirs = await api.CreateInstance(_create(request_id="r1"), metadata=other)
    assert theirs.name != first.name, "request ids are each user's own"


async def test_update_masks(plane: Plane) -> None:
    await plane.template()
    metadata = bearer(plane.admin_key)
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    made = await api.CreateInstance(_create("web"), metadata=metadata)

    async def update(paths: list[str], **spec: Any) -> Any:
        target = instances_pb2.Instance(name=made.name, labels={"a": "b"}, spec=instances_pb2.InstanceSpec(**spec))
        return await api.UpdateInstance(
            instances_pb2.UpdateInstanceRequest(instance=target, update_mask=FieldMask(paths=paths)), metadata=metadata
        )

    changed = await update(["spec.resources"], resources={"cpu_millis": 500})
    assert changed.spec.resources.cpu_millis == 500
    assert not changed.labels, "not in the mask"
    assert changed.etag != made.etag
    changed = await update([], extra_hosts={"db": "10.0.0.1"})
    assert changed.labels == {"a": "b"}
    assert changed.spec.resources.cpu_millis == 500, "not filled, not changed"
    error = await refusal(update(["spec.command"], command=["x"]))
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, info.metadata["fields"]) == ("NEEDS_REPLACE", "command")
    error = await refusal(update(["spec.stop_grace"]))
    assert reason_of(error) == "NEEDS_REPLACE"
    error = await refusal(update(["uid"]))
    assert reason_of(error) == "MASK_INVALID"
    changed = await update(["*"])
    assert changed.spec.resources.cpu_millis == 0
    assert not changed.spec.extra_hosts


async def test_masks_of_the_other_nouns(plane: Plane) -> None:
    metadata = bearer(plane.admin_key)
    networks = _stub(networks_pb2_grpc.NetworkServiceStub, plane)
    made = await networks.CreateNetwork(
        networks_pb2.CreateNetworkRequest(
            parent="projects/default",
            network_id="n",
            network=networks_pb2.Network(spec=networks_pb2.NetworkSpec(egress=True)),
        ),
        metadata=metadata,
    )
    target = networks_pb2.Network(name=made.name)
    off = await networks.UpdateNetwork(
        networks_pb2.UpdateNetworkRequest(network=target, update_mask=FieldMask(paths=["spec.egress"])),
        metadata=metadata,
    )
    assert not off.spec.egress
    stale = networks_pb2.Network(name=made.name, etag=made.etag)
    error = await refusal(networks.UpdateNetwork(networks_pb2.UpdateNetworkRequest(network=stale), metadata=metadata))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")

    projects = _stub(projects_pb2_grpc.ProjectServiceStub, plane)
    project = projects_pb2.Project(name="projects/default", description="d", quota=projects_pb2.Quota(instances=7))
    changed = await projects.UpdateProject(
        projects_pb2.UpdateProjectRequest(project=project, update_mask=FieldMask(paths=["quota"])), metadata=metadata
    )
    assert (changed.quota.instances, changed.description) == (7, "")
    project.quota.instances = -1
    error = await refusal(projects.UpdateProject(projects_pb2.UpdateProjectRequest(project=project), metadata=metadata))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    zones = _stub(zones_pb2_grpc.ZoneServiceStub, plane)
    zone = zones_pb2.Zone(description="rack")
    await zones.CreateZone(zones_pb2.CreateZoneRequest(zone_id="z", zone=zone), metadata=metadata)
    bare = zones_pb2.Zone(name="zones/z")
    same = await zones.UpdateZone(zones_pb2.UpdateZoneRequest(zone=bare), metadata=metadata)
    assert same.description == "rack", "nothing filled, nothing changed"
    cleared = await zones.UpdateZone(
        zones_pb2.UpdateZoneRequest(zone=bare, update_mask=FieldMask(paths=["description"])), metadata=metadata
    )
    assert cleared.description == ""

    await plane.agent("a")
    hosts = _stub(hosts_pb2_grpc.HostServiceStub, plane)
    host = hosts_pb2.Host(name="hosts/a", zone="zones/z", labels={"disk": "ssd"})
    found = await hosts.UpdateHost(
        hosts_pb2.UpdateHostRequest(host=host, update_mask=FieldMask(paths=["zone"])), metadata=metadata
    )
    assert (found.zone, dict(found.labels)) == ("zones/z", {})


async def test_members_and_keys(plane: Plane) -> None:
    metadata = bearer(plane.admin_key)
    projects = _stub(projects_pb2_grpc.ProjectServiceStub, plane)
    access = _stub(access_pb2_grpc.AccessServiceStub, plane)
    made = await access.CreateApiKey(
        access_pb2.CreateApiKeyRequest(api_key=access_pb2.ApiKey(user="ann")), metadata=metadata
    )
    ann = bearer(made.secret)
    assert not (await projects.ListProjects(projects_pb2.ListProjectsRequest(), metadata=ann)).projects
    member = projects_pb2.Member(name="projects/default/members/ann", role=projects_pb2.ROLE_VIEWER)
    await projects.SetMember(projects_pb2.SetMemberRequest(member=member), metadata=metadata)
    listed = await projects.ListProjects(projects_pb2.ListProjectsRequest(), metadata=ann)
    assert [p.name for p in listed.projects] == ["projects/default"]
    caller = await access.GetCaller(access_pb2.GetCallerRequest(), metadata=ann)
    assert (caller.user, caller.fleet_admin, list(caller.projects)) == ("ann", False, ["projects/default"])
    member.role = projects_pb2.ROLE_UNSPECIFIED
    error = await refusal(projects.SetMember(projects_pb2.SetMemberRequest(member=member), metadata=metadata))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = await refusal(
        access.CreateApiKey(
            access_pb2.CreateApiKeyRequest(api_key=access_pb2.ApiKey(user="ann", fleet_admin=True)), metadata=ann
        )
    )
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "FLEET_ADMIN_ONLY")
    keys = await access.ListApiKeys(access_pb2.ListApiKeysRequest(), metadata=ann)
    assert [k.name for k in keys.api_keys] == [made.api_key.name]
    await access.DeleteApiKey(access_pb2.DeleteApiKeyRequest(name=made.api_key.name), metadata=ann)
    error = await refusal(access.GetCaller(access_pb2.GetCallerRequest(), metadata=ann))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN")


async def test_pages_over_the_wire(plane: Plane) -> None:
    await plane.template()
    metadata = bearer(plane.admin_key)
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    batch = [_create(f"i{n}", parent="") for n in range(5)]
    await api.BatchCreateInstances(
        instances_pb2.BatchCreateInstancesRequest(parent="projects/default", requests=batch), metadata=metadata
    )
    names, token = [], ""
    while True:
        page = await api.ListInstances(
            instances_pb2.ListInstancesRequest(parent="projects/-", page_size=2, page_token=token), metadata=metadata
        )
        names += [i.name.rpartition("/")[2] for i in page.instances]
        token = page.next_page_token
        if not token:
            break
    assert names == ["i0", "i1", "i2", "i3", "i4"]
    error = await refusal(
        api.ListInstances(
            instances_pb2.ListInstancesRequest(parent="projects/default", page_token="bm9uZQ=="), metadata=metadata
        )
    )
    assert reason_of(error) == "PAGE_TOKEN_INVALID"


async def test_the_audit_trail(plane: Plane) -> None:
    await plane.template()
    metadata = await plane.key("ann", {"default": Role.OPERATOR})
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    await api.CreateInstance(_create("web"), metadata=metadata)
    await api.CreateInstance(_create("dry", validate_only=True), metadata=metadata)
    await api.GetInstance(instances_pb2.GetInstanceRequest(name="projects/default/instances/web"), metadata=metadata)
    await refusal(
        api.StopInstance(instances_pb2.StopInstanceRequest(name="projects/default/instances/no"), metadata=metadata)
    )
    found = [e.value for e in plane.store.view().all(AUDIT_EVENT)]
    assert [(e.user, e.method.rpartition("/")[2], e.target, e.code) for e in found] == [
        ("ann", "CreateInstance", "projects/default/web", "OK"),
        ("ann", "StopInstance", "projects/default/instances/no", "NOT_FOUND"),
    ]
    assert found[0].peer.startswith("ipv4:127.0.0.1:")
    events = _stub(events_pb2_grpc.EventServiceStub, plane)
    listed = await events.ListAuditEvents(
        events_pb2.ListAuditEventsRequest(filter="code=NOT_FOUND"), metadata=bearer(plane.admin_key)
    )
    assert [e.user for e in listed.audit_events] == ["ann"]
    assert listed.audit_events[0].name == f"auditEvents/{found[1].uid}"
    told = await events.ListEvents(events_pb2.ListEventsRequest(parent="projects/default"), metadata=metadata)
    assert told.events[0].name.startswith("projects/default/events/")
    assert told.events[0].reason == "CREATED"
    fleet = await events.ListEvents(events_pb2.ListEventsRequest(parent="-"), metadata=bearer(plane.admin_key))
    assert not fleet.events


async def test_a_template_that_cannot_be_had_is_gone_and_says_why(plane: Plane) -> None:
    metadata = bearer(plane.admin_key)
    templates = _stub(templates_pb2_grpc.TemplateServiceStub, plane)
    operations = _stub(operations_pb2_grpc.OperationServiceStub, plane)
    template = templates_pb2.Template()
    template.source.repository.reference = "127.0.0.1:9/x/y:latest"
    operation = await templates.CreateTemplate(
        templates_pb2.CreateTemplateRequest(parent="projects/default", template_id="t", template=template),
        metadata=metadata,
    )
    ended = await operations.WaitOperation(
        operations_pb2.WaitOperationRequest(name=operation.name, timeout=Duration(seconds=5)), metadata=metadata
    )
    assert ended.state == operations_pb2.OPERATION_STATE_FAILED
    assert ended.error.message
    error = await refusal(
        templates.GetTemplate(templates_pb2.GetTemplateRequest(name="projects/default/templates/t"), metadata=metadata)
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_an_operation_that_is_cancelled_before_it_began_ends(plane: Plane) -> None:
    metadata = bearer(plane.admin_key)
    templates = _stub(templates_pb2_grpc.TemplateServiceStub, plane)
    operations = _stub(operations_pb2_grpc.OperationServiceStub, plane)
    template = templates_pb2.Template()
    template.source.snapshot.instance = "projects/default/instances/none"
    error = await refusal(
        templates.CreateTemplate(
            templates_pb2.CreateTemplateRequest(parent="projects/default", template_id="t", template=template),
            metadata=metadata,
        )
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND
    template.source.tar.platform = "linux/amd64"
    begun: asyncio.Event = asyncio.Event()

    async def upload() -> Any:
        yield templates_pb2.UploadTemplateRequest(
            create=templates_pb2.CreateTemplateRequest(parent="projects/default", template_id="t", template=template)
        )
        begun.set()
        await asyncio.Event().wait()

    call = templates.UploadTemplate(upload(), metadata=metadata)
    await begun.wait()
    await plane.eventually(lambda: plane.store.view().count(OPERATION) == 1)
    (found,) = [o.value for o in plane.store.view().all(OPERATION)]
    cancelled = await operations.CancelOperation(
        operations_pb2.CancelOperationRequest(name=found.name), metadata=metadata
    )
    assert cancelled.state == operations_pb2.OPERATION_STATE_CANCELLED
    call.cancel()
    error = await refusal(
        operations.CancelOperation(operations_pb2.CancelOperationRequest(name=found.name), metadata=metadata)
    )
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "OPERATION_ENDED")
    assert not plane.store.view().find(OPERATION, "state", OperationState.RUNNING.name)


async def test_health_needs_no_key(plane: Plane) -> None:
    health = _stub(health_pb2_grpc.HealthStub, plane)
    for service in ("", "moorage.v1.InstanceService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_reflection_describes_everything(plane: Plane) -> None:
    """What grpcurl does: list, then the files of each service with all that they import."""
    reflection = _stub(reflection_pb2_grpc.ServerReflectionStub, plane)
    call = reflection.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=bearer(plane.admin_key)
    )
    listed = [service.name for service in (await call.read()).list_services_response.service]
    # Agents have a port of their own.
    known = {path.split("/")[1] for path in TABLE} - {"moorage.v1.AgentService"}
    ours = {name for name in listed if name.startswith("moorage.v1.")}
    assert ours == {name for name in known if name.startswith("moorage.v1.")}
    assert await call.read() is grpc.aio.EOF
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in listed]
    call = reflection.ServerReflectionInfo(iter(requests), metadata=bearer(plane.admin_key))
    described = set()
    async for answer in call:
        for encoded in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
            described |= {f"{file.package}.{service.name}" for service in file.service}
    assert set(listed) <= described


async def test_lines_in_the_log_carry_the_callers_trace(plane: Plane) -> None:
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(logs.current_trace_id())

    handler, logger = Handler(), logging.getLogger("controlplane.api.interceptor")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        metadata = (*bearer(plane.admin_key), ("x-trace-id", "trace-7"))
        api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
        await refusal(
            api.GetInstance(instances_pb2.GetInstanceRequest(name="projects/default/instances/x"), metadata=metadata)
        )
        streams = _stub(instance_streams_pb2_grpc.InstanceStreamServiceStub, plane)
        request = instance_streams_pb2.StreamLogsRequest(name="projects/default/instances/x")
        await refusal(streams.StreamLogs(request, metadata=metadata))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert seen == ["trace-7", "trace-7"]


async def test_values_that_this_version_does_not_know(plane: Plane) -> None:
    """They are the caller's mistake, not a surprise of ours."""
    await plane.template()
    metadata = bearer(plane.admin_key)
    api = _stub(instances_pb2_grpc.InstanceServiceStub, plane)
    wanted = instance()
    wanted.spec.restart.MergeFromString(b"\x08\x63")  # mode = 99
    error = await refusal(api.CreateInstance(_create("i", instance=wanted), metadata=metadata))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "VALUE_UNKNOWN")
    network = networks_pb2.Network()
    network.spec.MergeFromString(b"\x08\x63")  # kind = 99
    networks = _stub(networks_pb2_grpc.NetworkServiceStub, plane)
    error = await refusal(
        networks.CreateNetwork(
            networks_pb2.CreateNetworkRequest(parent="projects/default", network_id="n", network=network),
            metadata=metadata,
        )
    )
    assert reason_of(error) == "VALUE_UNKNOWN"


async def test_times_that_no_calendar_has(plane: Plane) -> None:
    metadata = bearer(plane.admin_key)
    access = _stub(access_pb2_grpc.AccessServiceStub, plane)
    key = access_pb2.ApiKey(user="ann")
    key.expire_time.seconds = 10**18
    error = await refusal(access.CreateApiKey(access_pb2.CreateApiKeyRequest(api_key=key), metadata=metadata))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "OUT_OF_RANGE")
    enrollment = _stub(enrollment_pb2_grpc.EnrollmentServiceStub, plane)
    for seconds in (10**18, 10**10, -5):
        request = enrollment_pb2.CreateJoinTokenRequest(time_to_live=Duration(seconds=seconds))
        error = await refusal(enrollment.CreateJoinToken(request, metadata=metadata))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "OUT_OF_RANGE")

"""A control plane made of dictionaries, served over real gRPC with TLS in threads of its own.

What the control plane would do by and by is a script: `watch` runs its next step whenever a watcher has seen all there
is. So nothing here waits for time to pass. The server is the synchronous one: each call of moor runs an event loop of
its own, and two of those of grpc.aio in one process disturb each other.
"""

import io
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import timestamp_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from moorage.errors import AlreadyExists, MoorageError, NotFound, Unauthenticated, Unavailable
from moorage.v1 import (
    access_pb2,
    access_pb2_grpc,
    dns_pb2,
    dns_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    groups_pb2,
    hosts_pb2,
    hosts_pb2_grpc,
    instance_streams_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
    networks_pb2,
    networks_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    projects_pb2,
    projects_pb2_grpc,
    routers_pb2,
    security_groups_pb2,
    security_groups_pb2_grpc,
    templates_pb2,
    templates_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
    zones_pb2,
    zones_pb2_grpc,
)
from moorage.v1 import (
    instance_streams_pb2 as streams_pb2,
)
from tests.unit.cli import balancer_plane, group_plane, router_plane

KEY = "moorage-key-for-tests"
EPOCH = 1_700_000_000  # objects are "years" old, so that ages in tables are checked by pattern only
_CODES = {
    "InvalidSpec": code_pb2.INVALID_ARGUMENT,
    "NotFound": code_pb2.NOT_FOUND,
    "AlreadyExists": code_pb2.ALREADY_EXISTS,
    "NotReady": code_pb2.FAILED_PRECONDITION,
    "Exhausted": code_pb2.RESOURCE_EXHAUSTED,
    "QuotaExceeded": code_pb2.RESOURCE_EXHAUSTED,
    "Unauthenticated": code_pb2.UNAUTHENTICATED,
    "Forbidden": code_pb2.PERMISSION_DENIED,
    "Unavailable": code_pb2.UNAVAILABLE,
    "HistoryCompacted": code_pb2.OUT_OF_RANGE,
}


def status_of(error: MoorageError) -> status_pb2.Status:
    """As the control plane would say it."""
    status = status_pb2.Status(code=_CODES[type(error).__name__], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="moorage", metadata=error.metadata)
    status.details.add().Pack(info)
    if violations := getattr(error, "violations", ()):
        bad = error_details_pb2.BadRequest()
        for violation in violations:
            bad.field_violations.add(field=violation.field, description=violation.problem, reason=violation.reason)
        status.details.add().Pack(bad)
    return status


class Plane:
    """State, script and what was called."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.changes: list[tuple[int, int, Any]] = []
        self.compacted_before = 0
        self.script: deque[Callable[[], None]] = deque()
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.failures: dict[str, MoorageError] = {}
        self.files: dict[str, bytes] = {}
        self.uploads: list[bytes] = []
        self.changed = threading.Condition()

    def put(self, message: Any) -> None:
        """Write an object; watchers see it."""
        with self.changed:
            kind = watch_pb2.CHANGE_TYPE_UPDATED if message.name in self.objects else watch_pb2.CHANGE_TYPE_CREATED
            copy = type(message)()
            copy.CopyFrom(message)
            self.objects[message.name] = copy
            self.changes.append((len(self.changes) + 1, kind, copy))
            self.changed.notify_all()

    def remove(self, name: str) -> None:
        """Delete an object; watchers see it."""
        with self.changed:
            gone = self.objects.pop(name)
            self.changes.append((len(self.changes) + 1, watch_pb2.CHANGE_TYPE_DELETED, gone))
            self.changed.notify_all()

    def get(self, name: str) -> Any:
        """Read an object. Raises NotFound."""
        if name not in self.objects:
            raise NotFound(f"{name} does not exist", metadata={"name": name})
        copy = type(self.objects[name])()
        copy.CopyFrom(self.objects[name])
        return copy

    def listed(self, kind: type, parent: str = "") -> list[Any]:
        """Objects of a kind, in order of name."""
        prefix = "" if parent in ("", "projects/-", "-") else f"{parent}/"
        found = [
            message for name, message in self.objects.items() if isinstance(message, kind) and name.startswith(prefix)
        ]
        return sorted(found, key=lambda message: message.name)

    def wait_for_news(self, seen: int, context: Any) -> None:
        """Until there are more than `seen` changes, or the caller went away."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.changes) > seen or not context.is_active(), timeout=5)

    def wait_for_call(self, method: str) -> None:
        """Until a method was called."""
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.requests(method)), timeout=20)

    def note(self, method: str, request: Any) -> None:
        """Remember a call."""
        with self.changed:
            self.calls.append((method, request))
            self.changed.notify_all()

    def requests(self, method: str) -> list[Any]:
        """What a method was asked, in order."""
        return [request for name, request in self.calls if name == method]

    def state(self, name: str, state: str, **status: Any) -> None:
        """An instance's next state."""
        instance = self.get(name)
        instance.status.state = instances_pb2.InstanceState.Value(f"INSTANCE_STATE_{state}")
        for key, value in status.items():
            setattr(instance.status, key, value)
        self.put(instance)


def page(items: list[Any], request: Any) -> tuple[list[Any], str]:
    """Two to a page, so that every listing of three pages."""
    start = int(request.page_token or 0)
    return items[start : start + 2], str(start + 2) if start + 2 < len(items) else ""


class _Guard(grpc.ServerInterceptor):
    """Checks the key, notes the call, and fails it if the test says so."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        method = details.method.rsplit("/", 1)[-1]
        metadata = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}
        plane = self._plane
        plane.metadata.append(metadata)

        def check(context: Any) -> None:
            if metadata.get("authorization") != f"Bearer {KEY}":
                abort(context, Unauthenticated("the API key is not known", reason="KEY_UNKNOWN"))
            if method in plane.failures:
                abort(context, plane.failures[method])

        def plain(request: Any, context: Any) -> Any:
            if not handler.request_streaming:
                plane.note(method, request)
            check(context)
            behaviour = handler.unary_unary or handler.stream_unary
            try:
                return behaviour(request, context)
            except MoorageError as error:
                abort(context, error)

        def streaming(request: Any, context: Any) -> Iterator[Any]:
            if not handler.request_streaming:
                plane.note(method, request)
            check(context)
            behaviour = handler.unary_stream or handler.stream_stream
            try:
                yield from behaviour(request, context)
            except MoorageError as error:
                abort(context, error)

        make = {
            (False, False): (grpc.unary_unary_rpc_method_handler, plain),
            (False, True): (grpc.unary_stream_rpc_method_handler, streaming),
            (True, False): (grpc.stream_unary_rpc_method_handler, plain),
            (True, True): (grpc.stream_stream_rpc_method_handler, streaming),
        }[(handler.request_streaming, handler.response_streaming)]
        return make[0](make[1], handler.request_deserializer, handler.response_serializer)


def abort(context: Any, error: MoorageError) -> None:
    """End a call with an error."""
    context.abort_with_status(rpc_status.to_status(status_of(error)))


class Hosts(hosts_pb2_grpc.HostServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def ListHosts(self, request: Any, context: Any) -> Any:
        hosts, token = page(self.plane.listed(hosts_pb2.Host), request)
        return hosts_pb2.ListHostsResponse(hosts=hosts, next_page_token=token)

    def GetHost(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def UpdateHost(self, request: Any, context: Any) -> Any:
        host = self.plane.get(request.host.name)
        if "labels" in request.update_mask.paths:
            host.ClearField("labels")
            host.labels.update(request.host.labels)
        if "zone" in request.update_mask.paths:
            host.zone = request.host.zone
        self.plane.put(host)
        return host

    def _admin(self, name: str, state: Any) -> Any:
        host = self.plane.get(name)
        host.admin_state = state
        self.plane.put(host)
        return host

    def CordonHost(self, request: Any, context: Any) -> Any:
        return self._admin(request.name, hosts_pb2.HOST_ADMIN_STATE_CORDONED)

    def UncordonHost(self, request: Any, context: Any) -> Any:
        return self._admin(request.name, hosts_pb2.HOST_ADMIN_STATE_ENABLED)

    def DrainHost(self, request: Any, context: Any) -> Any:
        if request.validate_only:
            return self.plane.get(request.name)
        return self._admin(request.name, hosts_pb2.HOST_ADMIN_STATE_DRAINING)

    def RebalanceHosts(self, request: Any, context: Any) -> Any:
        """A host with this name is too full."""
        answer = hosts_pb2.RebalanceHostsResponse()
        if "hosts/full" in self.plane.objects:
            words = {"instance": "projects/p/instances/web-0", "to_host": "hosts/h2", "why": "2 members are there"}
            answer.moves.add(from_host="hosts/full", **words)
        return answer

    def DeleteHost(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return hosts_pb2.DeleteHostResponse()

    def DeclareHostLost(self, request: Any, context: Any) -> Any:
        host = self.plane.get(request.name)
        if not request.validate_only:
            host.status.link_state = hosts_pb2.HOST_LINK_STATE_DOWN
            host.status.loss.message = "an operator said so"
            self.plane.put(host)
        return host

    def ReleaseSweepBrake(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)


class Zones(zones_pb2_grpc.ZoneServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateZone(self, request: Any, context: Any) -> Any:
        zone = zones_pb2.Zone(name=f"zones/{request.zone_id}", description=request.zone.description)
        self.plane.put(zone)
        return zone

    def ListZones(self, request: Any, context: Any) -> Any:
        zones, token = page(self.plane.listed(zones_pb2.Zone), request)
        return zones_pb2.ListZonesResponse(zones=zones, next_page_token=token)

    def DeleteZone(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return zones_pb2.DeleteZoneResponse()


class Projects(projects_pb2_grpc.ProjectServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateProject(self, request: Any, context: Any) -> Any:
        project = projects_pb2.Project(name=f"projects/{request.project_id}", description=request.project.description)
        self.plane.put(project)
        return project

    def GetProject(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListProjects(self, request: Any, context: Any) -> Any:
        projects, token = page(self.plane.listed(projects_pb2.Project), request)
        return projects_pb2.ListProjectsResponse(projects=projects, next_page_token=token)

    def UpdateProject(self, request: Any, context: Any) -> Any:
        assert set(request.update_mask.paths) <= {"description", "quota", "policy", "undelete_window"}
        self.plane.put(request.project)
        return request.project

    def DeleteProject(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return projects_pb2.DeleteProjectResponse()

    def SetMember(self, request: Any, context: Any) -> Any:
        self.plane.put(request.member)
        return request.member

    def DeleteMember(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return projects_pb2.DeleteMemberResponse()

    def ListMembers(self, request: Any, context: Any) -> Any:
        members, token = page(self.plane.listed(projects_pb2.Member, request.parent), request)
        return projects_pb2.ListMembersResponse(members=members, next_page_token=token)


class Access(access_pb2_grpc.AccessServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def GetCaller(self, request: Any, context: Any) -> Any:
        projects = ["projects/default"]
        return access_pb2.Caller(user="ada", fleet_admin=True, projects=projects, server_version="0.1.0")

    def CreateApiKey(self, request: Any, context: Any) -> Any:
        key = access_pb2.ApiKey()
        key.CopyFrom(request.api_key)
        key.name = "apiKeys/k1"
        self.plane.put(key)
        return access_pb2.CreateApiKeyResponse(api_key=key, secret="mk_k1_secret")

    def ListApiKeys(self, request: Any, context: Any) -> Any:
        keys, token = page(self.plane.listed(access_pb2.ApiKey), request)
        return access_pb2.ListApiKeysResponse(api_keys=keys, next_page_token=token)

    def DeleteApiKey(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return access_pb2.DeleteApiKeyResponse()


class Enrollment(enrollment_pb2_grpc.EnrollmentServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateJoinToken(self, request: Any, context: Any) -> Any:
        token = enrollment_pb2.JoinToken(name="joinTokens/t1", max_uses=request.max_uses, zone=request.zone)
        token.expire_time.FromSeconds(EPOCH)
        self.plane.put(token)
        return enrollment_pb2.CreateJoinTokenResponse(join_token=token, secret="mj_secret")

    def ListJoinTokens(self, request: Any, context: Any) -> Any:
        tokens, token = page(self.plane.listed(enrollment_pb2.JoinToken), request)
        return enrollment_pb2.ListJoinTokensResponse(join_tokens=tokens, next_page_token=token)

    def RevokeJoinToken(self, request: Any, context: Any) -> Any:
        found = self.plane.get(request.name)
        found.revoked = True
        self.plane.put(found)
        return found


class SecurityGroups(security_groups_pb2_grpc.SecurityGroupServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateSecurityGroup(self, request: Any, context: Any) -> Any:
        group = security_groups_pb2.SecurityGroup(etag="e1")
        group.MergeFrom(request.security_group)
        group.name = f"{request.parent}/securityGroups/{request.security_group_id}"
        self.plane.put(group)
        return group

    def GetSecurityGroup(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListSecurityGroups(self, request: Any, context: Any) -> Any:
        groups, token = page(self.plane.listed(security_groups_pb2.SecurityGroup, request.parent), request)
        return security_groups_pb2.ListSecurityGroupsResponse(security_groups=groups, next_page_token=token)

    def UpdateSecurityGroup(self, request: Any, context: Any) -> Any:
        group = self.plane.get(request.security_group.name)
        if "spec.rules" in request.update_mask.paths:
            del group.spec.rules[:]
            group.spec.rules.extend(request.security_group.spec.rules)
        self.plane.put(group)
        return group

    def DeleteSecurityGroup(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return security_groups_pb2.DeleteSecurityGroupResponse()


class Networks(networks_pb2_grpc.NetworkServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateNetwork(self, request: Any, context: Any) -> Any:
        network = networks_pb2.Network()
        network.CopyFrom(request.network)
        network.name = f"{request.parent}/networks/{request.network_id}"
        if not request.validate_only:
            self.plane.put(network)
        return network

    def GetNetwork(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListNetworks(self, request: Any, context: Any) -> Any:
        networks, token = page(self.plane.listed(networks_pb2.Network, request.parent), request)
        return networks_pb2.ListNetworksResponse(networks=networks, next_page_token=token)

    def UpdateNetwork(self, request: Any, context: Any) -> Any:
        network = self.plane.get(request.network.name)
        network.spec.egress = request.network.spec.egress
        if "spec.dhcp" in request.update_mask.paths:
            network.spec.dhcp.CopyFrom(request.network.spec.dhcp)
        self.plane.put(network)
        return network

    def DeleteNetwork(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return networks_pb2.DeleteNetworkResponse()

    def ListAddresses(self, request: Any, context: Any) -> Any:
        self.plane.get(request.parent)
        lease = networks_pb2.AddressLease(
            address="10.1.0.2",
            network=request.parent,
            owner="projects/default/instances/web",
            nic="eth0",
            mac="02:00:00:00:00:01",
        )
        return networks_pb2.ListAddressesResponse(addresses=[lease])


class Dns(dns_pb2_grpc.DnsServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateDnsRecord(self, request: Any, context: Any) -> Any:
        record = dns_pb2.DnsRecord()
        record.CopyFrom(request.dns_record)
        record.name = f"{request.parent}/records/{request.dns_record_id or record.spec.name}"
        record.fqdn = f"{record.spec.name}.back.internal"
        if not request.validate_only:
            self.plane.put(record)
        return record

    def GetDnsRecord(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListDnsRecords(self, request: Any, context: Any) -> Any:
        records, token = page(self.plane.listed(dns_pb2.DnsRecord, request.parent), request)
        return dns_pb2.ListDnsRecordsResponse(dns_records=records, next_page_token=token)

    def UpdateDnsRecord(self, request: Any, context: Any) -> Any:
        record = self.plane.get(request.dns_record.name)
        request.update_mask.MergeMessage(request.dns_record, record, True, True)
        self.plane.put(record)
        return record

    def DeleteDnsRecord(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return dns_pb2.DeleteDnsRecordResponse()


class Templates(templates_pb2_grpc.TemplateServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def CreateTemplate(self, request: Any, context: Any) -> Any:
        name = f"{request.parent}/templates/{request.template_id}"
        if name in self.plane.objects:
            raise AlreadyExists(f"{name} exists already")
        operation = operations_pb2.Operation(
            name=f"{request.parent}/operations/op-{request.template_id}",
            verb="register",
            target=name,
            state=operations_pb2.OPERATION_STATE_RUNNING,
        )
        if request.validate_only:
            return operation
        template = templates_pb2.Template()
        template.CopyFrom(request.template)
        template.name = name
        template.create_time.FromSeconds(EPOCH)
        template.status.state = templates_pb2.TEMPLATE_STATE_PENDING
        template.status.operation = operation.name
        self.plane.put(template)
        self.plane.put(operation)
        is_bad = (
            "missing" in request.template.source.repository.reference
            or "FROM bad" in request.template.source.dockerfile.inline
        )
        self.plane.script.extend(
            [
                lambda: self._step(operation.name, phase="pull", percent=10, done_bytes=1024, total_bytes=2048),
                (lambda: self._fail(operation.name, name)) if is_bad else (lambda: self._succeed(operation.name, name)),
            ]
        )
        return operation

    def _step(self, name: str, **fields: Any) -> None:
        operation = self.plane.get(name)
        for key, value in fields.items():
            setattr(operation, key, value)
        self.plane.put(operation)

    def _succeed(self, name: str, template_name: str) -> None:
        template = self.plane.get(template_name)
        template.status.state = templates_pb2.TEMPLATE_STATE_READY
        template.status.digest = "sha256:" + "0" * 64
        template.status.size_bytes = 3 * 1024 * 1024
        template.status.platforms.append("linux/amd64")
        self.plane.put(template)
        self._step(name, phase="", percent=100, state=operations_pb2.OPERATION_STATE_SUCCEEDED)

    def _fail(self, name: str, template_name: str) -> None:
        self.plane.remove(template_name)
        operation = self.plane.get(name)
        operation.state = operations_pb2.OPERATION_STATE_FAILED
        operation.log = "Step 1/1 : FROM bad\n"
        operation.error.CopyFrom(status_of(NotFound("the registry has no such image", reason="IMAGE_NOT_FOUND")))
        self.plane.put(operation)

    def UploadTemplate(self, request_iterator: Any, context: Any) -> Any:
        first = next(request_iterator)
        self.plane.note("UploadTemplate", first.create)
        self.plane.uploads.append(b"".join(message.chunk for message in request_iterator))
        return self.CreateTemplate(first.create, context)

    def GetTemplate(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListTemplates(self, request: Any, context: Any) -> Any:
        templates, token = page(self.plane.listed(templates_pb2.Template, request.parent), request)
        return templates_pb2.ListTemplatesResponse(templates=templates, next_page_token=token)

    def DeleteTemplate(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return templates_pb2.DeleteTemplateResponse()


class Instances(instances_pb2_grpc.InstanceServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.made = 0

    def CreateInstance(self, request: Any, context: Any) -> Any:
        return self._create(request.parent, request)

    def BatchCreateInstances(self, request: Any, context: Any) -> Any:
        made = [self._create(request.parent, each, request.validate_only) for each in request.requests]
        return instances_pb2.BatchCreateInstancesResponse(instances=made)

    def _create(self, parent: str, request: Any, validate_only: bool = False) -> Any:
        self.made += 1
        self.plane.get(request.instance.spec.template)
        instance = instances_pb2.Instance()
        instance.CopyFrom(request.instance)
        instance.name = f"{parent}/instances/{request.instance_id or f'made-{self.made}'}"
        if instance.name in self.plane.objects:
            raise AlreadyExists(f"{instance.name} exists already")
        instance.create_time.FromSeconds(EPOCH)
        instance.status.state = instances_pb2.INSTANCE_STATE_ASSIGNED
        instance.status.host = "hosts/h1"
        instance.status.nics.add(
            network=f"{parent}/networks/default", interface="eth0", addresses=["10.1.0.2/24", "fd00::2/64"]
        )
        placement = instance.status.placement
        placement.host = "hosts/h1"
        placement.summary = "It has the most room."
        placement.hosts_considered = 3
        placement.filters.add(
            filter="cpu", hosts_removed=1, explanation="less than 500m is free", examples=["hosts/h3"]
        )
        placement.filters.add(filter="memory", hosts_removed=0)
        placement.scores.add(host="hosts/h1", score=0.75, explanation="75% free")
        placement.scores.add(host="hosts/h2", score=0.5, explanation="50% free")
        if request.validate_only or validate_only:
            return instance
        self.plane.put(instance)
        name = instance.name
        self.plane.script.append(lambda: self.plane.state(name, "PULLING", pull_percent=40))
        last = list(instance.spec.command[-1:])
        if last == ["never"]:
            self.plane.script.append(
                lambda: self.plane.state(name, "FAILED", reason="IMAGE_ARCHITECTURE", message="wrong platform")
            )
            return instance
        self.plane.script.append(lambda: self.plane.state(name, "RUNNING", run=1, message=""))
        if instance.spec.command[:1] == ["exit"]:
            code = int(instance.spec.command[1])
            self.plane.script.append(lambda: self.plane.state(name, "STOPPED", exit_code=code))
        return instance

    def GetInstance(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListInstances(self, request: Any, context: Any) -> Any:
        instances, token = page(self.plane.listed(instances_pb2.Instance, request.parent), request)
        return instances_pb2.ListInstancesResponse(
            instances=instances, next_page_token=token, revision=len(self.plane.changes)
        )

    def UpdateInstance(self, request: Any, context: Any) -> Any:
        instance = self.plane.get(request.instance.name)
        request.update_mask.MergeMessage(request.instance, instance, True, True)
        self.plane.put(instance)
        return instance

    def DeleteInstance(self, request: Any, context: Any) -> Any:
        self.plane.state(request.name, "DELETING")
        self.plane.script.append(lambda: self.plane.remove(request.name))
        return instances_pb2.DeleteInstanceResponse()

    def _later(self, request: Any, state: str, *, new_run: bool = False) -> Any:
        found = self.plane.get(request.name)
        run = found.status.run + (1 if new_run else 0)
        self.plane.script.append(lambda: self.plane.state(request.name, state, run=run))
        return found

    def StartInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "RUNNING", new_run=True)

    def UndeleteInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "RUNNING", new_run=True)

    def StopInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "STOPPED")

    def RebootInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "RUNNING", new_run=True)

    def ReplaceInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "RUNNING", new_run=True)

    def PauseInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "PAUSED")

    def UnpauseInstance(self, request: Any, context: Any) -> Any:
        return self._later(request, "RUNNING")


class Operations(operations_pb2_grpc.OperationServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def GetOperation(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListOperations(self, request: Any, context: Any) -> Any:
        operations, token = page(self.plane.listed(operations_pb2.Operation, request.parent), request)
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=token)

    def CancelOperation(self, request: Any, context: Any) -> Any:
        operation = self.plane.get(request.name)
        operation.state = operations_pb2.OPERATION_STATE_CANCELLED
        self.plane.put(operation)
        return operation


class Events(events_pb2_grpc.EventServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def ListEvents(self, request: Any, context: Any) -> Any:
        events, token = page(self.plane.listed(events_pb2.Event, request.parent), request)
        return events_pb2.ListEventsResponse(events=events, next_page_token=token)

    def ListAuditEvents(self, request: Any, context: Any) -> Any:
        event = events_pb2.AuditEvent(
            name="auditEvents/a1",
            user="ada",
            key_id="k1",
            method="/moorage.v1.HostService/CordonHost",
            target="hosts/h1",
            code="OK",
        )
        return events_pb2.ListAuditEventsResponse(audit_events=[event])


_KINDS = {
    "hosts": (hosts_pb2.Host, "host"),
    "groups": (groups_pb2.Group, "group"),
    "instances": (instances_pb2.Instance, "instance"),
    "operations": (operations_pb2.Operation, "operation"),
    "events": (events_pb2.Event, "event"),
    "routers": (routers_pb2.Router, "router"),
}


class Watch(watch_pb2_grpc.WatchServiceServicer):
    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        plane = self.plane
        if request.from_revision < plane.compacted_before:
            plane.compacted_before = 0  # once: the client has to come back with a newer one
            abort(context, _compacted())

        def wake() -> None:
            with plane.changed:
                plane.changed.notify_all()

        context.add_callback(wake)
        kinds = tuple(_KINDS[kind][0] for kind in request.kinds)
        fields = {_KINDS[kind][0]: _KINDS[kind][1] for kind in request.kinds}
        seen = request.from_revision
        while context.is_active():
            news = [change for change in plane.changes[seen:] if isinstance(change[2], kinds)]
            seen = len(plane.changes)
            for revision, kind, message in news:
                change = watch_pb2.Change(type=kind)
                getattr(change, fields[type(message)]).CopyFrom(message)
                yield watch_pb2.WatchResponse(revision=revision, change=change)
            if plane.script:
                plane.script.popleft()()
                continue
            plane.wait_for_news(seen, context)


def _compacted() -> MoorageError:
    from moorage.errors import HistoryCompacted

    return HistoryCompacted("that history is gone")


class Streams(instance_streams_pb2_grpc.InstanceStreamServiceServicer):
    """exec runs `echo`, `cat` (on a terminal q ends it and ! breaks it) and `exit`; files are a dictionary; forward echoes in capitals."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def StreamLogs(self, request: Any, context: Any) -> Iterator[Any]:
        self.plane.get(request.name)
        yield streams_pb2.StreamLogsResponse(stream=streams_pb2.OUTPUT_STREAM_STDOUT, data=b"hello\n")
        yield streams_pb2.StreamLogsResponse(stream=streams_pb2.OUTPUT_STREAM_STDERR, data=b"careful\n")

    def ExecInstance(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        start = next(request_iterator).start
        self.plane.note("ExecInstance", start)
        self.plane.get(start.name)
        yield streams_pb2.ExecInstanceResponse(started=True)
        command = list(start.command)
        if command[:1] == ["cat"] or start.attach:
            for message in request_iterator:
                part = message.WhichOneof("part")
                if part == "resize":
                    self.plane.note("resize", message.resize)
                elif part == "stdin_closed":
                    break
                elif start.tty and message.stdin == b"q":
                    yield streams_pb2.ExecInstanceResponse(exit_code=5)
                    return
                elif start.tty and message.stdin == b"!":
                    raise Unavailable("the host is away")
                else:
                    yield streams_pb2.ExecInstanceResponse(stdout=message.stdin)
        elif command[:1] == ["echo"]:
            yield streams_pb2.ExecInstanceResponse(stdout=" ".join(command[1:]).encode() + b"\n")
            yield streams_pb2.ExecInstanceResponse(stderr=b"said\n")
        yield streams_pb2.ExecInstanceResponse(exit_code=int(command[1]) if command[:1] == ["exit"] else 0)

    def CopyIn(self, request_iterator: Any, context: Any) -> Any:
        target = next(request_iterator).target
        self.plane.note("CopyIn", target)
        data = b"".join(message.chunk for message in request_iterator)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
                self.plane.files[f"{target.path.rstrip('/')}/{member.name}"] = content
        return streams_pb2.CopyInResponse()

    def CopyOut(self, request: Any, context: Any) -> Iterator[Any]:
        path = request.path.rstrip("/")
        below = sorted(name for name in self.plane.files if name == path or name.startswith(f"{path}/"))
        if not below:
            raise NotFound(f"there is no {path}", reason="PATH_NOT_FOUND")
        buffer = io.BytesIO()
        root = path.rsplit("/", 1)[-1]
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            if below != [path]:
                folder = tarfile.TarInfo(root)
                folder.type = tarfile.DIRTYPE
                folder.mode = 0o755
                archive.addfile(folder)
            for name in below:
                info = tarfile.TarInfo(root + name[len(path) :])
                info.size = len(self.plane.files[name])
                archive.addfile(info, io.BytesIO(self.plane.files[name]))
        data = buffer.getvalue()
        for start in range(0, len(data), 1000):
            yield streams_pb2.CopyOutResponse(chunk=data[start : start + 1000])

    def StreamStats(self, request: Any, context: Any) -> Iterator[Any]:
        for second in range(1, 3):
            sample = streams_pb2.StreamStatsResponse(
                time=timestamp_pb2.Timestamp(seconds=EPOCH + second),
                cpu_nanos=second * 250_000_000,
                memory_bytes=5 * 1024 * 1024,
                memory_limit_bytes=64 * 1024 * 1024,
                pids=3,
            )
            sample.interfaces["eth0"].rx_bytes = 2048
            yield sample

    def ForwardPort(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        self.plane.note("ForwardPort", next(request_iterator).start)
        yield streams_pb2.ForwardPortResponse(connected=True)
        for message in request_iterator:
            if message.WhichOneof("part") == "closed":
                return
            yield streams_pb2.ForwardPortResponse(data=message.data.upper())


def serve(plane: Plane, key_pem: bytes, certificate_pem: bytes) -> tuple[grpc.Server, int]:
    """Start it on a free port of 127.0.0.1."""
    server = grpc.server(futures.ThreadPoolExecutor(16), interceptors=[_Guard(plane)])
    access_pb2_grpc.add_AccessServiceServicer_to_server(Access(plane), server)
    dns_pb2_grpc.add_DnsServiceServicer_to_server(Dns(plane), server)
    enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(Enrollment(plane), server)
    events_pb2_grpc.add_EventServiceServicer_to_server(Events(plane), server)
    hosts_pb2_grpc.add_HostServiceServicer_to_server(Hosts(plane), server)
    instance_streams_pb2_grpc.add_InstanceStreamServiceServicer_to_server(Streams(plane), server)
    instances_pb2_grpc.add_InstanceServiceServicer_to_server(Instances(plane), server)
    networks_pb2_grpc.add_NetworkServiceServicer_to_server(Networks(plane), server)
    security_groups_pb2_grpc.add_SecurityGroupServiceServicer_to_server(SecurityGroups(plane), server)
    operations_pb2_grpc.add_OperationServiceServicer_to_server(Operations(plane), server)
    projects_pb2_grpc.add_ProjectServiceServicer_to_server(Projects(plane), server)
    group_plane.add_to(server, plane)
    router_plane.add_to(server, plane)
    balancer_plane.add_to(server, plane)
    templates_pb2_grpc.add_TemplateServiceServicer_to_server(Templates(plane), server)
    watch_pb2_grpc.add_WatchServiceServicer_to_server(Watch(plane), server)
    zones_pb2_grpc.add_ZoneServiceServicer_to_server(Zones(plane), server)
    credentials = grpc.ssl_server_credentials([(key_pem, certificate_pem)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port

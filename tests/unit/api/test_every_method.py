"""Every method of every service that is served, called by those who may not: made from the descriptors, so a new one is in at once."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

import moorage.v1
from controlplane.access.permissions import TABLE
from controlplane.access.roles import Role
from controlplane.access.rules import Access
from controlplane.domain.kinds import AUDIT_EVENT
from tests.support.controlplane import Plane, bearer, reason_of, refusal

_WRONG_KEY = bearer("moork_abcdefghij_" + "x" * 43)


def _methods() -> Iterator[MethodDescriptor]:
    for module in pkgutil.iter_modules(moorage.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"moorage.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                yield from service.methods
    yield from reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods


METHODS = {f"/{m.containing_service.full_name}/{m.name}": m for m in _methods()}
USERS = [path for path in METHODS if TABLE[path].access is not Access.AGENT]


def _request(path: str, project: str) -> Message:
    """A request whose project field lies in `project`; every other name is empty."""
    message = message_factory.GetMessageClass(METHODS[path].input_type)()
    field = TABLE[path].project_field
    if field:
        *parents, last = field.split(".")
        target: Any = message
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, _name(target.DESCRIPTOR, last, path, project))
    return message


def _name(descriptor: Descriptor, field: str, path: str, project: str) -> str:
    assert descriptor.fields_by_name[field].type == FieldDescriptor.TYPE_STRING
    is_rule = ".RouterRuleService/" in path
    is_balancer = ".BalancerService/" in path
    if field == "parent":
        is_in_network = path.endswith(("/ListAddresses", "/CreateDnsRecord", "/ListDnsRecords"))
        is_of_group = path.endswith("/ListGroupRevisions")
        below = (
            "/groups/x"
            if is_of_group
            else "/networks/x"
            if is_in_network
            else "/routers/x"
            if is_rule or is_balancer
            else ""
        )
        return f"projects/{project}{below}"
    if is_rule:
        return f"projects/{project}/routers/x/rules/x"
    if is_balancer:
        return f"projects/{project}/routers/x/balancers/x"
    collection = {
        "Operation": "operations",
        "Template": "templates",
        "Network": "networks",
        "Router": "routers",
        "CronJob": "cronJobs",
        "Job": "jobs",
        "Group": "groups",
        "PublicAddress": "publicAddresses",
    }
    noun = next((plural for word, plural in collection.items() if f".{word}Service/" in path), "instances")
    if ".DnsService/" in path:
        noun = "networks/x/records"
    if path.endswith("/GetProject"):
        return f"projects/{project}"
    return f"projects/{project}/{'members' if 'Member' in path else noun}/x"


async def _call(channel: "grpc.aio.Channel", path: str, request: Message, metadata: Any = None) -> grpc.aio.AioRpcError:
    method = METHODS[path]
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    response = message_factory.GetMessageClass(method.output_type)
    start: Any = getattr(channel, kind)(
        path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=response.FromString
    )
    while True:
        what: Any = iter([request]) if method.client_streaming else request
        answer = await refusal(start(what, metadata=metadata, timeout=30))
        # grpc.aio's client says this of its own when the refusal arrives while it still writes: ask again.
        if answer.details() != "Internal error from Core":
            return answer


def test_all_methods_are_here() -> None:
    served = {path for path in TABLE if not path.startswith(("/grpc.health", "/grpc.reflection.v1."))}
    assert set(METHODS) == served
    assert len(USERS) > 60


async def test_no_key(plane: Plane) -> None:
    channel = plane.channel()
    closed = [path for path in USERS if TABLE[path].access is not Access.PUBLIC]
    answers = {path: await _call(channel, path, _request(path, "default")) for path in closed}
    assert {path: a.code() for path, a in answers.items()} == dict.fromkeys(closed, grpc.StatusCode.UNAUTHENTICATED)
    assert {reason_of(a) for a in answers.values()} == {"KEY_MISSING"}


async def test_a_wrong_key(plane: Plane) -> None:
    channel = plane.channel()
    closed = [path for path in USERS if TABLE[path].access is not Access.PUBLIC]
    answers = {path: await _call(channel, path, _request(path, "default"), _WRONG_KEY) for path in closed}
    assert {path: a.code() for path, a in answers.items()} == dict.fromkeys(closed, grpc.StatusCode.UNAUTHENTICATED)
    assert {reason_of(a) for a in answers.values()} == {"KEY_UNKNOWN"}


@pytest.mark.parametrize("there", [True, False])
async def test_a_member_of_another_project(plane: Plane, there: bool) -> None:
    """Whether the project exists makes no difference."""
    if there:
        await plane.project("theirs")
    await plane.project("mine")
    metadata = await plane.key("eve", {"mine": Role.ADMIN})
    channel = plane.channel()
    closed = [path for path in USERS if TABLE[path].access in (Access.PROJECT, Access.FLEET_ADMIN)]
    answers = {path: await _call(channel, path, _request(path, "theirs"), metadata) for path in closed}
    assert {path: a.code() for path, a in answers.items()} == dict.fromkeys(closed, grpc.StatusCode.PERMISSION_DENIED)
    for path, answer in answers.items():
        is_project = TABLE[path].access is Access.PROJECT
        assert reason_of(answer) == ("NOT_A_MEMBER" if is_project else "FLEET_ADMIN_ONLY"), path


async def test_too_low_a_role(plane: Plane) -> None:
    channel = plane.channel()
    for path in USERS:
        rule = TABLE[path]
        if rule.access is Access.PROJECT and rule.role is not None and rule.role > Role.VIEWER:
            metadata = await plane.key("low", {"default": Role(rule.role - 1)})
            answer = await _call(channel, path, _request(path, "default"), metadata)
            assert (answer.code(), reason_of(answer)) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"), path


async def test_the_right_role_comes_to_the_handler(plane: Plane) -> None:
    """The other side of it: with the role that the table names, the answer is never about who calls."""
    channel = plane.channel()
    for path in USERS:
        rule = TABLE[path]
        if rule.access is not Access.PROJECT or METHODS[path].name == "Watch":
            continue
        assert rule.role is not None
        metadata = await plane.key("right", {"default": rule.role})
        try:
            answer = await _call(channel, path, _request(path, "default"), metadata)
        except AssertionError:
            continue  # let through
        assert answer.code() not in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
        ), (path, answer.details())


async def test_agents_methods_are_not_on_the_users_port(plane: Plane) -> None:
    channel = plane.channel()
    for path in set(METHODS) - set(USERS):
        answer = await _call(channel, path, _request(path, ""), bearer(plane.admin_key))
        assert answer.code() is grpc.StatusCode.UNIMPLEMENTED, path


async def test_users_methods_are_not_on_the_agents_port(plane: Plane) -> None:
    channel = plane.agent_channel(await plane.agent("a"))
    for path in USERS:
        answer = await _call(channel, path, _request(path, "default"), bearer(plane.admin_key))
        assert answer.code() is grpc.StatusCode.UNIMPLEMENTED, path


async def test_refused_mutations_are_audited_and_strangers_are_not(plane: Plane) -> None:
    channel = plane.channel()
    metadata = await plane.key("eve", {"default": Role.VIEWER})
    path = "/moorage.v1.InstanceService/DeleteInstance"
    await _call(channel, path, _request(path, "default"), metadata)
    await _call(channel, path, _request(path, "default"), _WRONG_KEY)
    await _call(channel, path, _request(path, "default"))
    events = [found.value for found in plane.store.view().all(AUDIT_EVENT)]
    assert [(e.user, e.method, e.target, e.code) for e in events] == [
        ("eve", path, "projects/default/instances/x", "PERMISSION_DENIED")
    ]

"""The permission table against the protos themselves: no method without a rule, no rule without a method or field."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import google.rpc
import grpc_tools
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from controlplane.access.permissions import TABLE, rule_for
from controlplane.access.roles import Caller, Role
from controlplane.access.rules import Access, ParentScope, authorize, project_of_request
from moorage.errors import Forbidden, InvalidSpec

PROTOS = Path(__file__).resolve().parents[3] / "protos"
#: Mutating methods start with one of these; reading ones must not need more than a viewer.
READS = ("Get", "List", "Plan", "Query", "Wait", "Watch", "StreamLogs", "StreamStats")


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Descriptor]:
    """Full method to the descriptor of its request, compiled from the protos as they are now."""
    output = tmp_path_factory.mktemp("protos") / "all.binpb"
    includes = [PROTOS, Path(str(files(grpc_tools))) / "_proto", Path(next(iter(google.rpc.__path__))).parents[1]]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            *(f"-I{include}" for include in includes),
            "--include_imports",
            f"--descriptor_set_out={output}",
            *map(str, sorted(PROTOS.glob("moorage/v1/*.proto"))),
        ],
        check=True,
    )
    pool = descriptor_pool.DescriptorPool()
    file_set = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    for file in file_set.file:
        pool.Add(file)
    return {
        f"/{service.full_name}/{method.name}": method.input_type
        for file in file_set.file
        if file.name.startswith("moorage/")
        for service in pool.FindFileByName(file.name).services_by_name.values()
        for method in service.methods
    }


def test_every_method_has_a_rule(requests: dict[str, Descriptor]) -> None:
    assert len(requests) > 60
    assert sorted(set(requests) - set(TABLE)) == []


def test_every_rule_has_a_method(requests: dict[str, Descriptor]) -> None:
    ours = {method for method in TABLE if method.startswith("/moorage.v1.")}
    assert ours - set(requests) == set()


def test_health_and_reflection_are_covered() -> None:
    services = [
        *health_pb2.DESCRIPTOR.services_by_name.values(),
        *reflection_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods <= set(TABLE)


def test_fields_of_rules_exist_and_are_text(requests: dict[str, Descriptor]) -> None:
    for method, descriptor in requests.items():
        rule = rule_for(method)
        for path in filter(None, (rule.project_field, *rule.same_project_fields)):
            current: Descriptor | None = descriptor
            field: FieldDescriptor | None = None
            for part in path.split("."):
                assert current is not None, f"{method}: {path} goes through a field that is no message"
                assert part in current.fields_by_name, f"{method}: {current.full_name} has no {part}"
                field = current.fields_by_name[part]
                current = field.message_type
            assert field is not None
            assert field.type == FieldDescriptor.TYPE_STRING, f"{method}: {path}"


def test_the_table_reads_the_real_messages(requests: dict[str, Descriptor]) -> None:
    """An empty request is refused or is for all; one that names a project is for that project."""
    for method, descriptor in requests.items():
        rule = rule_for(method)
        if rule.access is not Access.PROJECT:
            continue
        request: Any = message_factory.GetMessageClass(descriptor)()
        if rule.scope is not ParentScope.EVERY_OR_EMPTY:
            with pytest.raises(InvalidSpec):
                project_of_request(rule, request)
        *path, last = rule.project_field.split(".")
        target = request
        for part in path:
            target = getattr(target, part)
        setattr(target, last, "projects/demo/things/x")
        assert project_of_request(rule, request) == "demo", method


def test_no_stranger_reaches_a_project(requests: dict[str, Descriptor]) -> None:
    stranger = Caller("u", roles={"other": Role.ADMIN})
    for method in requests:
        rule = rule_for(method)
        if rule.access is Access.PROJECT:
            with pytest.raises(Forbidden) as caught:
                authorize(rule, stranger, "demo")
            assert caught.value.reason == "NOT_A_MEMBER"


def test_viewers_only_read() -> None:
    for method, rule in TABLE.items():
        name = method.rsplit("/", 1)[1]
        if rule.access is Access.PROJECT:
            assert (rule.role is Role.VIEWER) == name.startswith(READS), method


def test_only_these_need_no_key() -> None:
    assert {method for method, rule in TABLE.items() if rule.access is Access.PUBLIC} == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/moorage.v1.EnrollmentService/GetAuthority",
        "/moorage.v1.EnrollmentService/EnrollHost",
    }


@pytest.mark.parametrize("method", ["", "/", "/moorage.v1.InstanceService/Nope", "moorage.v1.HostService/GetHost"])
def test_unknown_methods_are_refused(method: str) -> None:
    with pytest.raises(Forbidden) as caught:
        rule_for(method)
    assert caught.value.reason == "METHOD_UNKNOWN"


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLE["/x"] = rule_for("/grpc.health.v1.Health/Check")  # type: ignore[index]


def test_batches_and_snapshots_cannot_reach_into_another_project(requests: dict[str, Descriptor]) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "InstanceService/BatchDeleteInstances": (
            {"names": ["projects/demo/instances/a", "projects/x/instances/b"]},
            "names[1]",
        ),
        "InstanceService/BatchCreateInstances": ({"requests": [{"parent": "projects/x"}]}, "requests[0].parent"),
        "InstanceService/CreateInstance": (
            {"instance": {"spec": {"nics": [{"network": "projects/x/networks/n"}]}}},
            "instance.spec.nics[0].network",
        ),
        "TemplateService/CreateTemplate": (
            {"template": {"source": {"snapshot": {"instance": "projects/x/instances/i"}}}},
            "template.source.snapshot.instance",
        ),
    }
    for name, (fields, bad_field) in cases.items():
        method = f"/moorage.v1.{name}"
        request = message_factory.GetMessageClass(requests[method])(parent="projects/demo", **fields)
        with pytest.raises(InvalidSpec) as caught:
            project_of_request(rule_for(method), request)
        assert [violation.field for violation in caught.value.violations] == [bad_field]
        assert caught.value.reason == "OTHER_PROJECT"

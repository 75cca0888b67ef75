"""Records and messages agree: every pair that the programs convert, by name and type, there and back."""

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.dispatch import assignments, security
from controlplane.dispatch import volumes as dispatch_volumes
from controlplane.dispatch.tasks import BuildTask, SnapshotTask
from controlplane.domain import (
    containers,
    groups,
    hosts,
    instances,
    jobs,
    networks,
    operations,
    routers,
    security_groups,
    templates,
    volumes,
)
from controlplane.routers import status
from controlplane.services.reports import Report
from controlplane.services.volume_reports import VolumeReport
from hostagent import domain as agent
from hostagent.journal.journal import MembersChange
from moorage import protoconv, router_bundle
from moorage.v1 import (
    agent_pb2,
    balancers_pb2,
    common_pb2,
    events_pb2,
    groups_pb2,
    hosts_pb2,
    instances_pb2,
    jobs_pb2,
    networks_pb2,
    operations_pb2,
    projects_pb2,
    public_addresses_pb2,
    router_bundles_pb2,
    router_rules_pb2,
    routers_pb2,
    security_groups_pb2,
    templates_pb2,
    volume_work_pb2,
    volumes_pb2,
)

_ANYTHING = "*"  # the message mirrors only a part of the record

#: Record, message, what only the record has, what only the message has. Inner records are found through their outer ones.
PAIRS: list[tuple[type, type[Message], set[str], set[str]]] = [
    (instances.InstanceSpec, instances_pb2.InstanceSpec, set(), set()),
    (instances.PlacementExplanation, instances_pb2.PlacementExplanation, set(), set()),
    (
        instances.Observed,
        instances_pb2.InstanceStatus,
        {"epoch", "sequence", "generation", "network_generation", "leased", "probed_ready"},
        {
            *("host", "nics", "placement", "image_digest", "stale", "owner", "nics_ready"),
            *("slot", "revision", "ready", "leave_time", "given_up"),
            *("claims", "lease", "claim_free", "purge_time"),
        },
    ),
    (networks.NetworkSpec, networks_pb2.NetworkSpec, set(), set()),
    (hosts.HostFacts, hosts_pb2.HostFacts, set(), set()),
    (
        hosts.Host,
        hosts_pb2.HostStatus,
        {_ANYTHING},
        {"heartbeat_time", "used"},
    ),
    (templates.TemplateSource, templates_pb2.TemplateSource, set(), set()),
    (templates.TemplateStatus, templates_pb2.TemplateStatus, set(), set()),
    (containers.ContainerDefaults, templates_pb2.TemplateDefaults, set(), set()),
    (Quota, projects_pb2.Quota, set(), set()),
    (ProjectPolicy, projects_pb2.ProjectPolicy, set(), set()),
    (operations.Operation, operations_pb2.Operation, {"project", "failure"}, {"name", "error"}),
    (operations.Event, events_pb2.Event, {"uid", "project"}, {"name"}),
    (operations.AuditEvent, events_pb2.AuditEvent, {"uid"}, {"name"}),
    (assignments.Peer, agent_pb2.Peer, set(), set()),
    (assignments.NetworkAssignment, agent_pb2.NetworkAssignment, set(), {"peers"}),
    (assignments.InstanceAssignment, agent_pb2.InstanceAssignment, set(), set()),
    (groups.GroupSpec, groups_pb2.GroupSpec, set(), set()),
    (groups.GroupStatus, groups_pb2.GroupStatus, set(), set()),
    (jobs.JobSpec, jobs_pb2.JobSpec, set(), set()),
    (jobs.Job, jobs_pb2.JobStatus, {_ANYTHING}, {"active", "succeeded", "failed", "indexes"}),
    (jobs.JobIndex, jobs_pb2.JobIndexStatus, {"instance_uid", "failures", "next_time", "avoid_hosts"}, set()),
    (jobs.CronJobSpec, jobs_pb2.CronJobSpec, set(), set()),
    (jobs.CronJob, jobs_pb2.CronJobStatus, {_ANYTHING}, {"next_time", "active"}),
    (groups.GroupRevision, groups_pb2.GroupRevision, {"group_uid"}, {"name"}),
    (security_groups.SecurityGroupSpec, security_groups_pb2.SecurityGroupSpec, set(), set()),
    (security.SecurityGroupAssignment, agent_pb2.SecurityGroupAssignment, set(), set()),
    (security.GroupMembersUpdate, agent_pb2.GroupMembersUpdate, set(), set()),
    (agent.SecurityGroup, agent_pb2.SecurityGroupAssignment, set(), set()),
    (MembersChange, agent_pb2.GroupMembersUpdate, set(), set()),
    (BuildTask, agent_pb2.BuildTask, set(), set()),
    (SnapshotTask, agent_pb2.SnapshotTask, set(), set()),
    (Report, agent_pb2.InstanceReport, set(), set()),
    (agent.InstanceReport, agent_pb2.InstanceReport, set(), set()),
    (volumes.VolumeSpec, volumes_pb2.VolumeSpec, set(), set()),
    (dispatch_volumes.VolumeAssignment, volume_work_pb2.VolumeAssignment, set(), set()),
    (agent.VolumeAssignment, volume_work_pb2.VolumeAssignment, set(), set()),
    (VolumeReport, volume_work_pb2.VolumeReport, set(), set()),
    (agent.VolumeUsage, volume_work_pb2.VolumeReport, set(), set()),
    (routers.RouterSpec, routers_pb2.RouterSpec, set(), set()),
    (routers.RouterRuleSpec, router_rules_pb2.RouterRuleSpec, set(), set()),
    (routers.BalancerSpec, balancers_pb2.BalancerSpec, set(), set()),
    (routers.PublicAddressSpec, public_addresses_pb2.PublicAddressSpec, set(), set()),
    (router_bundle.RouterBundle, router_bundles_pb2.RouterBundle, set(), set()),
    (status.RouterStatus, routers_pb2.RouterStatus, set(), set()),
    (status.RuleStatus, router_rules_pb2.RouterRuleStatus, set(), set()),
    (router_bundle.RouterReport, router_bundles_pb2.RouterReport, set(), set()),
    (router_bundle.RuleFigure, router_bundles_pb2.RuleFigure, set(), set()),
    (router_bundle.PoolFigure, router_bundles_pb2.PoolFigure, set(), set()),
]

_SCALARS: dict[int, type] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_INT64: int,
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_BYTES: bytes,
}
_BITS = {FieldDescriptor.TYPE_INT32: 31, FieldDescriptor.TYPE_INT64: 63}


def _unoptional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return inner, True
    return hint, False


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value_of(field: FieldDescriptor) -> FieldDescriptor:
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]


def disagreement(record_field: str, hint: Any, field: FieldDescriptor) -> str:
    """What is wrong with one field; empty when the two agree."""
    inner, is_optional = _unoptional(hint)
    origin = typing.get_origin(inner)
    if getattr(inner, "__supertype__", None) is not None:
        inner = inner.__supertype__
    if _is_map(field):
        if origin is None or not issubclass(origin, typing.Mapping):
            return "is a map there"
        return value_disagreement(typing.get_args(inner)[1], _value_of(field))
    if field.is_repeated:
        if origin is not tuple:
            return "is repeated there"
        return value_disagreement(typing.get_args(inner)[0], field)
    message = field.message_type.full_name if field.message_type is not None else ""
    if record_field.endswith("_seconds") and not field.name.endswith("_seconds"):
        return "" if inner is float and message == "google.protobuf.Duration" else "is no duration there"
    if origin is tuple:
        return "" if message == "moorage.v1.StringList" and is_optional else "is not repeated there"
    if is_optional and not field.has_presence:
        return "can be absent only here"
    return value_disagreement(inner, field)


def value_disagreement(hint: Any, field: FieldDescriptor) -> str:
    """The same for one value."""
    hint = getattr(hint, "__supertype__", hint)
    if field.enum_type is not None:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        names = {value.name.removeprefix(prefix) for value in field.enum_type.values} - {"UNSPECIFIED"}
        if not (isinstance(hint, type) and issubclass(hint, enum.Enum)):
            return "is an enum there"
        own = set(hint.__members__) - {"UNSPECIFIED"}
        return "" if own == names else f"has other values: {sorted(own ^ names)}"
    if field.message_type is None:
        return "" if _SCALARS.get(field.type) is hint else f"is {hint} here and {field.type} there"
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return "" if hint is datetime else "is a time there"
    return "" if dataclasses.is_dataclass(hint) else "is a message there"


def inner_pairs(record: type, message: Any) -> typing.Iterator[tuple[type, Any]]:
    """The pair, and the pairs of records and messages inside it."""
    yield record, message
    hints = typing.get_type_hints(record)
    for record_field in dataclasses.fields(record):
        field = _field_of(record_field.name, message)
        if field is None or field.message_type is None:
            continue
        inner, _ = _unoptional(hints[record_field.name])
        if typing.get_origin(inner) is not None and not isinstance(inner, type):
            inner = typing.get_args(inner)[1 if _is_map(field) else 0]
        target = _value_of(field).message_type if _is_map(field) else field.message_type
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from inner_pairs(inner, target)


def _field_of(name: str, descriptor: Any) -> FieldDescriptor | None:
    fields: Mapping[str, FieldDescriptor] = descriptor.fields_by_name
    return fields.get(name) or fields.get(name.removesuffix("_seconds"))


@pytest.mark.parametrize(("record", "message", "here", "there"), PAIRS, ids=lambda v: getattr(v, "__name__", ""))
def test_the_two_agree(record: type, message: type[Message], here: set[str], there: set[str]) -> None:
    wrong = []
    for own, descriptor in inner_pairs(record, message.DESCRIPTOR):
        hints = typing.get_type_hints(own)
        used = set()
        is_outer = own is record
        for record_field in dataclasses.fields(own):
            field = _field_of(record_field.name, descriptor)
            if field is None:
                if not (is_outer and here & {record_field.name, _ANYTHING}):
                    wrong.append(f"{own.__name__}.{record_field.name}: is not in {descriptor.full_name}")
                continue
            assert not (is_outer and record_field.name in here), f"{record_field.name} is on both sides by now"
            used.add(field.name)
            problem = disagreement(record_field.name, hints[record_field.name], field)
            if problem:
                wrong.append(f"{own.__name__}.{record_field.name}: {problem}")
        missing = set(descriptor.fields_by_name) - used - (there if is_outer else set())
        wrong += [f"{own.__name__} lacks {name} of {descriptor.full_name}" for name in sorted(missing)]
    assert wrong == []


_TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))
_SECONDS = st.integers(0, 10**9).map(lambda n: n / 1000)
_TEXT = st.text("aZ0 é\n\0", max_size=5)


def values_of(hint: Any, field: FieldDescriptor, name: str) -> st.SearchStrategy[Any]:
    """Values of a field that a round trip must keep."""
    inner, is_optional = _unoptional(hint)
    inner = getattr(inner, "__supertype__", inner)
    origin = typing.get_origin(inner)
    found: st.SearchStrategy[Any]
    if _is_map(field):
        value = _value_of(field)
        return st.dictionaries(_TEXT, values_of(typing.get_args(inner)[1], value, ""), max_size=2)
    if origin is tuple:
        item = typing.get_args(inner)[0]
        is_list = not field.is_repeated
        one = _TEXT if is_list else single_of(item, field)
        found = st.lists(one, max_size=2).map(tuple)
        return st.none() | found if is_optional and is_list else found
    found = _SECONDS if name.endswith("_seconds") and field.message_type is not None else single_of(inner, field)
    return st.none() | found if is_optional else found


def single_of(hint: Any, field: FieldDescriptor) -> st.SearchStrategy[Any]:
    hint = getattr(hint, "__supertype__", hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    if hint is datetime:
        return _TIMES
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return records_of(hint, field.message_type)
    if hint is int:
        limit = 1 << _BITS[field.type]
        return st.integers(-limit, limit - 1)
    return {str: _TEXT, bool: st.booleans(), float: st.floats(allow_nan=False)}[hint]


def records_of(record: type, descriptor: Any) -> st.SearchStrategy[Any]:
    """Records with every mirrored field set to anything."""
    hints = typing.get_type_hints(record)
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for record_field in dataclasses.fields(record):
        field = _field_of(record_field.name, descriptor)
        if field is not None:
            fields[record_field.name] = values_of(hints[record_field.name], field, record_field.name)
    if any(oneof.fields[0].name in fields for oneof in descriptor.oneofs if len(oneof.fields) > 1):
        return st.one_of([st.builds(record, **{name: values}) for name, values in fields.items()])  # at most one
    return st.builds(record, **fields)


_ROUND = [(r, m) for r, m, here, _ in PAIRS if not here and r is not Quota]


@pytest.mark.parametrize(("record", "message"), _ROUND, ids=lambda v: v.__name__)
def test_there_and_back(record: type, message: type[Message]) -> None:
    @given(records_of(record, message.DESCRIPTOR))
    @settings(max_examples=15, deadline=None)
    def check(value: Any) -> None:
        sent = protoconv.to_proto(value, message)
        received = message.FromString(sent.SerializeToString())
        assert protoconv.from_proto(record, received) == value

    check()


def test_nothing_set_is_the_defaults() -> None:
    assert protoconv.from_proto(instances.InstanceSpec, instances_pb2.InstanceSpec()) == instances.InstanceSpec()
    assert protoconv.from_proto(networks.NetworkSpec, networks_pb2.NetworkSpec()) == networks.NetworkSpec()
    assert protoconv.from_proto(hosts.HostFacts, hosts_pb2.HostFacts()) == hosts.HostFacts()


def test_absent_and_empty_are_two_things() -> None:
    message = protoconv.to_proto(
        instances.InstanceSpec(entrypoint=(), stop_grace_seconds=0.0), instances_pb2.InstanceSpec
    )
    assert message.HasField("entrypoint")
    assert message.HasField("stop_grace")
    message = protoconv.to_proto(instances.InstanceSpec(), instances_pb2.InstanceSpec)
    assert not message.HasField("entrypoint")
    assert not message.HasField("stop_grace")
    assert not message.HasField("health_check")
    back = protoconv.from_proto(Report, agent_pb2.InstanceReport(exit_code=0))
    assert back.exit_code == 0
    assert protoconv.from_proto(Report, agent_pb2.InstanceReport()).exit_code is None


def test_numbers_of_enums_that_are_not_known() -> None:
    message = common_pb2.RestartPolicy.FromString(b"\x08\x63")
    with pytest.raises(ValueError, match="unknown value 99"):
        protoconv.from_proto(containers.RestartPolicy, message)
    report = agent_pb2.InstanceReport.FromString(b"\x20\xe7\x07")
    with pytest.raises(ValueError, match="999"):
        protoconv.from_proto(Report, report)


def test_unspecified_is_the_records_own_or_its_default() -> None:
    empty = protoconv.from_proto(containers.RestartPolicy, common_pb2.RestartPolicy())
    assert empty.mode is containers.RestartMode.UNSPECIFIED
    host = hosts_pb2.HostStatus()
    values = protoconv.from_proto(_Linked, host)
    assert values.link_state is hosts.HostLinkState.DOWN


@dataclasses.dataclass(frozen=True)
class _Linked:
    """Its enum has no member for nothing."""

    link_state: hosts.HostLinkState = hosts.HostLinkState.DOWN


def test_times_and_durations() -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    message = protoconv.to_proto(operations.Event("1", "p", moment, "t", "R", "m"), events_pb2.Event)
    assert protoconv.time_of(message.time) == moment
    policy = protoconv.to_proto(containers.RestartPolicy(initial_seconds=0.1), common_pb2.RestartPolicy)
    assert policy.initial.nanos == 100_000_000
    assert math.isclose(protoconv.from_proto(containers.RestartPolicy, policy).initial_seconds, 0.1)

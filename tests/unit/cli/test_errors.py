"""Every class of the error tree survives the wire, and looks right on a terminal."""

import pytest
from google.rpc import error_details_pb2, status_pb2

from cli.failures import exit_code_of, render
from controlplane.api.errors import status_of
from moorage import errors
from moorage.errors import FieldViolation, InvalidSpec, MoorageError
from moorage.status import error_from_status

EVERY_CLASS = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, MoorageError) and found is not MoorageError
]


def make(cls: type[MoorageError]) -> MoorageError:
    if cls is InvalidSpec:
        return InvalidSpec([FieldViolation("spec.a", "is bad", "BAD"), FieldViolation("spec.b", "is worse")])
    return cls("do this instead", metadata={"name": "hosts/a"})


@pytest.mark.parametrize("cls", EVERY_CLASS, ids=lambda cls: cls.__name__)
def test_every_class_survives_the_wire(cls: type[MoorageError]) -> None:
    sent = make(cls)
    received = error_from_status(status_pb2.Status.FromString(status_of(sent).SerializeToString()), trace_id="t1")
    assert type(received) is cls
    assert received.message == sent.message
    assert received.reason == sent.reason
    assert received.retryable == sent.retryable
    assert sent.metadata.items() <= received.metadata.items()
    assert received.metadata["trace_id"] == "t1"
    if isinstance(sent, InvalidSpec):
        assert isinstance(received, InvalidSpec)
        assert received.violations == sent.violations


def test_a_quota_failure_is_a_quota_error_whatever_its_reason() -> None:
    status = status_pb2.Status(code=8)
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject="instances", description="the quota is 10 instances")
    status.details.add().Pack(quota)
    received = error_from_status(status)
    assert type(received) is errors.QuotaExceeded
    assert received.message == "the quota is 10 instances"


def test_retry_delay_is_metadata() -> None:
    status = status_pb2.Status(code=14, message="away")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    status.details.add().Pack(retry)
    assert error_from_status(status).metadata == {"retry_delay_seconds": "1.5"}


def test_codes_of_strangers_are_internal() -> None:
    assert type(error_from_status(status_pb2.Status(code=2, message="what"))) is errors.Internal


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.InvalidSpec, 2),
        (errors.NotFound, 3),
        (errors.Unauthenticated, 4),
        (errors.Forbidden, 4),
        (errors.AlreadyExists, 5),
        (errors.VersionConflict, 5),
        (errors.NotReady, 6),
        (errors.NotSupported, 6),
        (errors.Exhausted, 7),
        (errors.QuotaExceeded, 7),
        (errors.Unavailable, 8),
        (errors.EngineUnavailable, 8),
        (errors.DeadlineExceeded, 8),
        (errors.Internal, 1),
        (errors.HistoryCompacted, 1),
    ],
)
def test_exit_codes(cls: type[MoorageError], code: int) -> None:
    assert exit_code_of(make(cls)) == code


def test_field_violations_are_one_per_line() -> None:
    assert render(make(InvalidSpec)) == "Error: these fields are wrong:\n  spec.a: is bad\n  spec.b: is worse"
    assert render(InvalidSpec.of("spec.a", "is bad")) == "Error: spec.a: is bad"


def test_errors_say_what_to_do_and_debug_says_more() -> None:
    error = errors.Unauthenticated("the key is not known.", reason="KEY_UNKNOWN", metadata={"trace_id": "t1"})
    assert render(error) == "Error: the key is not known; log in with `moor login`"
    assert render(error, debug=True).splitlines()[1:] == [
        "  class: Unauthenticated",
        "  reason: KEY_UNKNOWN",
        "  trace_id: t1",
    ]

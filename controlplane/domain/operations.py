"""Operations and events: mirrors protos/moorage/v1/operations.proto and events.proto."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from moorage import errors


class OperationState(enum.IntEnum):
    """Where an operation stands."""

    UNSPECIFIED = 0
    RUNNING = 100
    SUCCEEDED = 200
    FAILED = 300
    CANCELLED = 400


@dataclass(frozen=True, slots=True)
class HostProgress:
    """How far one host is."""

    phase: str = ""
    percent: int = 0


@dataclass(frozen=True, slots=True)
class OperationError:
    """Why an operation failed, as the classes of moorage/errors.py say it."""

    kind: str  # name of the class
    reason: str
    message: str


def failure_error(failure: OperationError) -> errors.MoorageError:
    """The error that was kept, to be raised again."""
    kind = getattr(errors, failure.kind, errors.Internal)
    if kind is errors.InvalidSpec:
        violation = errors.FieldViolation("", failure.message, failure.reason)
        return errors.InvalidSpec([violation], message=failure.message, reason=failure.reason)
    error: errors.MoorageError = kind(failure.message, reason=failure.reason)
    return error


@dataclass(frozen=True, slots=True)
class Operation:
    """Long work with progress."""

    uid: str
    project: str
    verb: str
    target: str
    create_time: datetime
    created_by: str = ""
    state: OperationState = OperationState.RUNNING
    phase: str = ""
    percent: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    end_time: datetime | None = None
    failure: OperationError | None = None
    log: str = ""
    hosts: Mapping[str, HostProgress] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """projects/{project}/operations/{operation}."""
        return f"projects/{self.project}/operations/{self.uid}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object."""

    uid: str  # rises with time
    project: str  # empty: hosts and the fleet
    time: datetime
    target: str
    reason: str
    message: str
    severity: str = "normal"

    @property
    def name(self) -> str:
        """projects/{project}/events/{event} or events/{event}."""
        return f"projects/{self.project}/events/{self.uid}" if self.project else f"events/{self.uid}"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """A mutating call."""

    uid: str  # rises with time
    time: datetime
    user: str
    key_id: str
    method: str
    target: str
    code: str
    peer: str

    @property
    def name(self) -> str:
        """auditEvents/{event}."""
        return f"auditEvents/{self.uid}"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A create that was done, so that its retry is answered and not done again."""

    key: str  # user, method and request id
    body_digest: str
    names: tuple[str, ...]
    time: datetime

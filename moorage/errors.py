"""The error tree. Everything that Moorage refuses, it refuses with one of these; no gRPC, Docker or netlink type here.

MoorageError
  InvalidSpec          the request itself is wrong; lists every bad field at once
  NotFound             the named object does not exist (or the caller may not know that it does)
  AlreadyExists        the name is taken, or a request id was used with another body
  VersionConflict      the object changed since the caller read it; read again and retry
  NotReady             the object's state does not allow this now
    NotSupported       this host, engine or kernel lacks what the request needs
  Exhausted            no address, port or space is left
    QuotaExceeded      the project's quota does not allow it
  Unauthenticated      who are you
  Forbidden            you may not
  Unavailable          cannot be reached or is shutting down; back off and retry
    EngineUnavailable  the Docker Engine does not answer
    StoreUnavailable   the durable log cannot be written
  HistoryCompacted     a watch asked for history that is gone; list again
  DeadlineExceeded     took longer than allowed
  Internal             a bug or a surprise of ours

`reason` is an UPPER_SNAKE_CASE word for programs (docs/errors.md is the catalogue); the message is one sentence for people
that says what to do. `moorage/status.py` maps classes to gRPC codes and back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path in the request (`spec.nics[0].address`) and what is wrong with it."""

    field: str
    problem: str
    reason: str = "INVALID"


class MoorageError(Exception):
    """Base of all expected errors.

    Attributes:
        message: one sentence for people.
        reason: a word for programs.
        metadata: details for programs, such as the name of the object concerned.
        retryable: whether the same call may succeed later without any change.
    """

    default_reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidSpec(MoorageError):
    """The request is wrong. `violations` lists every bad field."""

    default_reason = "INVALID_SPEC"

    def __init__(
        self,
        violations: Iterable[FieldViolation],
        *,
        message: str | None = None,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations)
        text = message or "; ".join(f"{v.field}: {v.problem}" for v in self.violations)
        first = self.violations[0].reason if len(self.violations) == 1 else None
        if first == "INVALID":
            first = None
        super().__init__(text, reason=reason or first, metadata=metadata)

    @classmethod
    def of(cls, field: str, problem: str, reason: str = "INVALID") -> "InvalidSpec":
        """The common case: one bad field."""
        return cls([FieldViolation(field, problem, reason)])


class NotFound(MoorageError):
    """The named object does not exist."""

    default_reason = "NOT_FOUND"


class AlreadyExists(MoorageError):
    """The name is taken."""

    default_reason = "ALREADY_EXISTS"


class VersionConflict(MoorageError):
    """The object changed since the caller read it."""

    default_reason = "ETAG_MISMATCH"
    retryable = True


class NotReady(MoorageError):
    """The object's state does not allow this now."""

    default_reason = "FAILED_PRECONDITION"


class NotSupported(NotReady):
    """This host, engine or kernel lacks what the request needs."""

    default_reason = "NOT_SUPPORTED"


class Exhausted(MoorageError):
    """No address, port or space is left."""

    default_reason = "EXHAUSTED"


class QuotaExceeded(Exhausted):
    """The project's quota does not allow it."""

    default_reason = "QUOTA_EXCEEDED"


class Unauthenticated(MoorageError):
    """No credentials, or none that we know."""

    default_reason = "UNAUTHENTICATED"


class Forbidden(MoorageError):
    """The caller is known and may not do this."""

    default_reason = "FORBIDDEN"


class Unavailable(MoorageError):
    """Cannot be reached now."""

    default_reason = "UNAVAILABLE"
    retryable = True


class EngineUnavailable(Unavailable):
    """The Docker Engine does not answer."""

    default_reason = "ENGINE_UNAVAILABLE"


class StoreUnavailable(Unavailable):
    """The durable log cannot be written."""

    default_reason = "STORE_UNAVAILABLE"


class HistoryCompacted(MoorageError):
    """A watch asked for history that is gone: list again, then watch from the revision of that list."""

    default_reason = "HISTORY_COMPACTED"


class DeadlineExceeded(MoorageError):
    """Took longer than allowed."""

    default_reason = "DEADLINE_EXCEEDED"
    retryable = True


class Internal(MoorageError):
    """A bug or a surprise of ours."""

    default_reason = "INTERNAL"

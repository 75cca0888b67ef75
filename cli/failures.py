"""What an error looks like on a terminal, and the exit code that it gets. Pure."""

from moorage.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    Internal,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    Unauthenticated,
    Unavailable,
    VersionConflict,
)

EXIT_FAILED = 1
EXIT_USAGE = 2  # also click's own
EXIT_INTERRUPTED = 130  # as shells report a command that Ctrl-C ended

_EXIT_CODES: tuple[tuple[type[MoorageError], int], ...] = (
    (InvalidSpec, EXIT_USAGE),
    (NotFound, 3),
    (Unauthenticated, 4),
    (Forbidden, 4),
    (AlreadyExists, 5),
    (VersionConflict, 5),
    (NotReady, 6),
    (Exhausted, 7),
    (Unavailable, 8),
    (DeadlineExceeded, 8),
)

_ADVICE: dict[type[MoorageError], str] = {
    Unauthenticated: "log in with `moor login`",
    VersionConflict: "read the object again and repeat the command",
    Internal: "please report it with the trace id that --debug shows",
}


def exit_code_of(error: MoorageError) -> int:
    """See docs/cli.md."""
    return next((code for cls, code in _EXIT_CODES if isinstance(error, cls)), EXIT_FAILED)


def render(error: MoorageError, *, debug: bool = False) -> str:
    """The lines for stderr: a sentence, then every bad field, then with `debug` what a program would have seen."""
    if isinstance(error, InvalidSpec) and len(error.violations) > 1:
        lines = ["Error: these fields are wrong:"]
        lines += [f"  {violation.field}: {violation.problem}" for violation in error.violations]
    elif isinstance(error, InvalidSpec) and error.violations:
        only = error.violations[0]
        lines = [f"Error: {only.field}: {only.problem}" if only.field else f"Error: {only.problem}"]
    else:
        message = error.message.rstrip()
        advice = _ADVICE.get(type(error), "")
        if advice and not any(hint in message for hint in ("`moor ", "log in", "report")):
            message = f"{message.rstrip('.')}; {advice}"
        lines = [f"Error: {message}"]
    if debug:
        lines.append(f"  class: {type(error).__name__}")
        lines.append(f"  reason: {error.reason}")
        lines += [f"  {key}: {value}" for key, value in sorted(error.metadata.items())]
    return "\n".join(lines)

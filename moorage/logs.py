"""Logs of all programs: one line an event on stderr, as key=value or JSON, with the cause of it and without secrets.

Modules log with the standard library (`logging.getLogger(__name__)`, details in `extra=`); `configure` decides how it
looks. `bind(trace_id=..., cause=...)` marks all that is logged within it, through awaits and tasks started in it:
`trace_id` comes from the request, `cause` is the version of the event that made a reconciler act.

A line never holds a line break of a value, so nobody can forge a line. Redaction is the second guard, not the first:
code must not log secrets.
"""

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, TextIO

REDACTED: Final = "[redacted]"
LEVELS: Final = ("debug", "info", "warning", "error")
LogFormat = Literal["text", "json"]

_trace_id: ContextVar[str] = ContextVar("trace_id", default="")
_cause: ContextVar[str] = ContextVar("cause", default="")

# Libraries that talk too much at info; a warning of theirs is worth reading.
_QUIET_LOGGERS: Final = ("aiohttp.access", "asyncio", "docker", "pyroute2", "urllib3")

_SECRET_FIELDS = re.compile(r"secret|token|passw|authorization|credential|private_?key|api_?key|cookie", re.IGNORECASE)
# Fields whose name holds such a word although they are no secret.
_PLAIN_FIELDS: Final = frozenset({"page_token", "token_id", "key_id", "join_token_id", "api_key_id"})

# Each pattern keeps its first group and loses the rest. The id in a key or token is no secret and helps to find it.
_SECRET_TEXTS: Final = (
    re.compile(r"(moork_[a-z0-9]+_)[A-Za-z0-9_-]+"),
    re.compile(r"(moor1\.[A-Za-z0-9_-]+\.[a-z0-9]+\.)[A-Za-z0-9_-]+"),
    re.compile(r"()\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"),  # JSON Web Token
    re.compile(r"(\b(?:bearer|basic)\s+)(?!moork_)[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE),
    re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE),  # password in a URL
    re.compile(r"([A-Za-z0-9_-]*(?:passw|secret|token|api_?key)[A-Za-z0-9_-]*=)[^\s&,;\"']+", re.IGNORECASE),
    re.compile(r"()-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)

_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@+,\[\]-]+", re.ASCII)


def configure(program: str, *, level: str = "info", format: LogFormat = "text", stream: TextIO | None = None) -> None:
    """Send the logs of this process to stderr. Called once by each `main.py`; a second call replaces the first.

    Args:
        program: named in each line.
        level: one of `LEVELS`.
        stream: instead of stderr.
    Raises:
        ValueError: unknown level or format.
    """
    if level not in LEVELS or format not in ("text", "json"):
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, format text or json")
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(program) if format == "json" else TextFormatter(program))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, _LineFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


@contextlib.contextmanager
def bind(*, trace_id: str | None = None, cause: str | None = None) -> Iterator[None]:
    """Mark every line logged inside; what is None stays as it was outside."""
    tokens = [
        (variable, variable.set(value))
        for variable, value in ((_trace_id, trace_id), (_cause, cause))
        if value is not None
    ]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def current_trace_id() -> str:
    """The trace id bound here, or empty; for passing it on to the next program."""
    return _trace_id.get()


def redact(text: str) -> str:
    """`text` with every secret of a known form replaced: keys, join tokens, JWTs, credentials in headers and URLs."""
    for pattern in _SECRET_TEXTS:
        text = pattern.sub(rf"\g<1>{REDACTED}", text)
    return text


class _LineFormatter(logging.Formatter):
    """Collects the fields of a record in their order; subclasses write them."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return self.render(self._fields(record))

    def render(self, fields: Mapping[str, Any]) -> str:
        """Write the fields as one line."""
        raise NotImplementedError

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name, variable in (("trace_id", _trace_id), ("cause", _cause)):
            if variable.get():
                fields[name] = redact(variable.get())
        for name, value in vars(record).items():
            if name not in _STANDARD_ATTRIBUTES:
                # A detail must not take the place of a field of ours.
                fields[f"detail_{name}" if name in fields else name] = _clean(name, value)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            fields["stack"] = redact(record.stack_info)
        return fields


class TextFormatter(_LineFormatter):
    """key=value, values quoted as JSON strings where they hold more than plain characters."""

    def render(self, fields: Mapping[str, Any]) -> str:
        """Write the fields as one line."""
        return " ".join(f"{_text_name(name)}={_text_value(value)}" for name, value in fields.items())


class JsonFormatter(_LineFormatter):
    """One JSON object a line."""

    def render(self, fields: Mapping[str, Any]) -> str:
        """Write the fields as one line."""
        return json.dumps(fields, separators=(",", ":"))


def _clean(name: str, value: Any) -> Any:
    """A value that can be written: secrets gone, containers walked, unknown types as text."""
    if isinstance(value, bool | int | float | None):
        return value
    if name not in _PLAIN_FIELDS and _SECRET_FIELDS.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item) for item in value]
    return redact(str(value))


def _text_name(name: str) -> str:
    return name if _PLAIN_VALUE.fullmatch(name) else json.dumps(name)


def _text_value(value: Any) -> str:
    if isinstance(value, str):
        return value if _PLAIN_VALUE.fullmatch(value) else json.dumps(value)
    text = json.dumps(value)
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text)

"""Frozen dataclasses to JSON and back, by type hints, for the journal.

A field that has its default is left out, and an unknown field in the text is skipped, so that agents one version
apart can read each other's journal. Only what hostagent/domain.py, moorage/router_bundle.py and journal/state.py use is understood:
dataclasses, enums (by name), tuples, string-keyed mappings, optional values and scalars. Converters are compiled
once for each type.
"""

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
_Convert = Callable[[Any], Any]


def dumps(value: Any) -> str:
    """The JSON text of a dataclass."""
    return json.dumps(_encoder(value.__class__)(value), separators=(",", ":"))


def loads(record_type: type[T], text: str) -> T:
    """The dataclass in a text of `dumps`.

    Raises:
        ValueError: the text is not such a value.
    """
    try:
        result: T = _decoder(typing.cast(Hashable, record_type))(json.loads(text))
    except (TypeError, KeyError, AttributeError) as exc:
        raise ValueError(f"not a {record_type.__name__}: {exc}") from exc
    return result


def _same(value: Any) -> Any:
    return value


def _inner(hint: Any) -> Any:
    """The type without `| None` and NewType."""
    if isinstance(hint, typing.NewType):
        return hint.__supertype__
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (argument for argument in typing.get_args(hint) if argument is not type(None))
        return _inner(hint)
    return hint


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@cache
def _encoder(hint: Hashable) -> _Convert:
    kind = _inner(hint)
    origin = typing.get_origin(kind)
    if origin is tuple:
        convert = _encoder(typing.get_args(kind)[0])
        return lambda value: None if value is None else [convert(item) for item in value]
    if origin is not None and issubclass(origin, Mapping):
        return lambda value: None if value is None else dict(value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return lambda value: None if value is None else value.name
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        plan = [(f.name, _default(f), _encoder(hints[f.name])) for f in dataclasses.fields(kind)]

        def encode(record: Any) -> Any:
            if record is None:
                return None
            out = {}
            for name, default, convert in plan:
                value = getattr(record, name)
                if value != default:
                    out[name] = convert(value)
            return out

        return encode
    return _same


@cache
def _decoder(hint: Hashable) -> _Convert:
    kind = _inner(hint)
    origin = typing.get_origin(kind)
    if origin is tuple:
        convert = _decoder(typing.get_args(kind)[0])
        return lambda value: None if value is None else tuple(convert(item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return lambda value: None if value is None else dict(value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return lambda value: None if value is None else kind[value]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        plan = {f.name: _decoder(hints[f.name]) for f in dataclasses.fields(kind)}

        def decode(value: Any) -> Any:
            if value is None:
                return None
            make: typing.Any = kind
            return make(**{name: plan[name](item) for name, item in value.items() if name in plan})

        return decode
    return _same

"""Immutable records to JSON-able values and back, guided by the type hints of frozen dataclasses.

Used for everything that outlives a process or an upgrade: the store's rows, the agent's journal. The rules let
records grow: unknown keys are ignored, a missing key takes its field's default. What must stay: names of fields and
of enum members.

| hint | JSON |
| --- | --- |
| str, int, bool, None, Literal, Any | itself |
| float | number; not a NaN or infinity |
| datetime (aware) | ISO 8601 in UTC |
| Enum, IntEnum | the member's name |
| dataclass | object; fields with init=False are left out |
| tuple[T, ...], Sequence[T], tuple[A, B] | array (read as a tuple) |
| frozenset[T] | array, sorted |
| Mapping[str, T], dict[str, T] | object |
| T or None; a union of str, int, float, bool, None | itself |
NewType and Annotated count as what they wrap. Lists and sets are refused: records are immutable.

Writing checks every value against its hint: a record that cannot be read back must never become durable.

For each dataclass one encoder and one decoder are compiled from generated source and kept, as `dataclasses` itself
does for `__init__`: a store of 100,000 records is decoded at start, while the program waits.
"""

import collections.abc
import dataclasses
import datetime
import enum
import itertools
import math
import threading
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from moorage.errors import Internal

T = TypeVar("T")

_SCALARS: dict[type, str] = {str: "text", int: "an integer", float: "a number", bool: "true or false"}


def to_json(value: Any, hint: Any = None) -> Any:
    """`value` as dicts, lists and scalars, by `hint` (None: by its class).

    Raises:
        Internal: a value does not fit its hint (RECORD_UNWRITABLE), or a hint is not supported
            (RECORD_TYPE_UNSUPPORTED).
    """
    return encoder(type(value) if hint is None else hint)(value)


def from_json(record_type: type[T], data: Any) -> T:
    """The inverse of `to_json`. Takes any hint; the result's type is only known to checkers when it is a class.

    Raises:
        Internal: the data does not fit (RECORD_UNREADABLE), or a hint is not supported (RECORD_TYPE_UNSUPPORTED).
    """
    made: T = decoder(record_type)(data)
    return made


def encoder(hint: Any) -> Callable[[Any], Any]:
    """The function that encodes values of this hint; compiled at the first call, then kept. Raises Internal."""
    return _ENCODERS.function(hint)


def decoder(hint: Any) -> Callable[[Any], Any]:
    """The function that decodes values of this hint; compiled at the first call, then kept. Raises Internal."""
    return _DECODERS.function(hint)


class _Compiler:
    """Makes one function for each hint.

    Expressions name their helpers and the other functions in one shared namespace, so that records may contain each
    other: the name is given before the function's body is made.
    """

    def __init__(self, prefix: str, helpers: Mapping[str, Any]) -> None:
        self._prefix = prefix
        self._functions: dict[Any, Callable[[Any], Any]] = {}
        self._names: dict[Any, str] = {}
        self._lock = threading.RLock()  # stores are opened in threads
        self._numbers = itertools.count()  # a name is never used twice: functions find each other by name
        self.namespace: dict[str, Any] = dict(helpers)

    def function(self, hint: Any) -> Callable[[Any], Any]:
        found = self._functions.get(hint)
        if found is not None:
            return found
        with self._lock:
            name = self.name_of(hint)
            made: Callable[[Any], Any] = self.namespace[name]
            self._functions[hint] = made
            return made

    def name_of(self, hint: Any) -> str:
        """The name of the function for `hint`, which exists once the outermost call has returned."""
        with self._lock:
            name = self._names.get(hint)
            if name is not None:
                return name
            known = len(self._names)
            name = self._names[hint] = f"{self._prefix}{next(self._numbers)}"
            try:
                if dataclasses.is_dataclass(hint):
                    source = self.source_of_record(name, typing.cast(type, hint))
                else:
                    source = f"def {name}(v):\n    return {self.expression(hint, 'v', _title(hint), 0)}\n"
                exec(source, self.namespace)
            except BaseException:
                # What was compiled since may call this one, which will never exist: forget that too.
                for newer in list(self._names)[known:]:
                    del self._names[newer]
                raise
            return name

    def constant(self, value: Any) -> str:
        name = f"constant_{next(self._numbers)}"
        self.namespace[name] = value
        return name

    def expression(self, hint: Any, x: str, where: str, depth: int) -> str:
        """Source of an expression that turns `x`, cheap source without effects, into its counterpart.

        `where` is told in errors; `depth` keeps the variables of nested comprehensions apart.
        """
        while hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self.expression(args[0], x, where, depth)
        if hint is Any or hint is object:
            return x
        if hint is None or hint is types.NoneType:
            return f"(None if {x} is None else bad({x}, 'null', {where!r}))"
        if hint in _SCALARS:
            return self.scalar(hint, x, where)
        if hint is datetime.datetime:
            return f"moment({x}, {where!r})"
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return self.member(hint, x, where)
        if dataclasses.is_dataclass(hint):
            return f"{self.name_of(hint)}({x})"
        if origin is Literal:
            allowed = self.constant(args)
            return f"({x} if {x} in {allowed} else bad({x}, 'one of ' + repr({allowed}), {where!r}))"
        if origin in (typing.Union, types.UnionType):
            return self.union(args, x, where, depth)
        item, value, key = f"i{depth}", f"j{depth}", f"k{depth}"
        if (origin is tuple and len(args) == 2 and args[1] is Ellipsis) or origin is collections.abc.Sequence:
            inner = self.expression(args[0], item, where, depth + 1)
            return self.array(inner, item, x, where)
        if origin is tuple or hint == tuple[()]:
            parts = [self.expression(arg, f"{x}[{i}]", where, depth + 1) for i, arg in enumerate(args)]
            return self.fixed(parts, x, where)
        if origin is frozenset:
            return self.unordered(self.expression(args[0], item, where, depth + 1), item, x, where)
        if origin in (dict, collections.abc.Mapping) and _is_text(args[0]):
            inner = self.expression(args[1], value, where, depth + 1)
            name = self.scalar(str, key, where)
            return f"{{{name}: {inner} for {key}, {value} in {self.checked(x, 'dict', 'mapping', where)}.items()}}"
        raise Internal(f"{where}: the codec does not support {hint!r}", reason="RECORD_TYPE_UNSUPPORTED")

    def union(self, args: tuple[Any, ...], x: str, where: str, depth: int) -> str:
        others = [arg for arg in args if arg is not types.NoneType]
        if len(others) == 1:
            inner = self.expression(others[0], x, where, depth)
        elif all(arg in _SCALARS for arg in others):
            classes = self.constant(frozenset(others))
            inner = f"({x} if {x}.__class__ in {classes} else bad({x}, 'one of ' + repr({classes}), {where!r}))"
        else:
            raise Internal(
                f"{where}: the codec cannot tell the members of {args!r} apart", reason="RECORD_TYPE_UNSUPPORTED"
            )
        return inner if len(others) == len(args) else f"(None if {x} is None else {inner})"

    def scalar(self, hint: type, x: str, where: str) -> str:
        fits = f"{x}.__class__ is {hint.__name__}"
        if hint is float:
            fits += f" and {x} - {x} == 0.0"  # not for NaN and infinities
        return f"({x} if {fits} else {hint.__name__}_({x}, {where!r}))"

    @staticmethod
    def checked(x: str, usual: str, helper: str, where: str) -> str:
        """`x` itself when it is of the usual class, which saves a call; else what the helper makes of it."""
        return f"({x} if {x}.__class__ is {usual} else {helper}({x}, {where!r}))"

    def source_of_record(self, name: str, record_type: type) -> str:
        raise NotImplementedError

    def member(self, hint: type[enum.Enum], x: str, where: str) -> str:
        raise NotImplementedError

    def array(self, inner: str, item: str, x: str, where: str) -> str:
        raise NotImplementedError

    def fixed(self, parts: Sequence[str], x: str, where: str) -> str:
        raise NotImplementedError

    def unordered(self, inner: str, item: str, x: str, where: str) -> str:
        raise NotImplementedError


class _EncoderCompiler(_Compiler):
    def source_of_record(self, name: str, record_type: type) -> str:
        title = record_type.__qualname__
        made = self.constant(record_type)
        parts = [
            f"{field.name!r}: {self.expression(hint, f'v.{field.name}', f'{title}.{field.name}', 0)}"
            for field, hint in _fields(record_type)
        ]
        # A subclass has fields that would be lost.
        check = f"    if v.__class__ is not {made}: bad(v, {title!r}, {title!r})\n"
        return f"def {name}(v):\n{check}    return {{{', '.join(parts)}}}\n"

    def member(self, hint: type[enum.Enum], x: str, where: str) -> str:
        if issubclass(hint, enum.Flag):
            raise Internal(f"{where}: the codec does not support flags", reason="RECORD_TYPE_UNSUPPORTED")
        # `_name_` is what the property `name` returns, without the call.
        return f"({x}._name_ if {x}.__class__ is {self.constant(hint)} else bad({x}, {hint.__name__!r}, {where!r}))"

    def array(self, inner: str, item: str, x: str, where: str) -> str:
        return f"[{inner} for {item} in {self.checked(x, 'tuple', 'array', where)}]"

    def fixed(self, parts: Sequence[str], x: str, where: str) -> str:
        return f"(array({x}, {where!r}, {len(parts)}) and [{', '.join(parts)}] or [])"

    def unordered(self, inner: str, item: str, x: str, where: str) -> str:
        return f"ordered([{inner} for {item} in unordered({x}, {where!r})])"


class _DecoderCompiler(_Compiler):
    def source_of_record(self, name: str, record_type: type) -> str:
        title = record_type.__qualname__
        lines = [f"def {name}(v):", f"    if v.__class__ is not dict: bad(v, 'an object', {title!r})"]
        positional, by_name = [], []
        for number, (field, hint) in enumerate(_fields(record_type)):
            where = f"{title}.{field.name}"
            lines += ["    try:", f"        x = v[{field.name!r}]", "    except KeyError:"]
            if field.default is not dataclasses.MISSING:
                lines.append(f"        f{number} = {self.constant(field.default)}")
            elif field.default_factory is not dataclasses.MISSING:
                lines.append(f"        f{number} = {self.constant(field.default_factory)}()")
            else:
                lines.append(f"        missing({where!r})")
            lines += ["    else:", f"        f{number} = {self.expression(hint, 'x', where, 0)}"]
            if field.kw_only:
                by_name.append(f"{field.name}=f{number}")
            else:
                positional.append(f"f{number}")
        lines.append(f"    return {self.constant(record_type)}({', '.join(positional + by_name)})")
        return "\n".join(lines) + "\n"

    def member(self, hint: type[enum.Enum], x: str, where: str) -> str:
        if issubclass(hint, enum.Flag):
            raise Internal(f"{where}: the codec does not support flags", reason="RECORD_TYPE_UNSUPPORTED")
        members = self.constant(dict(hint.__members__))
        expected = f"a member of {hint.__name__}"
        known = f"{x}.__class__ is str and {x} in {members}"
        return f"({members}[{x}] if {known} else bad({x}, {expected!r}, {where!r}))"

    def array(self, inner: str, item: str, x: str, where: str) -> str:
        return f"tuple([{inner} for {item} in {self.checked(x, 'list', 'array', where)}])"

    def fixed(self, parts: Sequence[str], x: str, where: str) -> str:
        return f"(array({x}, {where!r}, {len(parts)}) and ({''.join(part + ', ' for part in parts)}) or ())"

    def unordered(self, inner: str, item: str, x: str, where: str) -> str:
        return f"frozenset([{inner} for {item} in {self.checked(x, 'list', 'array', where)}])"


def _fields(record_type: type) -> list[tuple["dataclasses.Field[Any]", Any]]:
    try:
        hints = typing.get_type_hints(record_type, include_extras=True)
    except NameError as exc:
        raise Internal(f"{record_type.__qualname__}: {exc} in a hint", reason="RECORD_TYPE_UNSUPPORTED") from exc
    return [(field, hints[field.name]) for field in dataclasses.fields(record_type) if field.init]


def _is_text(hint: Any) -> bool:
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return hint is str


def _title(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or repr(hint)


def _shown(value: Any) -> str:
    # The class and not the value: records hold secrets, and errors are logged.
    return "null" if value is None else f"a {type(value).__name__}"


def _unwritable(value: Any, expected: str, where: str) -> NoReturn:
    raise Internal(f"{where}: expected {expected}, not {_shown(value)}", reason="RECORD_UNWRITABLE")


def _unreadable(value: Any, expected: str, where: str) -> NoReturn:
    raise Internal(f"{where}: expected {expected}, found {_shown(value)}", reason="RECORD_UNREADABLE")


def _missing(where: str) -> NoReturn:
    raise Internal(f"{where}: missing, and the field has no default", reason="RECORD_UNREADABLE")


_Bad = Callable[[Any, str, str], NoReturn]


def _scalar_helpers(bad: _Bad) -> dict[str, Any]:
    """For scalars that are not exactly of their class: subclasses become the class itself, the rest is refused."""

    def text(value: Any, where: str) -> str:
        return str.__str__(value) if isinstance(value, str) else bad(value, "text", where)

    def integer(value: Any, where: str) -> int:
        return int(value) if isinstance(value, int) else bad(value, "an integer", where)

    def number(value: Any, where: str) -> float:
        try:
            made = float(value) if isinstance(value, int | float) else math.nan
        except OverflowError:
            made = math.inf
        return made if math.isfinite(made) else bad(value, "a finite number", where)

    def flag(value: Any, where: str) -> bool:
        return bad(value, "true or false", where)

    return {"str_": text, "int_": integer, "float_": number, "bool_": flag, "bad": bad}


def _write_moment(value: Any, where: str) -> str:
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        _unwritable(value, "a datetime with a time zone", where)
    return value.astimezone(datetime.UTC).isoformat()


def _read_moment(value: Any, where: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        _unreadable(value, "a time in ISO 8601", where)
    if moment.tzinfo is None:
        _unreadable(value, "a time with a time zone", where)
    return moment.astimezone(datetime.UTC)


def _array_helper(bad: _Bad, kind: type, expected: str) -> Callable[..., Any]:
    def array(value: Any, where: str, length: int = -1) -> Any:
        if not isinstance(value, kind):
            bad(value, expected, where)
        if length >= 0 and len(typing.cast(collections.abc.Sized, value)) != length:
            bad(value, f"{expected} of {length}", where)
        return value

    return array


def _mapping_helper(bad: _Bad) -> Callable[[Any, str], Any]:
    def mapping(value: Any, where: str) -> Any:
        return value if isinstance(value, Mapping) else bad(value, "an object", where)

    return mapping


def _ordered(values: list[Any]) -> list[Any]:
    """The same set gives the same text."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


_ENCODERS = _EncoderCompiler(
    "encode_",
    {
        **_scalar_helpers(_unwritable),
        "moment": _write_moment,
        "array": _array_helper(_unwritable, tuple, "a tuple"),
        "unordered": _array_helper(_unwritable, frozenset, "a frozenset"),
        "mapping": _mapping_helper(_unwritable),
        "ordered": _ordered,
    },
)
_DECODERS = _DecoderCompiler(
    "decode_",
    {
        **_scalar_helpers(_unreadable),
        "moment": _read_moment,
        "array": _array_helper(_unreadable, list, "an array"),
        "mapping": _mapping_helper(_unreadable),
        "missing": _missing,
    },
)

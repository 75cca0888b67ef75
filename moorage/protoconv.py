"""Protobuf messages to frozen dataclasses and back, by the names of their fields.

Domain values mirror the messages, so that one rule serves all of them and a new field needs no code here:

| dataclass field                      | message field                                          |
| ------------------------------------ | ------------------------------------------------------ |
| `x`                                  | `x`, same type                                         |
| `x_seconds: float`                   | `google.protobuf.Duration x`                           |
| `x: datetime`                        | `google.protobuf.Timestamp x`                          |
| `x: T or None`                       | `x` with presence; None is absence                     |
| `x: tuple[str, ...] or None`         | `StringList x`                                         |
| `x: Color` (enum)                    | enum whose values are named COLOR_RED for `Color.RED`  |
| `x: Inner` (dataclass)               | message; absent is `Inner()`                           |
| `x: tuple[T, ...]`, `Mapping[str,T]` | repeated, map                                          |

The enum value _UNSPECIFIED is the member UNSPECIFIED where there is one, else the dataclass field's default. Fields that only one
side has are left alone. Converters are compiled once for each pair of classes.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_Reader = Callable[[Message, dict[str, Any]], None]
_Writer = Callable[[Any, Message], None]
_SECONDS = "_seconds"


def from_proto(record_type: type[T], message: Message) -> T:
    """The dataclass that mirrors `message`.

    Raises:
        ValueError: an enum number that this version does not know.
    """
    values: dict[str, Any] = {}
    hashable: Any = record_type
    for read in _readers(hashable, message.DESCRIPTOR):
        read(message, values)
    return record_type(**values)


def to_proto(record: Any, message_type: type[M]) -> M:
    """A message that mirrors the dataclass `record`."""
    message = message_type()
    fill(record, message)
    return message


def fill(record: Any, message: Message) -> None:
    """Set the fields of an empty `message` from the dataclass `record`."""
    hashable: Any = type(record)
    for write in _writers(hashable, message.DESCRIPTOR):
        write(record, message)


@cache
def _hints(record_type: Any) -> dict[str, Any]:
    return typing.get_type_hints(record_type)


def _proto_field(name: str, descriptor: Descriptor) -> FieldDescriptor | None:
    found = descriptor.fields_by_name.get(name)
    if found is None and name.endswith(_SECONDS):
        found = descriptor.fields_by_name.get(name.removesuffix(_SECONDS))
    return found


def _optional(hint: Any) -> tuple[Any, bool]:
    """(inner type, whether None is allowed)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return hint, False


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _default(record_field: "dataclasses.Field[Any]") -> Any:
    if record_field.default is not dataclasses.MISSING:
        return record_field.default
    if record_field.default_factory is not dataclasses.MISSING:
        return record_field.default_factory()
    return None


def _from_value(hint: Any, field: FieldDescriptor, default: Any) -> Callable[[Any], Any]:
    """Converter of one protobuf value (not a repeated field) to the type `hint`."""
    if field.enum_type is not None:
        return _enum_reader(hint, field, default)
    if field.message_type is not None:
        full_name = field.message_type.full_name
        if full_name == "google.protobuf.Timestamp":
            return lambda value: value.ToDatetime(tzinfo=UTC)
        if full_name == "google.protobuf.Duration":
            return lambda value: value.ToNanoseconds() / 1e9
        if typing.get_origin(hint) is tuple:
            return lambda value: tuple(value.values)
        return lambda value: from_proto(hint, value)
    return lambda value: value


def _enum_prefix(field: FieldDescriptor) -> str:
    assert field.enum_type is not None
    return field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")


def _enum_reader(hint: type[enum.Enum], field: FieldDescriptor, default: Any) -> Callable[[Any], Any]:
    assert field.enum_type is not None
    prefix = _enum_prefix(field)
    table: dict[int, Any] = {}
    for number, value in field.enum_type.values_by_number.items():
        name = value.name.removeprefix(prefix)
        if name in hint.__members__:
            table[number] = hint[name]
        elif number == 0 and default is not None:
            table[0] = default

    def read(number: int) -> Any:
        try:
            return table[number]
        except KeyError:
            raise ValueError(f"{field.full_name}: unknown value {number}") from None

    return read


@cache
def _readers(record_type: Any, descriptor: Descriptor) -> tuple[_Reader, ...]:
    readers: list[_Reader] = []
    for record_field in dataclasses.fields(record_type):
        field = _proto_field(record_field.name, descriptor)
        if field is not None:
            readers.append(_reader(record_field, _hints(record_type)[record_field.name], field))
    return tuple(readers)


def _reader(record_field: "dataclasses.Field[Any]", hint: Any, field: FieldDescriptor) -> _Reader:
    name, source = record_field.name, field.name
    inner, _ = _optional(hint)
    if _is_map(field):
        assert field.message_type is not None
        value_field = field.message_type.fields_by_name["value"]
        convert = _from_value(typing.get_args(inner)[1], value_field, None)
        return lambda message, values: values.update(
            {name: {key: convert(value) for key, value in getattr(message, source).items()}}
        )
    if field.is_repeated:
        convert = _from_value(typing.get_args(inner)[0], field, None)
        return lambda message, values: values.update({name: tuple(convert(v) for v in getattr(message, source))})
    convert = _from_value(inner, field, _default(record_field))
    if not field.has_presence:
        return lambda message, values: values.update({name: convert(getattr(message, source))})

    def read(message: Message, values: dict[str, Any]) -> None:
        if message.HasField(source):
            values[name] = convert(getattr(message, source))

    return read


@cache
def _writers(record_type: Any, descriptor: Descriptor) -> tuple[_Writer, ...]:
    writers: list[_Writer] = []
    for record_field in dataclasses.fields(record_type):
        field = _proto_field(record_field.name, descriptor)
        if field is not None:
            writers.append(_writer(record_field.name, field))
    return tuple(writers)


def _writer(name: str, field: FieldDescriptor) -> _Writer:
    target = field.name
    if _is_map(field):
        assert field.message_type is not None
        nested = field.message_type.fields_by_name["value"].message_type is not None

        def write_map(record: Any, message: Message) -> None:
            values: Mapping[str, Any] | None = getattr(record, name)
            if not values:
                return
            container = getattr(message, target)
            if nested:
                for key, value in values.items():
                    fill(value, container[key])
            else:
                container.update(values)

        return write_map
    if field.is_repeated:
        if field.message_type is not None:

            def write_messages(record: Any, message: Message) -> None:
                container = getattr(message, target)
                for value in getattr(record, name) or ():
                    fill(value, container.add())

            return write_messages
        return lambda record, message: getattr(message, target).extend(getattr(record, name) or ())
    return _single_writer(name, field)


def _single_writer(name: str, field: FieldDescriptor) -> _Writer:
    target = field.name
    if field.enum_type is not None:
        prefix, numbers = _enum_prefix(field), field.enum_type.values_by_name

        def write_enum(record: Any, message: Message) -> None:
            value = getattr(record, name)
            if value is not None:
                setattr(message, target, numbers[prefix + value.name].number)

        return write_enum
    if field.message_type is not None:
        full_name = field.message_type.full_name

        def write_message(record: Any, message: Message) -> None:
            value = getattr(record, name)
            if value is None:
                return
            into = getattr(message, target)
            if isinstance(value, datetime):
                into.FromDatetime(value)
            elif full_name == "google.protobuf.Duration":
                into.FromNanoseconds(round(value * 1e9))
            elif isinstance(value, tuple):
                into.SetInParent()
                into.values.extend(value)
            else:
                into.SetInParent()
                fill(value, into)

        return write_message

    def write_scalar(record: Any, message: Message) -> None:
        value = getattr(record, name)
        if value is not None:
            setattr(message, target, value)

    return write_scalar


def time_of(message: Any) -> datetime:
    """The time of a google.protobuf.Timestamp, in UTC."""
    found: datetime = message.ToDatetime(tzinfo=UTC)
    return found

"""Fields of documents: each kind is a frozen dataclass whose fields say how their keys are read, and this module reads any of them.

What is lenient, in one place: numbers and booleans written as texts and the other way round, null and empty texts where something else is
meant as nothing, one value where a list is meant, and a key in singular or plural. A key that is unknown is told as a notice, or refused
when it is close to one that is known and absent: then it is a slip that would silently do nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from paas_adapter.documents.near import near_miss
from paas_adapter.documents.places import NOWHERE, Findings, Place
from paas_adapter.documents.values import Source, Value, word_for

_KEY = "paas_key"


class Reader(Protocol):
    """Reads one value. After a problem it gives `nothing`, so that reading goes on."""

    @property
    def nothing(self) -> Any:
        """What the attribute is when the key is absent, unless the field says otherwise."""

    def read(self, value: Value, place: Place, context: "Reading") -> Any:
        """The value as the attribute has it; it is never null. Problems go to context.findings."""


@dataclass(slots=True)
class Reading:
    """What the reading of one document needs everywhere."""

    source: Source
    findings: Findings

    def place(self, place: Place, *steps: str | int) -> Place:
        """A place further in, with its own line."""
        return self.source.place((*place.path, *steps))


@dataclass(frozen=True, slots=True)
class Key:
    """How one attribute is read."""

    name: str
    reader: Reader
    required: bool = False
    #: Other spellings that mean the same, besides singular and plural.
    aliases: tuple[str, ...] = ()
    #: Why nothing is done with it; empty: it is used. Where it is given and says something, a notice tells so.
    unused: str = ""


def key(
    name: str,
    reader: Reader,
    *,
    required: bool = False,
    aliases: tuple[str, ...] = (),
    unused: str = "",
    default: Any = None,
    secret: bool = False,
) -> Any:
    """A field of a document class: its key, its reader, and what it is when the key is absent (default: the reader's nothing).

    A secret is left out of the class's repr, so that no log has it.
    """
    nothing = reader.nothing if default is None else default
    metadata = {_KEY: Key(name, reader, required, aliases, unused)}
    return dataclasses.field(default=nothing, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An object of a document, or the whole: base of all document classes."""

    #: Whether others write it who know more keys, such as web hooks: then unknown ones are passed over in silence.
    foreign: ClassVar[bool] = False

    at: Place = dataclasses.field(default=NOWHERE, compare=False)

    def check(self, findings: Findings) -> None:
        """What is wrong between its fields, each of which is right by itself."""


P = TypeVar("P", bound=Part)


def keys_of(cls: type[Part]) -> dict[str, Key]:
    """Attribute to key, of a document class."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(cls) if _KEY in field.metadata}


def spellings(known: Key) -> tuple[str, ...]:
    """All that is read as this key, the right one first."""
    name = known.name
    if name.endswith("ies"):
        other = name[:-3] + "y"
    elif name.endswith("y"):
        other = name[:-1] + "ies"
    else:
        other = name[:-1] if name.endswith("s") else name + "s"
    many = isinstance(known.reader, Listing)
    return (name, *((other,) if many else ()), *known.aliases)


def _says_something(value: Value) -> bool:
    """Whether somebody wrote it for a reason: not null, not empty, not false."""
    return value not in (None, "", [], {}, False)


def _choose(known: Key, given: Mapping[str, Value], place: Place, context: Reading) -> tuple[str, Value] | None:
    found = [name for name in spellings(known) if given.get(name) is not None]
    if len(found) > 1:
        message = f"{found[0]} and {found[1]} mean the same; give one of them"
        context.findings.refuse(context.place(place, found[1]), "DUPLICATE_KEY", message)
    return (found[0], given[found[0]]) if found else None


def _others(cls: type[Part], given: Mapping[str, Value], place: Place, context: Reading) -> None:
    """Keys that the class does not know."""
    known = keys_of(cls).values()
    read = {name for one in known for name in spellings(one)}
    absent = [one.name for one in known if not any(name in given for name in spellings(one))]
    for name in given:
        if name in read:
            continue
        meant = near_miss(name, absent)
        at = context.place(place, name)
        if meant:
            context.findings.refuse(at, "MISSPELT_KEY", f"there is no key {name[:100]}; {meant} is likely meant")
        else:
            context.findings.note(at, "UNKNOWN_KEY", "the key is not known; nothing is done with it")


def read_part(cls: type[P], value: Value, place: Place, context: Reading) -> P:
    """An object of this class; after a problem it is made nevertheless, so that what refers to it finds it."""
    if not isinstance(value, dict):
        context.findings.refuse(place, "WRONG_TYPE", f"an object is expected here, not {word_for(value)}")
        return cls(at=place)
    known_keys = keys_of(cls)
    attributes: dict[str, Any] = {}
    for attribute, known in known_keys.items():
        chosen = _choose(known, value, place, context)
        if chosen is None:
            if known.required:
                context.findings.refuse(place, "MISSING", f"{known.name} is missing")
            continue
        name, found = chosen
        at = context.place(place, name)
        if known.required and found in ("", []):
            context.findings.refuse(at, "MISSING", f"{known.name} is empty")
            continue
        if known.unused and _says_something(found):
            context.findings.note(at, "NOT_USED", f"{known.name} is not used: {known.unused}")
        attributes[attribute] = known.reader.read(found, at, context)
    if not cls.foreign:
        _others(cls, value, place, context)
    part = cls(at=place, **attributes)
    part.check(context.findings)
    return part


@dataclass(frozen=True, slots=True)
class Nested:
    """An object. The class is named by a function where it has itself inside."""

    cls: Callable[[], type[Part]] | type[Part]
    nothing: Any = None

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        cls = self.cls if isinstance(self.cls, type) else self.cls()
        return read_part(cls, value, place, context)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list; one value alone counts as a list of it, as XML's heirs write it. Gives a tuple."""

    item: Reader
    nothing: Any = ()

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        if not isinstance(value, list):
            return () if value == "" else self._flat([self.item.read(value, place, context)])
        read = []
        for number, one in enumerate(value):
            at = context.place(place, number)
            if one is None:
                context.findings.refuse(at, "WRONG_TYPE", "null is no item of a list")
            else:
                read.append(self.item.read(one, at, context))
        return self._flat(read)

    def _flat(self, read: Sequence[Any]) -> tuple[Any, ...]:
        """Items whose reader makes several of one are put in their place; what could not be read is left out."""
        flat: list[Any] = []
        for one in read:
            if isinstance(one, tuple):
                flat += one
            elif one is not None:
                flat.append(one)
        return tuple(flat)

"""What a text is read into before anybody knows which kind of document it is: plain values, and where each stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from paas_adapter.documents.places import Path, Place


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number as it was written: 7.10 is a version, and must not become 7.1."""

    text: str


Value: TypeAlias = "bool | Numeral | str | list[Value] | dict[str, Value] | None"

#: Texts that are longer are refused, so that reading one takes bounded time.
MAX_TEXT = 1024 * 1024
#: Values inside values; real documents have some 20.
MAX_DEPTH = 64
#: Values in one text; YAML aliases count each time.
MAX_VALUES = 100_000


@dataclass(frozen=True, slots=True)
class Source:
    """One document of a text."""

    file: str
    root: Value
    #: Line and column, from 1, of the values that have one.
    spots: Mapping[Path, tuple[int, int]]
    #: Lists that were there more than once under the same key, and are read as one.
    joined: tuple[Path, ...] = ()

    def place(self, path: Path) -> Place:
        """The place of a value, with its line or that of the nearest value around it."""
        for length in range(len(path), -1, -1):
            spot = self.spots.get(path[:length])
            if spot is not None:
                return Place(self.file, path, *spot)
        return Place(self.file, path)


def word_for(value: Value) -> str:
    """What kind of value it is, for people."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case Numeral():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"


class Unreadable(Exception):
    """A text is neither JSON nor YAML, or is more than is read."""

    def __init__(self, reason: str, message: str, path: Path, line: int, column: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.path = path
        self.line = line
        self.column = column

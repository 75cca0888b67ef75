"""Reads YAML, with line and column of every value; several documents a text.

Built from the parser's events rather than by its loader: that one takes the last of two equal keys, makes dates, octals and base 60 of
plain words, and lets aliases grow without bound. Plain words are read as JSON reads them; all else is text. No tags.
"""

import re
from collections.abc import Iterator, Sequence

import yaml
from yaml import events

from paas_adapter.documents.places import Path
from paas_adapter.documents.values import MAX_DEPTH, MAX_VALUES, Numeral, Source, Unreadable, Value

_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}


def _spot(event: events.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def _bad(event: events.Event, path: Path, reason: str, message: str) -> Unreadable:
    return Unreadable(reason, message, path, *_spot(event))


class _Builder:
    """One document. `left` is how many values the text may still have."""

    def __init__(self, stream: Iterator[events.Event], left: int) -> None:
        self._stream = stream
        self._anchors: dict[str, Value] = {}
        self._sizes: dict[str, int] = {}
        self.left = left
        self.spots: dict[Path, tuple[int, int]] = {}
        self.joined: list[Path] = []

    def value(self, event: events.Event, path: Path) -> Value:
        if len(path) > MAX_DEPTH:
            raise _bad(event, path, "TOO_DEEP", f"values are nested deeper than {MAX_DEPTH}")
        self.spots[path] = _spot(event)
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self._anchors:
                raise _bad(event, path, "NOT_YAML", f"no value before this one is marked &{event.anchor}")
            self._take(event, path, self._sizes[event.anchor])
            return self._anchors[event.anchor]
        before = self.left
        self._take(event, path, 1)
        value = self._plain(event, path)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = value
            self._sizes[anchor] = before - self.left
        return value

    def _take(self, event: events.Event, path: Path, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _bad(event, path, "TOO_LARGE", f"more than {MAX_VALUES} values")

    def _plain(self, event: events.Event, path: Path) -> Value:
        if getattr(event, "tag", None) not in (None, "!"):
            raise _bad(event, path, "NOT_YAML", "tags are not read")
        if isinstance(event, events.SequenceStartEvent):
            return self._sequence(path)
        if isinstance(event, events.MappingStartEvent):
            return self._mapping(path)
        assert isinstance(event, events.ScalarEvent)
        text = str(event.value)
        if event.style is not None:
            return text
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        return Numeral(text.removeprefix("+")) if _NUMBER.match(text) else text

    def _sequence(self, path: Path, before: Sequence[Value] = ()) -> list[Value]:
        """A list; its items follow those that were there before."""
        values: list[Value] = [*before]
        while not isinstance(event := next(self._stream), events.SequenceEndEvent):
            values.append(self.value(event, (*path, len(values))))
        return values

    def _mapping(self, path: Path) -> dict[str, Value]:
        values: dict[str, Value] = {}
        while not isinstance(event := next(self._stream), events.MappingEndEvent):
            if not isinstance(event, events.ScalarEvent):
                raise _bad(event, path, "NOT_YAML", "a key must be a plain word")
            key = str(event.value)
            self._take(event, path, 1)
            inner = (*path, key)
            before, start = values.get(key), event
            event = next(self._stream)
            if key not in values:
                values[key] = self.value(event, inner)
            elif isinstance(before, list) and isinstance(event, events.SequenceStartEvent) and event.anchor is None:
                values[key] = self._sequence(inner, before)
                self.joined.append(inner)
            else:
                raise _bad(start, inner, "DUPLICATE_KEY", "the key is there twice in the same object")
        return values


def read_yaml(text: str, file: str) -> tuple[Source, ...]:
    """The documents of a YAML text, those that are empty left out; Unreadable."""
    sources = []
    left = MAX_VALUES
    try:
        stream = yaml.parse(text, Loader=yaml.SafeLoader)
        for event in stream:
            if isinstance(event, events.DocumentStartEvent):
                builder = _Builder(stream, left)
                root = builder.value(next(stream), ())
                left = builder.left
                if root is not None:
                    sources.append(Source(file, root, builder.spots, tuple(builder.joined)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise Unreadable("NOT_YAML", f"not YAML: {error.problem or error.context}", (), line, column) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable("NOT_YAML", "a character that YAML does not allow", (), line, 0) from None
    return tuple(sources)

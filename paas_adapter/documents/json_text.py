"""Reads JSON, strictly, with line and column of every value.

The standard library's reader tells no places, takes the last of two equal keys, and reads NaN; so objects and lists are read here, and
only texts by it. Depth is bounded, hence the recursion is, too. Two equal keys are refused unless both are lists: real documents list their
cartridges in two parts, and mean all of them.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence

from paas_adapter.documents.places import Path
from paas_adapter.documents.values import MAX_DEPTH, MAX_VALUES, Numeral, Source, Unreadable, Value

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![0-9A-Za-z_.+-])")
#: Escapes can write them, and then nothing could send or store the text.
_HALF = re.compile("[\ud800-\udfff]")
_STRINGS = json.JSONDecoder()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.spots: dict[Path, tuple[int, int]] = {}
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.joined: list[Path] = []
        self._at = 0

    def document(self) -> Value:
        value = self._value(())
        self._skip()
        if self._at < len(self.text):
            raise self._bad("something follows the end of the document", ())
        return value

    def _spot(self, at: int) -> tuple[int, int]:
        line = bisect_right(self._lines, at)
        return line, at - self._lines[line - 1] + 1

    def _bad(self, message: str, path: Path, *, at: int | None = None, reason: str = "NOT_JSON") -> Unreadable:
        return Unreadable(reason, message, path, *self._spot(self._at if at is None else at))

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self._at)
        self._at = found.end() if found else self._at

    def _peek(self) -> str:
        self._skip()
        return self.text[self._at : self._at + 1]

    def _value(self, path: Path) -> Value:
        first = self._peek()
        if len(path) > MAX_DEPTH:
            raise self._bad(f"values are nested deeper than {MAX_DEPTH}", path, reason="TOO_DEEP")
        if len(self.spots) >= MAX_VALUES:
            raise self._bad(f"more than {MAX_VALUES} values", path, reason="TOO_LARGE")
        self.spots[path] = self._spot(self._at)
        if first == "{":
            return self._object(path)
        if first == "[":
            return self._list(path)
        if first == '"':
            return self._string(path)
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self._at):
                self._at += len(word)
                return value
        number = _NUMBER.match(self.text, self._at)
        if number is None:
            raise self._bad("the document ends too soon" if not first else "a value is expected here", path)
        self._at = number.end()
        return Numeral(number[0])

    def _string(self, path: Path) -> str:
        try:
            value, self._at = _STRINGS.raw_decode(self.text, self._at)
        except json.JSONDecodeError as error:
            raise self._bad(f"a text is not right: {error.msg.lower()}", path, at=error.pos) from None
        if _HALF.search(value):
            raise self._bad("half of a surrogate pair, which is no character", path)
        return str(value)

    def _list(self, path: Path, before: Sequence[Value] = ()) -> list[Value]:
        """A list; its items follow those that were there before."""
        values: list[Value] = [*before]
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return values
        while True:
            if self._peek() == "]":
                raise self._bad("a value is expected after the comma, not the end of the list", path)
            values.append(self._value((*path, len(values))))
            if self._end_or_comma("]", path):
                return values

    def _object(self, path: Path) -> dict[str, Value]:
        values: dict[str, Value] = {}
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return values
        while True:
            if self._peek() != '"':
                what = "the end of the object" if self._peek() == "}" else "something else"
                raise self._bad(f"a key in double quotes is expected here, not {what}", path)
            start = self._at
            key = self._string(path)
            inner = (*path, key)
            if self._peek() != ":":
                raise self._bad("a colon is expected after the key", inner)
            self._at += 1
            before = values.get(key)
            if key not in values:
                values[key] = self._value(inner)
            elif isinstance(before, list) and self._peek() == "[":
                values[key] = self._list(inner, before)
                self.joined.append(inner)
            else:
                raise self._bad("the key is there twice in the same object", inner, at=start, reason="DUPLICATE_KEY")
            if self._end_or_comma("}", path):
                return values

    def _end_or_comma(self, end: str, path: Path) -> bool:
        found = self._peek()
        if found not in (end, ",") or not found:
            raise self._bad(f"a comma or {end} is expected here", path)
        self._at += 1
        return found == end


def read_json(text: str, file: str) -> Source:
    """The one document of a JSON text; Unreadable."""
    reader = _Reader(text)
    return Source(file, reader.document(), reader.spots, tuple(reader.joined))

"""Readers of single values: texts, ids, numbers, booleans, words of a choice, references, properties."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paas_adapter.documents.fields import Part, Reading, key
from paas_adapter.documents.near import near_miss
from paas_adapter.documents.places import Place
from paas_adapter.documents.values import Numeral, Value, word_for

#: Control characters but tab and line ends: nothing that people write, and nothing that an environment or a header takes.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ID = re.compile(r"[^\s/?#%]+\Z")
_WHOLE = re.compile(r"[-+]?[0-9]+(?:\.0*)?\Z")
#: Ids name things in paths of the REST API.
MAX_ID = 200
#: Numbers with more digits are no quantity of anything.
_MAX_DIGITS = 30


def text_of(value: Value, place: Place, context: Reading) -> str | None:
    """The text of a scalar, as it was written; None after a problem."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Numeral):
        return value.text
    if isinstance(value, str):
        return value
    context.findings.refuse(place, "WRONG_TYPE", f"a text is expected here, not {word_for(value)}")
    return None


@dataclass(frozen=True, slots=True)
class Text:
    """A text; numbers and booleans are taken as they were written."""

    #: What else it must be: a function that gives what is wrong with it, or "".
    fault: Callable[[str], str] | None = None
    limit: int = 4096
    nothing: Any = ""

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        text = text_of(value, place, context)
        if text is None:
            return self.nothing
        if len(text) > self.limit:
            context.findings.refuse(place, "TOO_LONG", f"longer than {self.limit} characters")
            return self.nothing
        wrong = "has a control character in it" if _CONTROL.search(text) else ""
        if text and self.fault is not None:
            wrong = wrong or self.fault(text)
        if wrong:
            context.findings.refuse(place, "BAD_VALUE", wrong)
            return self.nothing
        return text


@dataclass(frozen=True, slots=True)
class Id:
    """The name of something, as paths of the REST API can have it. Spaces around it are dropped."""

    nothing: Any = ""

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        text = (text_of(value, place, context) or "").strip()
        if text and (not _ID.match(text) or len(text) > MAX_ID or _CONTROL.search(text)):
            message = f"an id has no spaces and none of / ? # %, and at most {MAX_ID} characters"
            context.findings.refuse(place, "BAD_VALUE", message)
            return ""
        return text


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, also as text; empty: absent."""

    least: int
    most: int
    nothing: Any = None

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        text = "" if isinstance(value, bool) else text_of(value, place, context)
        if text is None or text.strip() == "":
            if text is not None and isinstance(value, bool):
                context.findings.refuse(place, "WRONG_TYPE", "a whole number is expected here, not true or false")
            return self.nothing
        text = text.strip()
        if not _WHOLE.match(text) or len(text) > _MAX_DIGITS:
            context.findings.refuse(place, "BAD_VALUE", "not a whole number")
            return self.nothing
        number = int(text.partition(".")[0])
        if not self.least <= number <= self.most:
            context.findings.refuse(place, "OUT_OF_RANGE", f"{number} is not within {self.least} and {self.most}")
            return self.nothing
        return number


@dataclass(frozen=True, slots=True)
class Real:
    """A number, also as text; empty: absent."""

    least: float
    most: float
    nothing: Any = None

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        text = "true" if isinstance(value, bool) else text_of(value, place, context)
        if text is None or text.strip() == "":
            return self.nothing
        try:
            number = float(text) if len(text) <= _MAX_DIGITS else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            context.findings.refuse(place, "BAD_VALUE", "not a number")
            return self.nothing
        if not self.least <= number <= self.most:
            message = f"{number:g} is not within {self.least:g} and {self.most:g}"
            context.findings.refuse(place, "OUT_OF_RANGE", message)
            return self.nothing
        return number


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false, also as text in any case; empty: absent."""

    nothing: Any = False

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else "?"
        if word == "":
            return self.nothing
        if word in ("true", "false"):
            return word == "true"
        context.findings.refuse(place, "BAD_VALUE", "true or false is expected here")
        return self.nothing


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words, in any case; empty: absent."""

    words: tuple[str, ...]
    nothing: Any = ""

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        text = (text_of(value, place, context) or "").strip()
        if text == "" and not isinstance(value, list | dict):
            return self.nothing
        for word in self.words:
            if text.lower() == word.lower():
                return word
        if not isinstance(value, list | dict):
            likely = near_miss(text, self.words)
            hint = f"; {likely} is likely meant" if likely else ""
            message = f"one of {', '.join(self.words)} is expected here{hint}"
            context.findings.refuse(place, "BAD_VALUE", message)
        return self.nothing


@dataclass(frozen=True, slots=True)
class Anything:
    """What is accepted without a look, since nothing is done with it. Its value is not kept."""

    nothing: Any = None

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Property(Part):
    """A name and a value, as all kinds have them."""

    name: str = key("name", Text(limit=MAX_ID), required=True)
    value: str = key("value", Text(limit=65536), secret=True)


def property_map(properties: tuple[Property, ...]) -> dict[str, Property]:
    """By name; of two with the same name the last one counts."""
    return {one.name: one for one in properties}


@dataclass(frozen=True, slots=True)
class Reference:
    """What an order names: a cartridge or a group of the application."""

    #: "cartridge" or "group".
    kind: str
    alias: str
    at: Place

    def __str__(self) -> str:
        return f"{self.kind}.{self.alias}"


_REFERENCE = re.compile(r"(cartridge|group)\.([^\s.,/]+)\Z")


@dataclass(frozen=True, slots=True)
class References:
    """cartridge.ALIAS or group.ALIAS; several with commas between them. Gives a tuple, which a Listing joins with its others."""

    nothing: Any = ()

    def read(self, value: Value, place: Place, context: Reading) -> Any:
        text = text_of(value, place, context)
        read = []
        for word in (text or "").split(","):
            found = _REFERENCE.match(word.strip())
            if found:
                read.append(Reference(found[1], found[2], place))
            elif word.strip() or not text:
                message = "cartridge.ALIAS or group.ALIAS is expected here"
                context.findings.refuse(place, "BAD_REFERENCE", message)
        return tuple(read)

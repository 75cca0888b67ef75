"""Where something stands in a document, and what is said about it: problems, which refuse it, and notices, which do not."""

from dataclasses import dataclass, field
from typing import TypeAlias

#: Keys and positions, from the outermost in.
Path: TypeAlias = tuple[str | int, ...]


def write_path(path: Path) -> str:
    """A JSON path: $.components.groups[0].alias; keys that are no plain word are quoted."""
    text = "$"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier():
            text += f".{step}"
        else:
            text += "['" + step[:100].replace("\\", "\\\\").replace("'", "\\'") + "']"
    return text


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a document."""

    #: As the caller named it; no path of a file need be behind it.
    file: str
    path: Path = ()
    #: Counted from 1; 0: not known. They are no part of what the place is: a value is the same wherever its line is.
    line: int = field(default=0, compare=False)
    column: int = field(default=0, compare=False)

    @property
    def json_path(self) -> str:
        return write_path(self.path)

    def below(self, *steps: str | int) -> "Place":
        """A place further in; its line is that of this one."""
        return Place(self.file, (*self.path, *steps), self.line, self.column)

    def __str__(self) -> str:
        """FILE:LINE:COLUMN $.path, as editors and people read it."""
        spot = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.file}{spot} {self.json_path}"


#: Of whatever has no document behind it, such as a default.
NOWHERE = Place("")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document is refused."""

    place: Place
    #: A word for programs; docs/paas-documents.md has them all.
    reason: str
    #: A sentence for people, without the place.
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Notice:
    """What is accepted and worth a word, such as a field that is not used."""

    place: Place
    #: A word for programs; docs/paas-documents.md has them all.
    reason: str
    #: A sentence for people, without the place.
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message} ({self.reason})"


@dataclass(slots=True)
class Findings:
    """Collects what is found; reading goes on after a problem, so that all of them are told at once."""

    problems: list[Problem] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def refuse(self, place: Place, reason: str, message: str) -> None:
        self.problems.append(Problem(place, reason, message))

    def note(self, place: Place, reason: str, message: str) -> None:
        self.notices.append(Notice(place, reason, message))

    def add(self, other: "Findings") -> None:
        self.problems += other.problems
        self.notices += other.notices

"""A bundle: documents that belong together, read from any number of files, with all that is wrong with them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from paas_adapter.documents.fields import Part, Reading, read_part
from paas_adapter.documents.kinds import BY_CLASS, Kind, kind_of, unwrapped
from paas_adapter.documents.places import Findings, Path
from paas_adapter.documents.reading import read_sources
from paas_adapter.documents.values import Source, Value, word_for

D = TypeVar("D", bound=Part)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Documents in the order in which they were given."""

    documents: tuple[Part, ...] = ()

    def all(self, cls: type[D]) -> tuple[D, ...]:
        """Those of one kind."""
        return tuple(one for one in self.documents if isinstance(one, cls))

    def by_id(self, cls: type[D]) -> Mapping[str, D]:
        """Those of one kind by what names them; of two with the same name the first."""
        kind = BY_CLASS[cls]
        found: dict[str, D] = {}
        for one in self.all(cls):
            found.setdefault(kind.id_of(one), one)
        return found


@dataclass(slots=True)
class BundleReader:
    """Reads texts into documents. Nothing that is in a text raises; all of it ends in findings."""

    findings: Findings = field(default_factory=Findings)
    documents: list[Part] = field(default_factory=list)

    def read(self, content: bytes, file: str, kind: Kind | None = None) -> None:
        """All documents of a file: one object, a list of them, or YAML's several. A kind that is known is not guessed."""
        for source in read_sources(content, file, self.findings):
            root = source.root
            for path in source.joined:
                message = "the key is there more than once; its lists are read as one"
                self.findings.note(source.place(path), "DUPLICATE_KEY", message)
            if isinstance(root, list) and kind is None:
                for number, one in enumerate(root):
                    self._read(source, one, (number,), None)
            else:
                self._read(source, root, (), kind)

    def bundle(self) -> Bundle:
        return Bundle(tuple(self.documents))

    def _read(self, source: Source, value: Value, path: Path, kind: Kind | None) -> None:
        place = source.place(path)
        if not isinstance(value, dict):
            self.findings.refuse(place, "WRONG_TYPE", f"a document is an object, not {word_for(value)}")
            return
        bean = unwrapped(value)
        if bean is not None:
            self._read(source, value[bean], (*path, bean), kind)
            return
        kind = kind or kind_of(value)
        if kind is None:
            message = "its keys are those of no kind of document that is known"
            self.findings.refuse(place, "UNKNOWN_KIND", message)
            return
        self.documents.append(read_part(kind.cls, value, place, Reading(source, self.findings)))


def read_bundle(files: Iterable[tuple[str, bytes]]) -> tuple[Bundle, Findings]:
    """Documents of files, given as name and content. What they say of each other is looked at by references.check_bundle."""
    reader = BundleReader()
    for name, content in files:
        reader.read(content, name)
    return reader.bundle(), reader.findings

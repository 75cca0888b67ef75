"""What `moor apply` does, decided from values: the documents, what is there, and what the control plane says an update would make of it.

An object is left alone when the update would change nothing, so applying twice does nothing the second time. Nothing here speaks to a
control plane; carry_out.py does.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.apply.nouns import Noun
from cli.apply.read import Document


@dataclass(frozen=True, slots=True)
class Create:
    """It is not there."""

    document: Document
    why: str = "it is not there"


@dataclass(frozen=True, slots=True)
class Update:
    """It is there, and other. `paths`: what changes; `fixed`: what the document has otherwise and nobody can change."""

    document: Document
    etag: str
    paths: tuple[str, ...]
    why: str
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replace:
    """An instance that needs a new container to be what it shall."""

    document: Document
    etag: str
    paths: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Keep:
    """It is as it shall be, but for what is `fixed`."""

    document: Document
    fixed: tuple[str, ...] = ()
    why: str = "it is as it shall be"


@dataclass(frozen=True, slots=True)
class Delete:
    """It carries the label, and no document names it."""

    noun: Noun
    name: str
    etag: str
    why: str


Step = Create | Update | Replace | Keep


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is there.

    Args:
        now: as it is.
        updated: as an update with all of the document would make it; None: not asked.
        needs_replace: fields of the spec that need a new container.
    """

    now: Any
    updated: Any = None
    needs_replace: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they are taken."""

    steps: tuple[Step, ...] = ()
    deletes: tuple[Delete, ...] = field(default=())


def plan(documents: Sequence[Document], found: Mapping[str, Found], doomed: Iterable[tuple[Noun, Any]] = ()) -> Plan:
    """What to do.

    Args:
        found: by full name; what is not in it is not there.
        doomed: objects that carry the label to prune by.
    """
    named = {document.name for document in documents}
    gone = [(noun, one) for noun, one in doomed if one.name not in named and not (is_owned(one) or is_deleted(one))]
    gone.sort(key=lambda pair: (-pair[0].rank, pair[1].name))
    deletes = [Delete(noun, one.name, one.etag, "no document names it") for noun, one in gone]
    return Plan(tuple(_step(document, found.get(document.name)) for document in in_order(documents)), tuple(deletes))


def _step(document: Document, found: Found | None) -> Step:
    if found is None:
        return Create(document)
    after = found.updated if found.updated is not None else found.now
    paths = tuple(sorted(changed_paths(document.noun, found.now, after)))
    etag = found.now.etag
    if found.needs_replace:
        fields = ", ".join(found.needs_replace)
        return Replace(document, etag, paths or found.needs_replace, f"{fields}: needs a new container")
    fixed = tuple(sorted(fixed_paths(document, after)))
    if paths:
        return Update(document, etag, paths, f"{', '.join(paths)}: other than it shall be", fixed)
    return Keep(document, fixed)


def changed_paths(noun: Noun, before: Any, after: Any) -> Iterator[str]:
    """Fields that differ, such as labels and spec.replicas."""
    for name in noun.fields:
        one, other = getattr(before, name), getattr(after, name)
        if one == other:
            continue
        inner = before.DESCRIPTOR.fields_by_name[name].message_type
        if name == "labels" or inner is None:
            yield name
            continue
        for part in inner.fields:
            if _differs(one, other, part):
                yield f"{name}.{part.name}"


def fixed_paths(document: Document, now: Any) -> Iterator[str]:
    """Plain values of the document that are others in what is there, although an update would leave them so."""
    for name in document.noun.fields:
        part = document.message.DESCRIPTOR.fields_by_name[name]
        if part.message_type is None or name == "labels":
            continue
        wanted, have = getattr(document.message, name), getattr(now, name)
        for inner, value in wanted.ListFields():
            if inner.message_type is None and not inner.is_repeated and not _same(value, getattr(have, inner.name)):
                yield f"{name}.{inner.name}"


def _same(written: Any, stored: Any) -> bool:
    """A name may be stored in full."""
    return bool(written == stored or (isinstance(stored, str) and stored.endswith(f"/{written}")))


def _differs(one: Any, other: Any, part: Any) -> bool:
    """Whether a part has another value, or is there in one of them only: which of several is there says something."""
    if getattr(one, part.name) != getattr(other, part.name):
        return True
    return bool(part.has_presence and one.HasField(part.name) != other.HasField(part.name))


def is_deleted(message: Any) -> bool:
    """Whether it was deleted, and is only there for a while."""
    return any(
        holder is not None and "purge_time" in holder.DESCRIPTOR.fields_by_name and holder.HasField("purge_time")
        for holder in (message, getattr(message, "status", None))
    )


def is_owned(message: Any) -> bool:
    """Whether something else made it and looks after it: a group, a job, a router."""
    status = getattr(message, "status", None)
    return any(getattr(status, name, "") for name in ("owner", "cron_job"))


def in_order(documents: Sequence[Document]) -> list[Document]:
    """What is needed comes before what needs it: by noun, and among equals by who names whom; else as they are written."""
    by_rank = sorted(documents, key=lambda document: document.noun.rank)
    names = {document.name: document for document in by_rank}
    done: dict[str, Document] = {}

    def add(document: Document, above: Collection[str]) -> None:
        if document.name in done or document.name in above:
            return  # those that name each other: the control plane says what it thinks of that
        for name in sorted(mentioned(document, names)):
            if names[name].noun.rank == document.noun.rank:
                add(names[name], {*above, document.name})
        done[document.name] = document

    for document in by_rank:
        add(document, set())
    return list(done.values())


def mentioned(document: Document, names: Mapping[str, Document]) -> set[str]:
    """Other documents that one names, in full, as COLLECTION/ID or as ID."""
    words = set(_words(document.message))
    own = "/".join(document.name.split("/")[:2])
    return {
        name
        for name, other in names.items()
        if name != document.name
        and (
            {name, name.removeprefix(f"{own}/")} & words
            or (_is_by_id(document, other) and name.rsplit("/", 1)[1] in words)
        )
    }


def _is_by_id(document: Document, other: Document) -> bool:
    """Security groups name each other by their last part alone."""
    return document.noun.kind == other.noun.kind == "SecurityGroup"


def _words(message: Any) -> Iterator[str]:
    for part, value in message.ListFields():
        values = value.values() if part.message_type is not None and part.message_type.GetOptions().map_entry else value
        for item in values if part.is_repeated else (values,):
            if isinstance(item, str):
                yield item
            elif hasattr(item, "ListFields"):
                yield from _words(item)

"""Records for the store's tests: small, with an index of each shape."""

from dataclasses import dataclass

from moorage.store import Kind, Store, Transaction


@dataclass(frozen=True, slots=True)
class Box:
    """`host` is an index with one value or none, `tags` one with many."""

    name: str
    host: str | None = None
    tags: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Counter:
    name: str
    value: int


BOXES: Kind[Box] = Kind(
    "boxes",
    Box,
    lambda box: box.name,
    {"host": lambda box: [box.host] if box.host else [], "tag": lambda box: box.tags},
)
COUNTERS: Kind[Counter] = Kind("counters", Counter, lambda counter: counter.name)
KINDS = (BOXES, COUNTERS)


async def put(store: Store, *records: Box | Counter) -> None:
    """All of them in one transaction."""

    def work(tx: Transaction) -> None:
        for record in records:
            if isinstance(record, Box):
                tx.put(BOXES, record)
            else:
                tx.put(COUNTERS, record)

    await store.update(work)


async def delete(store: Store, name: str) -> None:
    """The box of this name."""
    await store.update(lambda tx: tx.delete(BOXES, name))

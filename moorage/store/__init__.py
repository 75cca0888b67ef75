"""Typed records in memory, committed to a durable log before anybody is told. For control plane and PaaS adapter.

base.py       the interface: Kind, View, Transaction, Watch, Store
memory.py     MemoryStore: nothing is written; for tests and throw-away fleets
sqlite.py     SqliteStore: one file, SQLite in WAL mode; the embedded default
engine.py     what backends share: run a transaction, group commits, publish, roll back
state.py      tables and secondary indexes as immutable values
sortedmap.py  the immutable ordered map beneath them
history.py    the bounded past that watches read

Nothing here knows what the records mean.

For the composition root: a store is many long-lived objects without cycles, which the garbage collector searches in
vain. With a thousand writers at once over 100,000 records in memory, collecting took half of the time (9,000 commits a
second; 20,000 with `gc.disable()`). `gc.freeze()` after the open and a higher first threshold are worth trying.
"""

from moorage.store.base import Batch, Change, Kind, RecordCipher, Store, Transaction, Versioned, View, Watch
from moorage.store.memory import MemoryStore
from moorage.store.sqlite import SqliteStore

__all__ = [
    "Batch",
    "Change",
    "Kind",
    "MemoryStore",
    "RecordCipher",
    "SqliteStore",
    "Store",
    "Transaction",
    "Versioned",
    "View",
    "Watch",
]

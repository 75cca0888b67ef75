"""What every service is given: where state is, what time it is, and how ids are made."""

from collections.abc import Callable
from dataclasses import dataclass, field

from moorage.clock import Clock, SystemClock
from moorage.ids import new_id
from moorage.store.base import Store


@dataclass(frozen=True)
class Context:
    """Seams of the services; tests give a memory store and a manual clock."""

    store: Store
    clock: Clock = field(default_factory=SystemClock)
    new_id: Callable[[], str] = new_id

"""When each lease was given last. In memory: what was never given in the life of this process counts as given at its beginning, for an
earlier one may have given it up to that very moment, and none can have later.
"""

from collections.abc import Iterable

from controlplane.domain.claims import is_renewed
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE
from controlplane.services import lookup
from moorage.clock import Clock
from moorage.store.base import Store


class LeaseLedger:
    """Gives leases, and knows when it gave them. Made after the store was opened, which no other process can have open then."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._began = clock.monotonic()
        self._given: dict[str, float] = {}

    def give(self, host_uid: str, instance_uids: Iterable[str]) -> list[str]:
        """Give a host the leases that it asks for, now. Returns the uids of those that it gets.

        Nothing comes between the look at a record and the note of the time: whoever sees in the store that an instance was given up
        finds here the last lease that it can have.
        """
        view, now = self._store.view(), self._clock.monotonic()
        given: list[str] = []
        for uid in instance_uids:
            instance: Instance | None = lookup.by_uid(view, INSTANCE, uid)
            if instance is not None and instance.host_uid == host_uid and is_renewed(instance):
                self._given[uid] = now
                given.append(uid)
        return given

    def last_seconds(self, instance_uid: str) -> float:
        """When it was, or may have been, given a lease last, in monotonic seconds."""
        return self._given.get(instance_uid, self._began)

    def forget(self, instance_uid: str) -> None:
        """The instance is no more."""
        self._given.pop(instance_uid, None)

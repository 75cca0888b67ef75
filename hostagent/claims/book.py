"""Which leases this host has: in memory, and in the file from which watchdog and runtime wrapper read.

A lease counts once it is in the file and the watchdog has read it there; one that is renewed in time goes on. One that has ended is not
taken up again: a new one is asked for when nothing of the instance runs and nothing reaches it. An agent that is started anew goes on
with what the file says.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from hostagent.claims import deadlines
from hostagent.claims.deadlines import Hold
from hostagent.domain import ContainerPhase, InstanceAssignment
from hostagent.executor.host_state import HostState
from hostagent.journal.journal import Journal
from hostagent.netlink.names import instance_namespace
from hostagent.watchdog import lease_file
from hostagent.watchdog.lease_file import Answer, Entry, Leases
from moorage.clock import Clock
from moorage.errors import NotReady
from moorage.ids import InstanceId

_ALIVE = (ContainerPhase.RUNNING, ContainerPhase.PAUSED)
_ANSWER_SECONDS = 1.0  # how old an answer of the watchdog may be
_STRANGER_SECONDS = 10.0  # how long an ended lease of an instance that the journal does not know is kept in the file
_MOST_REQUESTS = 64


class ClaimBook:
    """Changed only from the event loop's thread.

    Args:
        run_dir: the agent's; files of another boot of the machine mean nothing.
    """

    def __init__(self, *, journal: Journal, state: HostState, clock: Clock, run_dir: Path, boot_id: str) -> None:
        self._journal = journal
        self._state = state
        self._clock = clock
        self._run_dir = run_dir
        self._boot_id = boot_id
        self._pid = os.getpid()
        self._start = lease_file.start_of(self._pid) or 0
        self._ends: dict[InstanceId, float] = {}
        self._fresh: dict[
            InstanceId, int
        ] = {}  # given anew, and not read by the watchdog yet: in which writing it stands
        self._strangers: dict[InstanceId, Entry] = {}
        self._inherited: dict[InstanceId, tuple[str, ...]] = {}  # containers that an earlier agent wrote down
        self._asked: dict[int, float] = {}
        self._number = 0
        self._written = 0

    def begin(self) -> None:
        """Take over what an earlier agent has written, and sign it."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        found = lease_file.read(self._run_dir)
        if found is None:
            return
        self._written = found.written if found.boot_id == self._boot_id else 0
        for entry in found.entries if found.boot_id == self._boot_id else ():
            instance_id = InstanceId(entry.instance_id)
            if instance_id in self._journal.assignments:
                self._ends[instance_id] = entry.end / 100
                self._inherited[instance_id] = entry.container_ids
            else:
                self._strangers[instance_id] = entry
        self.write()

    def end(self) -> None:
        """The agent has ended in order, and begun nothing that it could finish late: its silence says nothing from now on."""
        self._pid = self._start = 0
        if self.is_used:
            self.write()

    @property
    def leased(self) -> list[InstanceAssignment]:
        """Instances that run under leases."""
        return [found for found in self._journal.assignments.values() if found.lease_seconds > 0]

    @property
    def is_used(self) -> bool:
        """Whether there is anything to watch over."""
        return bool(self._strangers) or any(found.lease_seconds > 0 for found in self._journal.assignments.values())

    @property
    def has_fresh(self) -> bool:
        """Whether a lease waits for the watchdog to read it."""
        return bool(self._fresh)

    def hold(self, assignment: InstanceAssignment) -> Hold:
        """How an instance stands now."""
        instance_id = assignment.instance_id
        end = None if instance_id in self._fresh else self._ends.get(instance_id)
        grace = assignment.container.stop_grace_seconds
        return deadlines.hold(end, assignment.lease_seconds, grace, self._clock.boottime())

    def require(self, assignment: InstanceAssignment) -> None:
        """Called before what lets an instance run or be reached, for the plan may be old by then.

        Raises:
            NotReady: LEASE_LOST, it has no lease any more.
        """
        if self.hold(assignment) is Hold.LACKING:
            raise NotReady("the instance has no lease of the control plane now", reason="LEASE_LOST")

    def next_change(self) -> float | None:
        """When the first hold changes by time alone, in seconds of CLOCK_BOOTTIME."""
        now, found = self._clock.boottime(), []
        for assignment in self.leased:
            if (end := self._ends.get(assignment.instance_id)) is not None:
                grace = assignment.container.stop_grace_seconds
                found += [at for at in (deadlines.stop_at(end, assignment.lease_seconds, grace), end) if at > now]
        return min(found, default=None)

    # Asking.

    def wanted(self) -> frozenset[InstanceId]:
        """Instances to ask leases for: those that have one, and those of which nothing is left."""
        return frozenset(
            found.instance_id
            for found in self.leased
            if self.hold(found) in (Hold.HELD, Hold.ENDING) or self._is_clean(found.instance_id)
        )

    def ask(self) -> int:
        """The number of a request that is sent after this call."""
        self._number += 1
        self._asked[self._number] = self._clock.boottime()
        while len(self._asked) > _MOST_REQUESTS:
            del self._asked[next(iter(self._asked))]
        return self._number

    def take(self, number: int, given: Iterable[InstanceId]) -> None:
        """The answer to a request. It counts only while the watchdog answers: else nobody would end what an agent that is killed
        in the next moment leaves.
        """
        asked = self._asked.pop(number, None)
        if asked is None or not self.is_watched:
            return
        now = self._clock.boottime()
        renewed: dict[InstanceId, float] = {}
        for instance_id in given:
            assignment = self._journal.assignments.get(instance_id)
            if assignment is None or assignment.lease_seconds <= 0:
                continue
            end, old = deadlines.kill_at(asked, assignment.lease_seconds), self._ends.get(instance_id)
            if end <= now or (old is not None and old >= end):
                continue
            if instance_id in self._fresh:
                self._ends[instance_id] = end
            elif old is not None and now < old:
                renewed[instance_id] = old
                self._ends[instance_id] = end
            elif self._is_clean(instance_id):
                self._ends[instance_id] = end
                self._fresh[instance_id] = self._written + 1  # at least: the next writing has it
        self.write()
        late = self._clock.boottime()
        if lapsed := [instance_id for instance_id, old in renewed.items() if late >= old]:
            for instance_id in lapsed:  # the watchdog may have ended it meanwhile, by what it had read
                self._ends[instance_id] = 0.0
            self.write()

    # The watchdog.

    @property
    def answer(self) -> Answer | None:
        """What the watchdog said last."""
        return lease_file.read_answer(self._run_dir)

    @property
    def is_watched(self) -> bool:
        """Whether the watchdog answers."""
        answer = self.answer
        return answer is not None and self._clock.boottime() - answer.time / 100 <= _ANSWER_SECONDS

    def look(self) -> None:
        """Let count what the watchdog has read, and forget what is over."""
        answer, now = self.answer, self._clock.boottime()
        if answer is not None and self.is_watched:
            self._fresh = {i: written for i, written in self._fresh.items() if written > answer.read}
        for instance_id in [i for i in self._ends if i not in self._journal.assignments]:
            self._ends.pop(instance_id)
            self._fresh.pop(instance_id, None)
        self._strangers = {i: e for i, e in self._strangers.items() if now < e.end / 100 + _STRANGER_SECONDS}

    def write(self) -> None:
        """Write what watchdog and wrapper go by; also says that we are alive."""
        # A number that rises: two writings within a hundredth of a second are two.
        self._written = max(int(self._clock.boottime() * 100), self._written + 1)
        known = [
            Entry(
                found.instance_id,
                int(self._ends.get(found.instance_id, 0.0) * 100),
                str(instance_namespace(self._run_dir, found.instance_id)),
                self._containers(found.instance_id),
            )
            for found in self.leased
        ]
        entries = (*known, *self._strangers.values())
        lease_file.write(self._run_dir, Leases(self._boot_id, self._pid, self._start, self._written, entries))

    def _containers(self, instance_id: InstanceId) -> tuple[str, ...]:
        known = tuple(self._state.containers.get(instance_id, {}))
        return tuple(dict.fromkeys((*known, *self._inherited.get(instance_id, ()))))

    def _is_clean(self, instance_id: InstanceId) -> bool:
        if not self._state.is_listed:
            return False  # nobody knows yet what runs
        containers = self._state.containers.get(instance_id, {}).values()
        if any(container.phase in _ALIVE for container in containers):
            return False
        return instance_id not in self._state.namespaces and not self._state.ports.get(instance_id)

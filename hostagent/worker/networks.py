"""Networks of this host after they were set up: their peers, their end, and by which names their members are found.

Changes are marked and worked off together a moment later: a group of fifty that arrives at once rewrites each file
once, not fifty times. What is done is read from the journal each time, so a mark that comes twice does no harm.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from hostagent.domain import DesiredState, InstanceAssignment
from hostagent.executor.executor import Executor
from hostagent.executor.host_state import HostState
from hostagent.files import HostsLine, own_lines
from hostagent.journal.journal import Journal
from hostagent.names.book import NameBook
from moorage.clock import Clock
from moorage.errors import MoorageError
from moorage.ids import InstanceId, NetworkId

log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.05
_RETRY_SECONDS = 2.0


class PeerBook:
    """/etc/hosts lines of the members of each network, here and elsewhere; computed once for each change."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lines: dict[NetworkId, tuple[HostsLine, ...]] = {}

    def forget(self, network_ids: Iterable[NetworkId]) -> None:
        """Members of these networks changed."""
        for network_id in network_ids:
            self._lines.pop(network_id, None)

    def lines(self, assignment: InstanceAssignment) -> list[HostsLine]:
        """Lines of all members of an instance's networks, itself included."""
        network_ids = dict.fromkeys(nic.network_id for nic in assignment.nics)
        return [line for network_id in network_ids for line in self._of(network_id)]

    def _of(self, network_id: NetworkId) -> tuple[HostsLine, ...]:
        if network_id not in self._lines:
            lines = [
                (address, peer.names)
                for peer in self._journal.peers(network_id).values()
                for address in peer.addresses
                if peer.names
            ]
            for assignment in self._journal.assignments.values():
                if assignment.desired is not DesiredState.DELETED:
                    lines += _lines_on(assignment, network_id)
            self._lines[network_id] = tuple(lines)
        return self._lines[network_id]


def networks_of(assignment: InstanceAssignment) -> set[NetworkId]:
    """Networks that an instance is on."""
    return {nic.network_id for nic in assignment.nics}


def _lines_on(assignment: InstanceAssignment, network_id: NetworkId) -> list[HostsLine]:
    here = {a.partition("/")[0] for nic in assignment.nics if nic.network_id == network_id for a in nic.addresses}
    return [line for line in own_lines(assignment) if line[0] in here]


class NetworkKeeper:
    """Works off marked networks. `run` is a task of main.py's."""

    def __init__(
        self,
        *,
        journal: Journal,
        state: HostState,
        executor: Executor,
        book: PeerBook,
        name_book: NameBook,
        clock: Clock,
        wake: Callable[[InstanceId], None],
    ) -> None:
        self._journal = journal
        self._state = state
        self._executor = executor
        self._book = book
        self._name_book = name_book
        self._clock = clock
        self._wake = wake
        self._networks: set[NetworkId] = set()
        self._instances: set[InstanceId] = set()
        self._marked = asyncio.Event()

    def mark(self, network_ids: Iterable[NetworkId], instance_ids: Iterable[InstanceId] = ()) -> None:
        """Networks whose members or settings changed, instances whose own files may have."""
        network_ids = tuple(network_ids)
        self._book.forget(network_ids)
        self._name_book.forget(network_ids)
        self._networks.update(network_ids)
        self._instances.update(instance_ids)
        if self._networks or self._instances:
            self._marked.set()

    async def run(self) -> None:
        """Work off marks until cancelled."""
        while True:
            await self._marked.wait()
            await self._clock.sleep(_GATHER_SECONDS)
            self._marked.clear()
            if not await self.reconcile_once():
                await self._clock.sleep(_RETRY_SECONDS)
                self._marked.set()

    async def reconcile_once(self) -> bool:
        """Work off what is marked now. Returns False if something failed and is still marked."""
        networks, self._networks = self._networks, set()
        instances, self._instances = self._instances, set()
        failed: set[NetworkId] = set()
        unwritten: set[InstanceId] = set()
        for network_id in sorted(networks):
            try:
                await self._settle(network_id)
            except MoorageError as exc:
                failed.add(network_id)
                log.warning(
                    "a network could not be brought up to date", extra={"network": network_id, "reason": exc.reason}
                )
        for instance_id, assignment in list(self._journal.assignments.items()):
            if instance_id not in self._state.folders or assignment.desired is DesiredState.DELETED:
                continue
            if instance_id in instances or not networks.isdisjoint(networks_of(assignment)):
                try:
                    self._executor.write_files(assignment)
                except OSError as exc:  # as when the disk is full
                    unwritten.add(instance_id)
                    log.warning(
                        "an instance's files could not be written",
                        extra={"instance": instance_id, "problem": exc.strerror},
                    )
                await asyncio.sleep(0)
        self._networks |= failed
        self._instances |= unwritten
        return not failed and not unwritten

    async def _settle(self, network_id: NetworkId) -> None:
        if network_id in self._journal.networks:
            if network_id in self._state.networks:
                await self._executor.ensure_network(network_id)
            return
        if network_id not in self._state.networks:
            return
        for instance_id, namespace in self._state.namespaces.items():
            assignment = self._journal.assignments.get(instance_id)
            nics = namespace.nics if namespace.nics is not None else (assignment.nics if assignment else ())
            if any(nic.network_id == network_id for nic in nics):
                return  # marked again when that instance has left it
        await self._executor.remove_network(network_id)

"""Compares host and journal, in both directions, at start and every minute; decides by worker/sweep.py."""

import asyncio
import logging
from dataclasses import replace

from hostagent.domain import ContainerPhase, DesiredState, QuarantinedItem
from hostagent.executor.executor import Executor
from hostagent.executor.host_state import HostState, NamespaceState
from hostagent.executor.ports import Fabric, FabricInventory, RuntimeKeys
from hostagent.files import InstanceFiles
from hostagent.journal.journal import Journal
from hostagent.secret_files import SecretFiles
from hostagent.worker import sweep
from hostagent.worker.loop import Reconciler
from hostagent.worker.networks import networks_of
from moorage.clock import Clock
from moorage.errors import MoorageError
from moorage.ids import InstanceId, NetworkId

log = logging.getLogger(__name__)

PERIOD_SECONDS = 60.0


class Sweeper:
    """`begin` once at start, after the engine was listed; then `run` as a task."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        keys: RuntimeKeys,
        files: InstanceFiles,
        secrets: SecretFiles,
        journal: Journal,
        state: HostState,
        executor: Executor,
        reconciler: Reconciler,
        clock: Clock,
    ) -> None:
        self._fabric = fabric
        self._keys = keys
        self._files = files
        self._secrets = secrets
        self._journal = journal
        self._state = state
        self._executor = executor
        self._reconciler = reconciler
        self._clock = clock
        self._is_released = False
        self._woken = asyncio.Event()
        self.brake = ""
        self.quarantined: tuple[QuarantinedItem, ...] = ()

    def release(self) -> None:
        """An operator's word: a sweep begins now, and may remove what was held back."""
        self._is_released = True
        self._woken.set()

    async def begin(self) -> None:
        """Learn what is there, before any step is taken."""
        inventory = await self._fabric.inventory()
        for instance_id in inventory.instances:
            self._state.namespaces.setdefault(instance_id, NamespaceState())
        self._state.keys = set(self._keys.published())
        self._state.payloads = {instance_id: placed for instance_id, placed in self._secrets.found().items() if placed}
        self._state.folders = self._files.found() | self._secrets.found().keys()

    def find_cut_off(self) -> None:
        """Processes whose namespace is gone; to be called after the first listing, before any step is taken: the first
        step would make a new namespace, which the process is not in.
        """
        for instance_id in self._state.containers:
            if instance_id not in self._state.namespaces:
                self._mark_lost(instance_id)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep_once()
            await self._until_due()

    async def _until_due(self) -> None:
        """Return after the period, or when an operator has released the brake."""
        waiting = [asyncio.ensure_future(self._clock.sleep(PERIOD_SECONDS)), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
        self._woken.clear()

    async def sweep_once(self) -> None:
        """One comparison.

        Raises:
            MoorageError: the host's rules could not be put back, or its inventory not be had.
        """
        await self._fabric.reassert()
        known = set(self._state.namespaces)  # before the look: what is made during it is not missing from it
        inventory = await self._fabric.inventory()
        self._find_lost(known, inventory)
        self._forget_empty_orphans(inventory)
        self._remove_orphans(inventory)
        await self._remove_networks(inventory)
        self._remove_leftovers(inventory)
        self.quarantined = sweep.quarantine(
            known=self._journal.assignments.keys(),
            held=self._journal.orphans if self.brake else frozenset(),
            ours=[c for found in self._state.containers.values() for c in found.values()],
            foreign=self._state.foreign.values(),
            namespaces=inventory.instances,
            strays=[str(stray) for stray in inventory.strays],
        )

    def _find_lost(self, known: set[InstanceId], inventory: FabricInventory) -> None:
        """Namespaces that are gone although we made them, and processes that are cut off by it."""
        for instance_id in (known & self._state.namespaces.keys()) - inventory.instances:
            if instance_id in self._reconciler.busy:
                continue  # a step may be about to change that
            self._state.namespaces.pop(instance_id, None)
            self._state.ports.pop(instance_id, None)
            self._mark_lost(instance_id)

    def _mark_lost(self, instance_id: InstanceId) -> None:
        assignment = self._journal.assignments.get(instance_id)
        if assignment is None:
            return
        found = self._state.containers.get(instance_id, {}).values()
        if any(container.phase in (ContainerPhase.RUNNING, ContainerPhase.PAUSED) for container in found):
            self._state.lost_namespaces.add(instance_id)
        self._reconciler.wake(instance_id)

    def _forget_empty_orphans(self, inventory: FabricInventory) -> None:
        for instance_id in self._journal.orphans:
            if not self._has_anything(instance_id, inventory) and instance_id not in self._reconciler.busy:
                self._journal.forget(instance_id)

    def _remove_orphans(self, inventory: FabricInventory) -> None:
        # An orphan whose deletion was asked for before is no loss to anybody: only the others count.
        deleted = [i for i in self._journal.orphans if self._journal.assignments[i].desired is DesiredState.DELETED]
        orphans = [i for i in self._journal.orphans if i not in deleted and self._has_anything(i, inventory)]
        carried = sum(1 for i in self._journal.assignments if self._has_anything(i, inventory))
        decision = sweep.decide(orphans, carried, self._journal.link, is_released=self._is_released)
        if self._is_released:
            self._is_released = False
            self._journal.set_link(replace(self._journal.link, went_back=""))
        if decision.brake and decision.brake != self.brake:
            log.warning("the sweep is held back", extra={"why": decision.brake})
        self.brake = decision.brake
        self._reconciler.sweep_away([*deleted, *decision.remove])

    async def _remove_networks(self, inventory: FabricInventory) -> None:
        used: set[NetworkId] = set(self._journal.networks)
        for instance_id in (*inventory.instances, *self._state.namespaces):
            assignment = self._journal.assignments.get(instance_id)
            if assignment is None:
                return  # a namespace that we do not know may be on any of them
            used |= networks_of(assignment)
        for namespace in self._state.namespaces.values():
            used |= {nic.network_id for nic in namespace.nics or ()}  # it is about to leave it
        for network_id in inventory.networks - used:
            if network_id in self._journal.networks:
                continue  # assigned while we removed another one
            try:
                await self._executor.remove_network(network_id)
            except MoorageError as exc:
                log.warning("a network was not removed", extra={"network": network_id, "reason": exc.reason})

    def _remove_leftovers(self, inventory: FabricInventory) -> None:
        """Files and runtime keys of what is gone altogether."""
        for instance_id in (self._files.found() | self._secrets.found().keys()) - self._journal.assignments.keys():
            if not self._has_container_or_namespace(instance_id, inventory):
                self._executor.remove_files(instance_id)
        known = {c for found in self._state.containers.values() for c in found} | set(self._state.foreign)
        busy = self._reconciler.busy
        for container_id in set(self._keys.published()) - known:
            if not busy:  # a container that was just made is not in the listing yet
                self._keys.withdraw(container_id)
                self._state.keys.discard(container_id)

    def _has_anything(self, instance_id: InstanceId, inventory: FabricInventory) -> bool:
        return instance_id in self._state.folders or self._has_container_or_namespace(instance_id, inventory)

    def _has_container_or_namespace(self, instance_id: InstanceId, inventory: FabricInventory) -> bool:
        return instance_id in self._state.containers or instance_id in inventory.instances

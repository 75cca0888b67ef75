"""Carries out one step for one instance: the effect, then what it changed in host state and journal.

Every step is idempotent and may be cut off anywhere. Errors come out as classes of `moorage.errors` and mean "not
done"; what the step found out before (a container that is gone, an image that is missing) is already in the host state.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from hostagent.devices.handing import handed
from hostagent.dhcp_client.lease import leased_nics, with_leases
from hostagent.domain import (
    ContainerObservation,
    ContainerPhase,
    ContainerSpec,
    FoundDevice,
    InstanceAssignment,
    LeasedNic,
    NicAssignment,
    NicFilter,
)
from hostagent.executor.bind_mounts import check_sources
from hostagent.executor.filters import filters_of
from hostagent.executor.host_state import GENERATION_LABEL, INSTANCE_LABEL, NONCE_LABEL, HostState, NamespaceState
from hostagent.executor.last_lines import last_lines
from hostagent.executor.leftovers import kill_leftovers
from hostagent.executor.ports import Claims, Engine, Fabric, Leases, Names, RuntimeKeys
from hostagent.executor.volumes import InstanceVolumes
from hostagent.files import HostsLine, InstanceFiles, render
from hostagent.host_name import set_host_name
from hostagent.journal.journal import Journal
from hostagent.journal.state import LocalState, PulledImage, RunStage
from hostagent.probes.plan import fresh_verdict
from hostagent.secret_files import Payloads, SecretFiles, mounts
from moorage.clock import Clock
from moorage.errors import InvalidSpec, NotFound, NotReady, Unavailable
from moorage.ids import ContainerId, InstanceId, NetworkId
from moorage.units import format_bytes

log = logging.getLogger(__name__)

RESERVED_LABEL_PREFIX = "moorage."
HOST_REBOOTED = "HOST_REBOOTED"

FetchPayloads = Callable[[InstanceId], Awaitable[Payloads]]
PeerLines = Callable[[InstanceAssignment], Iterable[HostsLine]]


class Executor:
    """Steps for instances. The caller sees to it that one instance is in one step at a time, or in steps that are
    independent.

    Args:
        runtime: name of the OCI runtime under which the wrapper is registered.
        fetch_payloads: reads an instance's secrets and configs from the control plane.
        peer_lines: /etc/hosts lines of the other members of an instance's networks.
        on_prepared: called when the namespace of an instance was made or repaired.
        devices: what devices this host has for instances.
        boot_id: of this machine.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        fabric: Fabric,
        names: Names,
        leases: Leases,
        claims: Claims,
        keys: RuntimeKeys,
        files: InstanceFiles,
        secrets: SecretFiles,
        fetch_payloads: FetchPayloads,
        journal: Journal,
        volumes: InstanceVolumes,
        state: HostState,
        clock: Clock,
        runtime: str,
        peer_lines: PeerLines,
        on_prepared: Callable[[InstanceId], None],
        devices: Callable[[], Awaitable[Sequence[FoundDevice]]],
        boot_id: str,
    ) -> None:
        self._engine = engine
        self._fabric = fabric
        self._names = names
        self._leases = leases
        self._claims = claims
        self._keys = keys
        self._files = files
        self._secrets = secrets
        self._fetch_payloads = fetch_payloads
        self._journal = journal
        self.volumes = volumes
        self._state = state
        self._clock = clock
        self._runtime = runtime
        self._peer_lines = peer_lines
        self._on_prepared = on_prepared
        self._devices = devices
        self._boot_id = boot_id
        self._network_locks: dict[NetworkId, asyncio.Lock] = {}
        self._leaving: set[InstanceId] = set()  # whose namespace is being removed

    # The run, in the journal.

    async def begin_run(self, assignment: InstanceAssignment, *, is_restart: bool) -> None:
        """Record a new run and return when that is durable."""
        before = self._journal.local(assignment.instance_id)
        run = before.run + 1
        if before.run == 0 and assignment.instance_id in self._state.containers:
            # It ran before, and the journal that counted its runs is lost: go on above whatever the count was.
            run = int(self._now())
        self._journal.set_local(
            assignment.instance_id,
            replace(
                before,
                run=run,
                stage=RunStage.BEGUN,
                run_request=assignment.run_request,
                container_generation=assignment.container_generation,
                generation=assignment.generation,
                begun_at=self._now(),
                boot_id=self._boot_id,
                was_asked_to_stop=False,
                is_start_failure=False,
                is_final=False,
                reason="",
                message="",
                verdict=fresh_verdict(assignment.probes),
                hostname=before.container_hostname,
                last_lines=(),
                restarts=before.restarts + 1 if is_restart else 0,
                failures_in_row=before.failures_in_row if is_restart else 0,
            ),
        )
        await self._journal.commit()

    def abandon_run(self, instance_id: InstanceId) -> None:
        """Record that a run ends before it had a process."""
        self._change(instance_id, stage=RunStage.ENDED, was_asked_to_stop=True, exit_code=None, finished_at=self._now())

    def fail_run(self, instance_id: InstanceId, reason: str, message: str, *, is_final: bool) -> None:
        """Record that a run failed before it had a process."""
        local = self._journal.local(instance_id)
        self._change(
            instance_id,
            stage=RunStage.ENDED,
            reason=reason,
            message=message,
            is_start_failure=True,
            is_final=is_final,
            exit_code=None,
            oom_killed=False,
            finished_at=self._now(),
            failures_in_row=local.failures_in_row + 1,
        )

    def record_start(self, instance_id: InstanceId, container: ContainerObservation) -> None:
        """Record that the newest run has its process."""
        self._change(
            instance_id,
            stage=RunStage.STARTED,
            container_id=container.container_id,
            started_at=container.started_at or self._now(),
            boot_id=self._boot_id,
        )

    async def record_exit(
        self,
        assignment: InstanceAssignment,
        container_id: ContainerId | None,
        *,
        is_host_reboot: bool,
        is_lease_lost: bool = False,
    ) -> None:
        """Record how the newest run ended, as the engine knows it."""
        instance_id = assignment.instance_id
        self.volumes.look_again(instance_id)
        local = self._journal.local(instance_id)
        seen = self._state.containers.get(instance_id, {}).get(container_id) if container_id else None
        if container_id and (seen is None or seen.exit_code is None):
            seen = await self.look(instance_id, container_id)
        finished_at = (seen.finished_at if seen else None) or self._now()
        ran_seconds = finished_at - (local.started_at or finished_at)
        is_short = ran_seconds < assignment.restart.reset_after_seconds
        failures = local.failures_in_row
        was_us = local.was_asked_to_stop or is_lease_lost  # or the watchdog, in our place
        if not is_host_reboot and not was_us:  # else it was no fault of the process
            failures = failures + 1 if is_short else 1
        reason, message = "", ""
        if is_host_reboot:
            reason, message = HOST_REBOOTED, "the host was started anew"
        elif is_lease_lost:
            reason, message = "LEASE_LOST", "its lease ended, and it was ended with it"
        elif seen is None:
            reason, message = "CONTAINER_GONE", "the container was removed by somebody else"
        elif local.verdict.failure and not local.was_asked_to_stop:
            reason, message = local.verdict.failure, f"a probe failed: {local.verdict.words}"
        has_failed = not is_host_reboot and not was_us and (reason or seen is None or seen.exit_code)
        lines: tuple[str, ...] = ()
        if seen is not None and has_failed:
            lines = await last_lines(self._engine, seen.container_id, local.begun_at)
        self._change(
            instance_id,
            stage=RunStage.ENDED,
            was_asked_to_stop=was_us,
            exit_code=seen.exit_code if seen else None,
            oom_killed=seen.oom_killed if seen else False,
            finished_at=finished_at,
            failures_in_row=failures,
            reason=reason,
            message=message,
            last_lines=lines,
        )

    # Image, network, container.

    async def pull(self, image: str, on_percent: Callable[[int], None]) -> None:
        """Have the image here, checked.

        Raises:
            InvalidSpec: IMAGE_LABEL_RESERVED, the image carries labels that only we may set.
        """
        found = await self._engine.inspect_image(image)
        if found is None:
            await self._engine.pull(image, lambda progress: on_percent(progress.percent))
            found = await self._engine.inspect_image(image)
            if found is None:
                raise NotReady(f"image {image} was pulled and is not there", reason="IMAGE_VANISHED")
            self.note_pulled(image)
        # Empty ones are what a snapshot leaves of the marks of the container that it was made from.
        reserved = sorted(k for k, value in found.labels.items() if k.startswith(RESERVED_LABEL_PREFIX) and value)
        if reserved:
            raise InvalidSpec.of(
                "image", f"the image carries reserved labels ({', '.join(reserved)})", "IMAGE_LABEL_RESERVED"
            )
        self._state.images.add(image)

    def note_pulled(self, image: str) -> None:
        """Record that an image is here because we pulled it, and may be removed once it is not needed."""
        self._journal.set_image(PulledImage(image, self._now(), self._now()))

    async def ensure_network(self, network_id: NetworkId) -> None:
        """Set up a network; a second caller waits for the first one."""
        async with self._network_locks.setdefault(network_id, asyncio.Lock()):
            network = self._journal.networks.get(network_id)
            if network is None:
                raise NotFound(f"network {network_id} is not assigned to this host", reason="NETWORK_NOT_ASSIGNED")
            peers = dict(self._journal.peers(network_id))
            wanted = replace(network, peers=tuple(peers.values()))
            done = self._state.networks.get(network_id)
            if done is not None and done.plumbing() == network.plumbing():
                if (upsert := [p for m, p in peers.items() if p not in done.peers]) or len(peers) != len(done.peers):
                    removed = [peer.mac for peer in done.peers if peer.mac not in peers]
                    await self._fabric.update_peers(network_id, upsert, removed)
            else:
                await self._fabric.ensure_network(wanted)
            self._state.networks[network_id] = wanted

    async def remove_network(self, network_id: NetworkId) -> None:
        """Remove a network that has no member here; one that was assigned again meanwhile stays.

        It counts as missing from the first moment on, so that a new member asks for it and waits here for its turn.
        What a removal that fails leaves is the sweep's.
        """
        async with self._network_locks.setdefault(network_id, asyncio.Lock()):
            if network_id in self._journal.networks:
                return
            self._state.networks.pop(network_id, None)
            await self._fabric.remove_network(network_id)

    async def prepare_namespace(self, assignment: InstanceAssignment) -> None:
        """Make or repair the namespace and all that is plugged into it."""
        self._claims.require(assignment)
        instance_id = assignment.instance_id
        before = self._state.namespaces.get(instance_id)
        filters = self._filters(assignment)
        asking = {nic.name: assignment.hostname or assignment.name for nic in assignment.nics if nic.dhcp_client}
        # From here on nobody knows what is plugged, until all is: one that fails half way must not count as what was
        # there before, else what it left would never be taken away, and its addresses be given to others.
        self._state.namespaces[instance_id] = replace(before or NamespaceState(), nics=None)
        await self._leases.release(instance_id, keep=asking)  # while the interface is still there
        leases = self._leases.leases(instance_id)
        nics = self._with_leases(assignment)
        path = await self._fabric.ensure_instance(instance_id, nics, self._state.networks, filters)
        await self._names.open(instance_id, path)
        self._leases.follow(instance_id, path, asking)
        self._state.namespaces[instance_id] = NamespaceState(path, assignment.nics, filters)
        if self._leases.leases(instance_id) != leases:
            await self.apply_leases(instance_id)  # one came or went meanwhile
        self._state.lost_namespaces.discard(instance_id)
        if before is None:
            self._state.ports[instance_id] = ()  # else an earlier agent may have published some
        elif before.nics != assignment.nics:
            self._state.ports.pop(instance_id, None)  # they may have to lead to another address
        self._on_prepared(instance_id)

    async def apply_leases(self, instance_id: InstanceId) -> None:
        """Give an instance's interfaces what DHCP servers outside have given them, or take it away."""
        assignment, known = self._journal.assignments.get(instance_id), self._state.namespaces.get(instance_id)
        if assignment is None or known is None or known.nics != assignment.nics:
            return  # what is about to be plugged takes it along
        if instance_id in self._leaving:
            return  # it would be made again behind its removal
        self._claims.require(assignment)
        nics, filters = self._with_leases(assignment), self._filters(assignment)
        await self._fabric.ensure_instance(instance_id, nics, self._state.networks, filters)

    def lease_wait_seconds(self, instance_id: InstanceId) -> float:
        """How long the process should still wait for a first address."""
        return self._leases.wait_seconds(instance_id)

    def leased(self, instance_id: InstanceId) -> tuple[LeasedNic, ...]:
        """What DHCP servers outside have given an instance's interfaces."""
        return leased_nics(self._leases.leases(instance_id))

    def _with_leases(self, assignment: InstanceAssignment) -> tuple[NicAssignment, ...]:
        return with_leases(assignment.nics, self._leases.leases(assignment.instance_id), self._now())

    async def apply_filters(self, assignment: InstanceAssignment) -> None:
        """Make interfaces that are plugged let pass what the security groups that they carry now allow now."""
        filters = self._filters(assignment)
        await self._fabric.filter_instance(assignment.instance_id, filters)
        known = self._state.namespaces.get(assignment.instance_id)
        if known is not None:
            self._state.namespaces[assignment.instance_id] = replace(known, nics=assignment.nics, filters=filters)

    def _filters(self, assignment: InstanceAssignment) -> tuple[NicFilter, ...]:
        filters = filters_of(assignment, self._journal.security_groups, self._journal.group_members)
        if filters is None:
            raise NotFound(
                f"a security group of {assignment.name} is not known to this host", reason="SECURITY_GROUP_NOT_ASSIGNED"
            )
        return filters

    async def create_container(self, assignment: InstanceAssignment) -> None:
        """Write the files and create the container. An interrupted create is found by its name."""
        instance_id = assignment.instance_id
        check_sources(assignment.container.mounts)
        self.write_files(assignment)
        spec = self._container_spec(assignment)
        if spec.device_requests:
            spec = handed(spec, await self._devices())
        try:
            container_id = await self._engine.create(spec, runtime=self._runtime)
        except NotFound as exc:
            if exc.reason != "IMAGE_NOT_FOUND":
                raise
            self._state.images.discard(spec.image)  # somebody removed it: the next plan pulls it again
            return
        except Exception:
            # The create of an agent that was killed, or of a call whose answer was lost.
            found = await self._engine.inspect(spec.name)
            if found is None or self._state.put(found) != instance_id:
                raise
            container_id = found.container_id
        known = self._state.containers.get(instance_id, {}).get(container_id)
        if known is None:
            self._state.put(
                ContainerObservation(container_id, spec.name, spec.labels, ContainerPhase.CREATED, image=spec.image)
            )
        self._change(
            instance_id,
            container_id=container_id,
            limits=spec.resources,
            container_hostname=spec.hostname,
            hostname=spec.hostname,
        )

    def write_files(self, assignment: InstanceAssignment) -> None:
        """Write hosts, resolv.conf and hostname, in place."""
        domains = [
            network.domain
            for nic in assignment.nics
            if (network := self._journal.networks.get(nic.network_id)) is not None
        ]
        self._files.write(assignment.instance_id, render(assignment, self._peer_lines(assignment), domains))
        self._state.folders.add(assignment.instance_id)

    async def place_payloads(self, assignment: InstanceAssignment, container: ContainerObservation | None) -> None:
        """Have the assigned secrets and configs in memory, and tell a process that runs of those that it wants to be told of.

        Cut off anywhere it is done again as a whole: a signal may come twice, but is not lost.

        Raises:
            Unavailable: SECRETS_UNREACHABLE, SECRETS_NOT_PLACED.
        """
        instance_id, wanted = assignment.instance_id, assignment.payloads
        before = self._state.payloads.pop(instance_id, ())
        contents = await self._payloads(instance_id) if wanted else {}
        if any((payload.payload_id, payload.version) not in contents for payload in wanted):
            raise Unavailable("its secrets changed while they were fetched", reason="SECRETS_UNREACHABLE")
        self._state.folders.add(instance_id)
        try:
            self._secrets.place(instance_id, wanted, contents)
            if container is not None:
                for signal in dict.fromkeys(p.signal for p in wanted if p.signal and p not in before):
                    await self._signal(container.container_id, signal)
            self._secrets.finish(instance_id, wanted)
        except OSError as exc:
            raise Unavailable(f"its secrets cannot be placed: {exc.strerror}", reason="SECRETS_NOT_PLACED") from exc
        self._state.payloads[instance_id] = wanted

    async def _payloads(self, instance_id: InstanceId) -> Payloads:
        try:
            return await self._fetch_payloads(instance_id)
        except Unavailable as exc:
            raise Unavailable(
                "its secrets are with the control plane, which cannot be reached now; it waits for them",
                reason="SECRETS_UNREACHABLE",
            ) from exc

    async def _signal(self, container_id: ContainerId, signal: str) -> None:
        try:
            await self._engine.kill(container_id, signal)
        except NotReady:
            log.debug("it has ended meanwhile", extra={"container": container_id})

    def publish_key(self, instance_id: InstanceId, container_id: ContainerId) -> None:
        """Tell the runtime wrapper the namespace of a container, and where its variables are that the engine is not told."""
        path = self._state.namespaces[instance_id].path
        assert path is not None  # the plan plugs before it publishes
        self._claims.write()  # the wrapper must know that the container runs under leases before it can be started
        has_variables = any(payload.env for payload in self._journal.assignments[instance_id].payloads)
        self._keys.publish(container_id, path, self._secrets.folder_of(instance_id) if has_variables else None)
        self._state.keys.add(container_id)

    async def publish_ports(self, assignment: InstanceAssignment) -> None:
        """Make exactly the assigned ports lead to the instance."""
        ports = assignment.published_ports
        await self._fabric.publish_ports(assignment.instance_id, ports, assignment.nics)
        self._state.ports[assignment.instance_id] = ports

    async def start(self, assignment: InstanceAssignment, container_id: ContainerId) -> None:
        """Start the process. Its end may be seen before the answer to the start is."""
        self._claims.require(assignment)
        instance_id = assignment.instance_id
        deaths = self._state.deaths(container_id)
        try:
            await self._engine.start(container_id)
        except NotFound:
            self._state.drop(instance_id, container_id)
            raise
        except NotReady as exc:
            if not await self._clear_namespace(instance_id, container_id):
                raise
            raise Unavailable(
                "a process that the engine had forgotten was ended; the start is tried again", reason="LEFTOVER_PROCESS"
            ) from exc
        known = self._state.containers.get(instance_id, {}).get(container_id)
        if (
            known is not None
            and known.phase is not ContainerPhase.RUNNING
            and deaths == self._state.deaths(container_id)
        ):
            known = replace(known, phase=ContainerPhase.RUNNING, started_at=self._now(), health="", error="")
            self._state.put(known)
        if known is not None:
            self.record_start(instance_id, known)

    async def stop(
        self,
        instance_id: InstanceId,
        container_id: ContainerId,
        *,
        grace_seconds: float,
        signal: str,
        is_failure: bool = False,
    ) -> None:
        """End the process in order, and remember that it was us, and so no fault of its own unless it `is_failure`."""
        self._change(instance_id, was_asked_to_stop=not is_failure)
        try:
            await self._engine.stop(container_id, grace_seconds=grace_seconds, signal=signal)
        finally:
            await self._look_unless_ended(instance_id, container_id)

    async def pause(self, instance_id: InstanceId, container_id: ContainerId) -> None:
        """Freeze the processes."""
        await self._switch(instance_id, container_id, self._engine.pause, ContainerPhase.PAUSED)

    async def unpause(self, instance_id: InstanceId, container_id: ContainerId) -> None:
        """Thaw the processes."""
        await self._switch(instance_id, container_id, self._engine.unpause, ContainerPhase.RUNNING)

    async def update_limits(self, assignment: InstanceAssignment, container_id: ContainerId) -> None:
        """Give the container the assigned limits.

        Raises:
            NotReady: MEMORY_IN_USE, it uses more memory than it shall have: the kernel would kill it, and it need not be.
        """
        limits = assignment.container.resources
        before = self._journal.local(assignment.instance_id).limits
        if limits.memory_bytes and (before is None or not 0 < before.memory_bytes <= limits.memory_bytes):
            used = (await self._engine.stats(container_id)).memory_bytes
            if used > limits.memory_bytes:
                raise NotReady(
                    f"it uses {format_bytes(used)} of memory, more than its new limit of {format_bytes(limits.memory_bytes)}; the limits "
                    "change once it uses less, or is started anew",
                    reason="MEMORY_IN_USE",
                )
        await self._engine.update(container_id, limits)
        self._change(assignment.instance_id, limits=limits)

    async def set_host_name(self, assignment: InstanceAssignment, container_id: ContainerId) -> None:
        """Call the process by the assigned host name. The engine gives each start the name that the container was made with.

        Raises:
            NotReady: NO_PROCESS.
        """
        seen = await self.look(assignment.instance_id, container_id)
        if seen is None or not seen.pid:
            raise NotReady("the process has ended", reason="NO_PROCESS")
        await asyncio.to_thread(set_host_name, seen.pid, assignment.container.hostname)
        self._change(assignment.instance_id, hostname=assignment.container.hostname)

    async def remove_container(self, instance_id: InstanceId, container_id: ContainerId) -> None:
        """Remove a container and its runtime key."""
        await self._engine.remove(container_id, force=True)
        if instance_id in self._state.suspects:
            await self._clear_namespace(instance_id, container_id)
            self._state.suspects.discard(instance_id)
        self._keys.withdraw(container_id)
        self._state.keys.discard(container_id)
        self._state.drop(instance_id, container_id)

    async def remove_namespace(self, instance_id: InstanceId) -> None:
        """Remove namespace, interfaces and ports."""
        self._leaving.add(instance_id)
        try:
            await self._leases.release(instance_id)
            self._names.close(instance_id)
            await self._fabric.remove_instance(instance_id)
        finally:
            self._leaving.discard(instance_id)
        self._state.namespaces.pop(instance_id, None)
        self._state.ports.pop(instance_id, None)
        self._state.lost_namespaces.discard(instance_id)

    def remove_files(self, instance_id: InstanceId) -> None:
        """Remove the instance's files, and its secrets."""
        self._secrets.remove(instance_id)
        self._state.payloads.pop(instance_id, None)
        self._files.remove(instance_id)
        self.volumes.look_again(instance_id)
        self._state.folders.discard(instance_id)

    async def look(self, instance_id: InstanceId, container_id: ContainerId) -> ContainerObservation | None:
        """Ask the engine about one container and take its answer over."""
        found = await self._engine.inspect(container_id)
        if found is None:
            self._state.drop(instance_id, container_id)
        else:
            self._state.put(found)
        return found

    async def _clear_namespace(self, instance_id: InstanceId, container_id: ContainerId) -> bool:
        """Kill what runs in the namespace, once the engine has confirmed that the container does not; whether there was
        something.
        """
        namespace = self._state.namespaces.get(instance_id)
        if namespace is None or namespace.path is None:
            return False
        found = await self._engine.inspect(container_id)
        if found is not None and found.phase in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
            return False
        return bool(await asyncio.to_thread(kill_leftovers, namespace.path))

    async def _look_unless_ended(self, instance_id: InstanceId, container_id: ContainerId) -> None:
        known = self._state.containers.get(instance_id, {}).get(container_id)
        if known is not None and known.phase in (ContainerPhase.RUNNING, ContainerPhase.PAUSED):
            await self.look(instance_id, container_id)

    async def _switch(
        self,
        instance_id: InstanceId,
        container_id: ContainerId,
        call: Callable[[str], object],
        phase: ContainerPhase,
    ) -> None:
        try:
            await call(container_id)  # type: ignore[misc]
        except NotReady:
            await self.look(instance_id, container_id)  # it is in another state than we thought
            return
        known = self._state.containers.get(instance_id, {}).get(container_id)
        if known is not None and known.phase is not ContainerPhase.EXITED:
            self._state.put(replace(known, phase=phase))

    def _container_spec(self, assignment: InstanceAssignment) -> ContainerSpec:
        instance_id, spec = assignment.instance_id, assignment.container
        labels = {
            **spec.labels,
            INSTANCE_LABEL: instance_id,
            NONCE_LABEL: self._state.nonce,
            GENERATION_LABEL: str(assignment.container_generation),
        }
        name = f"moorage-{instance_id}-{assignment.container_generation}"
        own = self._files.mounts(instance_id, spec.mounts) + self.volumes.mounts(instance_id)
        if assignment.is_router:
            own += (self._files.router_mount(instance_id),)
        secret = mounts(assignment.payloads, self._secrets.folder_of(instance_id))
        return replace(spec, name=name, labels=labels, mounts=(*own, *spec.mounts, *secret))

    def _change(self, instance_id: InstanceId, **values: object) -> None:
        before: LocalState = self._journal.local(instance_id)
        self._journal.set_local(instance_id, replace(before, **values))  # type: ignore[arg-type]

    def _now(self) -> float:
        return self._clock.now().timestamp()

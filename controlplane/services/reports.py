"""What agents say about their host and its instances, written into the store.

Order: a report counts only if (agent epoch, run, sequence) is newer than what is known, and only from the host that carries the
instance. A host can say nothing about another host's instances.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from controlplane.domain.hosts import Host, HostCondition, HostFacts, HostLinkState, QuarantinedItem
from controlplane.domain.instances import DesiredState, Instance, InstanceState, LeasedNic, Observed
from controlplane.domain.kinds import EPOCH_START, HOST, INSTANCE
from controlplane.domain.lineage import has_lost_history
from controlplane.domain.readiness import with_ready_time
from controlplane.history import record_event
from controlplane.networks.subnets import parse_address
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.instance_claims import give_back, release
from controlplane.services.placement_rules import check_facts
from moorage.errors import InvalidSpec, Unauthenticated, VersionConflict
from moorage.store.base import Transaction

#: Changes of state that people want to read about.
_TOLD = {
    InstanceState.RUNNING: "RUNNING",
    InstanceState.STOPPED: "STOPPED",
    InstanceState.FAILED: "FAILED",
    InstanceState.PAUSED: "PAUSED",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One instance as its agent sees it; mirrors moorage.v1.InstanceReport."""

    instance_id: str
    run: int = 0
    sequence: int = 0
    state: InstanceState = InstanceState.UNSPECIFIED
    reason: str = ""
    message: str = ""
    container_id: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    restarts: int = 0
    health: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    pull_percent: int = 0
    generation: int = 0
    network_generation: int = 0
    leased: tuple[LeasedNic, ...] = ()
    ready: bool | None = None
    probe: str = ""
    failures_in_row: int = 0


class ReportService:
    """Applies what agents report."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def connect(self, host_uid: str, facts: HostFacts, nonce: str, epoch: int) -> Host:
        """A session begins.

        Raises:
            Unauthenticated: HOST_REMOVED.
            VersionConflict: HOST_IDENTITY_TAKEN, another machine has this identity, or an older agent came back.
            InvalidSpec: facts that other hosts could not work with.
        """

        _check_facts(facts)

        def apply(tx: Transaction) -> Host:
            host = lookup.by_uid(tx, HOST, host_uid)
            if host is None:
                raise Unauthenticated("this host was removed; join it anew", reason="HOST_REMOVED")
            if host.nonce and host.nonce != nonce:
                raise VersionConflict(
                    f"{host.name} is another machine; its identity was copied. Join this one under a name of its own",
                    reason="HOST_IDENTITY_TAKEN",
                )
            if epoch < host.epoch:
                raise VersionConflict(
                    f"a newer agent of {host.name} has connected meanwhile", reason="HOST_IDENTITY_TAKEN"
                )
            now = self._context.clock.now()
            changed = replace(
                host,
                facts=facts,
                nonce=nonce,
                epoch=epoch,
                link_state=HostLinkState.UP,
                link_change_time=now,
                loss=None,
                link_message="",
            )
            tx.put(HOST, changed)
            if host.link_state is not HostLinkState.UP:
                record_event(tx, self._context.clock, host, "UP", f"agent {facts.agent_version} connected")
            return changed

        return await self._context.store.update(apply)

    def has_lost_history(self, store_id: str, term: int, revision: int) -> bool:
        """Whether an agent was told more by this store than the store knows: it was put back from a backup."""
        store = self._context.store
        view = store.view()
        if store_id != store.id:
            return False  # another store altogether, which the agent sees by itself
        return has_lost_history((s.value for s in view.all(EPOCH_START)), view.revision, term, revision)

    async def set_link(self, host_uid: str, state: HostLinkState, why: str) -> None:
        """The session ended, or has been away for too long."""

        def apply(tx: Transaction) -> None:
            host = lookup.by_uid(tx, HOST, host_uid)
            if host is None or host.link_state is state:
                return
            if host.loss is not None:
                return  # until its agent connects
            message = "" if state is HostLinkState.UP else host.link_message
            now = self._context.clock.now()
            tx.put(HOST, replace(host, link_state=state, link_change_time=now, link_message=message))
            severity = "normal" if state is HostLinkState.UP else "warning"
            record_event(tx, self._context.clock, host, state.name, why, severity=severity)

        await self._context.store.update(apply)

    async def note_link(self, host_uid: str, why: str) -> None:
        """Why a host that is away is not given up."""

        def apply(tx: Transaction) -> None:
            host = lookup.by_uid(tx, HOST, host_uid)
            if host is None or host.link_state is HostLinkState.UP or host.loss is not None or host.link_message == why:
                return
            tx.put(HOST, replace(host, link_message=why))
            record_event(tx, self._context.clock, host, "LOSS_UNDECIDED", why, severity="warning")

        await self._context.store.update(apply)

    async def heartbeat(
        self,
        host_uid: str,
        conditions: Sequence[HostCondition],
        quarantined: Sequence[QuarantinedItem],
        sweep_brake: str,
        facts: HostFacts | None,
    ) -> None:
        """Keep what a heartbeat says, if it is news. Raises InvalidSpec as `connect` does."""
        if facts is not None:
            _check_facts(facts)

        def with_news(host: Host) -> Host:
            return replace(
                host,
                conditions=tuple(conditions),
                quarantined=tuple(quarantined),
                sweep_brake=sweep_brake,
                facts=host.facts if facts is None else facts,
            )

        known = lookup.by_uid(self._context.store.view(), HOST, host_uid)
        if known is None or with_news(known) == known:
            return  # as nearly always: thousands of them a second need no place in the writer's queue

        def apply(tx: Transaction) -> None:
            host = lookup.by_uid(tx, HOST, host_uid)
            if host is None or (changed := with_news(host)) == host:
                return
            tx.put(HOST, changed)
            for condition in conditions:
                if condition not in host.conditions:
                    record_event(tx, self._context.clock, host, condition.reason, condition.message, severity="warning")
            if sweep_brake and not host.sweep_brake:
                record_event(tx, self._context.clock, host, "SWEEP_HELD", sweep_brake, severity="warning")

        await self._context.store.update(apply)

    async def instances(self, host_uid: str, epoch: int, reports: Sequence[Report]) -> None:
        """Apply a batch in one transaction. Instances that are gone are released with their addresses."""

        def apply(tx: Transaction) -> None:
            for report in reports:
                found = tx.find(INSTANCE, "uid", report.instance_id)
                if found and found[0].value.host_uid == host_uid:
                    self._apply(tx, found[0].value, epoch, report)

        await self._context.store.update(apply)

    def _apply(self, tx: Transaction, instance: Instance, epoch: int, report: Report) -> None:
        known = instance.observed
        if (epoch, report.run, report.sequence) <= (known.epoch, known.run, known.sequence) and known.epoch:
            return
        if report.state is InstanceState.DELETED:
            if instance.desired is DesiredState.DELETED:
                release(tx, instance, self._context.clock.now())
                record_event(
                    tx, self._context.clock, instance, "DELETED", "its host removed it", project=instance.project
                )
            return
        observed = Observed(
            report.state,
            report.reason,
            report.message,
            report.run,
            epoch,
            report.sequence,
            report.generation,
            report.restarts,
            report.exit_code,
            report.oom_killed,
            report.health,
            _time(report.started_at),
            _time(report.finished_at),
            report.pull_percent,
            report.container_id,
            report.network_generation,
            report.leased,
            report.ready,
            report.probe,
            report.failures_in_row,
        )
        give_back(tx, instance, report.network_generation)
        tx.put(INSTANCE, with_ready_time(instance, replace(instance, observed=observed), self._context.clock.now()))
        self._tell(tx, instance, observed)

    def _tell(self, tx: Transaction, instance: Instance, observed: Observed) -> None:
        known = instance.observed
        clock, project = self._context.clock, instance.project
        if observed.oom_killed and not known.oom_killed:
            record_event(
                tx,
                clock,
                instance,
                "OOM_KILLED",
                "used more memory than its limit",
                project=project,
                severity="warning",
            )
        if observed.health == "unhealthy" and known.health != "unhealthy":
            record_event(
                tx, clock, instance, "UNHEALTHY", "its health check fails", project=project, severity="warning"
            )
        is_new_process = observed.run != known.run
        if observed.probed_ready is False and known.probed_ready and not is_new_process:
            told = f"it is not ready any more: {observed.probe}"
            record_event(tx, clock, instance, "PROBE_FAILED", told, project=project, severity="warning")
        is_news = (observed.state, observed.run) != (known.state, known.run)
        if is_news and observed.state in _TOLD:
            message = observed.message or f"on hosts/{instance.host}, run {observed.run}"
            severity = "warning" if observed.state is InstanceState.FAILED else "normal"
            record_event(tx, clock, instance, _TOLD[observed.state], message, project=project, severity=severity)


def _check_facts(facts: HostFacts) -> None:
    """Other hosts and the scheduler build on these: a bad one must not keep them from working."""
    if facts.underlay_address and parse_address(facts.underlay_address) is None:
        raise InvalidSpec.of("facts.underlay_address", f"{facts.underlay_address!r} is no address", "ADDRESS_INVALID")
    for name, port in (("vxlan_port", facts.vxlan_port), ("neighbour_port", facts.neighbour_port)):
        if not 0 <= port <= 65535:
            raise InvalidSpec.of(f"facts.{name}", "must be between 1 and 65535", "OUT_OF_RANGE")
    violations = check_facts(facts, "facts")
    if violations:
        raise InvalidSpec(violations)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

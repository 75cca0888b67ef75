"""AgentService: the side of the API that only hosts see, on a port of its own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from controlplane.api.caller import current_host
from controlplane.claim_leases.ledger import LeaseLedger
from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.sessions import AssignmentSet, HostSession
from controlplane.dispatch.streams import SideStream, StreamBroker, StreamRequest
from controlplane.dispatch.tasks import BuildTask, HostTasks, SentTask, TaskReport
from controlplane.domain.hosts import Host, HostCondition, HostFacts, HostLinkState, QuarantinedItem
from controlplane.domain.kinds import HOST, INSTANCE
from controlplane.history import record_event
from controlplane.liveness.plan import Reach
from controlplane.liveness.rounds import NeighbourQuestion, Rounds
from controlplane.registry.tokens import Grant, RegistryTokens
from controlplane.sealing import Sealer
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.enrollment import EnrollmentService
from controlplane.services.reports import Report, ReportService
from controlplane.services.router_reports import RouterReports
from controlplane.services.secrets import payloads_of
from controlplane.services.volume_reports import VolumeReport, VolumeReports
from moorage import protoconv
from moorage.errors import Forbidden, InvalidSpec, NotReady, Unauthenticated, Unavailable
from moorage.router_bundle import RouterReport
from moorage.status import error_from_status
from moorage.v1 import agent_pb2, agent_pb2_grpc

log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]

PROTOCOL_VERSION = 1
_REACHES = {
    agent_pb2.NEIGHBOUR_VERDICT_ANSWERS: Reach.ANSWERS,
    agent_pb2.NEIGHBOUR_VERDICT_REFUSED: Reach.REFUSED,
    agent_pb2.NEIGHBOUR_VERDICT_SILENT: Reach.SILENT,
}
_TOKEN_LIFETIME = timedelta(minutes=10)


class ReleaseBrake:
    """A request of a session: let a sweep that was held back go on, once."""


@dataclass(frozen=True, slots=True)
class GivenLeases:
    """A request of a session: the answer to a request for leases."""

    number: int
    instance_uids: tuple[str, ...]


@dataclass(frozen=True)
class AgentDeps:
    """What the servicer works with."""

    context: Context
    dispatcher: Dispatcher
    reports: ReportService
    router_reports: RouterReports
    volume_reports: VolumeReports
    enrollment: EnrollmentService
    broker: StreamBroker
    tasks: HostTasks
    rounds: Rounds
    tokens: RegistryTokens
    sealer: Sealer
    registry_url: str
    registry_ca_pem: str
    heartbeat_period_seconds: float
    lease_renewal_seconds: float
    ledger: LeaseLedger


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """Sessions, side streams, certificates and registry tokens."""

    def __init__(self, deps: AgentDeps) -> None:
        self._deps = deps

    async def Session(
        self, request_iterator: AsyncIterator[agent_pb2.SessionRequest], context: _Context
    ) -> AsyncIterator[agent_pb2.SessionResponse]:
        deps = self._deps
        host_uid = current_host()
        first = await anext(request_iterator)
        if first.WhichOneof("part") != "hello":
            raise InvalidSpec.of("hello", "the first message must be the hello", "STREAM_INVALID")
        hello = first.hello
        if hello.protocol_version != PROTOCOL_VERSION:
            raise NotReady(
                f"this agent speaks protocol {hello.protocol_version}, this control plane {PROTOCOL_VERSION}; install the "
                "agent of the control plane's version",
                reason="AGENT_VERSION",
                metadata={"supported": str(PROTOCOL_VERSION)},
            )
        # Asked before this session writes anything: every commit hides how far the store had gone back.
        is_restored = deps.reports.has_lost_history(hello.store_id, hello.term, hello.applied_revision)
        host = await deps.reports.connect(
            host_uid, protoconv.from_proto(HostFacts, hello.facts), hello.host_nonce, hello.epoch
        )
        session = deps.dispatcher.open(host_uid, hello.epoch)
        deps.tasks.session_lost(host_uid)  # those of a session that has not ended here yet: its agent has given them up
        reader = asyncio.create_task(self._read(session, request_iterator), name=f"session of {host.id}")
        try:
            yield self._welcome(host, is_restored)
            reports = [_report(item) for item in hello.instances]
            await deps.reports.instances(host_uid, hello.epoch, reports)
            complete = session.complete(deps.context.store.view())
            yield agent_pb2.SessionResponse(assignments=_assignments(complete))
            async for message in self._send(session, reader):
                yield message
        finally:
            reader.cancel()
            if deps.dispatcher.closed(session):
                deps.tasks.session_lost(host_uid)
                await asyncio.shield(
                    deps.reports.set_link(host_uid, HostLinkState.DISCONNECTED, "the agent's session ended")
                )

    def _welcome(self, host: Host, is_restored: bool) -> agent_pb2.SessionResponse:
        deps = self._deps
        welcome = agent_pb2.Welcome(
            term=deps.dispatcher.term,
            store_id=deps.dispatcher.store_id,
            host_uid=host.uid,
            host_name=host.name,
            history_lost=is_restored,
            registry_url=deps.registry_url,
            registry_ca_pem=deps.registry_ca_pem,
        )
        welcome.heartbeat_period.FromTimedelta(timedelta(seconds=deps.heartbeat_period_seconds))
        welcome.lease_renewal_period.FromTimedelta(timedelta(seconds=deps.lease_renewal_seconds))
        return agent_pb2.SessionResponse(welcome=welcome)

    async def _send(
        self, session: HostSession, reader: "asyncio.Task[None]"
    ) -> AsyncIterator[agent_pb2.SessionResponse]:
        """Everything for the agent, as it comes up. Ends with the session."""
        reader.add_done_callback(lambda _: session.wake())
        while True:
            if session.is_closed:
                raise Unavailable(session.close_reason, reason="SESSION_ENDED")
            if reader.done():
                reader.result()
                return
            changes = session.incremental(self._deps.context.store.view())
            if not changes.is_empty:
                yield agent_pb2.SessionResponse(assignments=_assignments(changes))
            while session.requests:
                yield _request(session.requests.popleft())
            await session.wait()

    async def _read(self, session: HostSession, requests: AsyncIterator[agent_pb2.SessionRequest]) -> None:
        deps = self._deps
        async for request in requests:
            session.last_heard = deps.context.clock.monotonic()
            match request.WhichOneof("part"):
                case "heartbeat":
                    await self._heartbeat(session.host_uid, request.heartbeat)
                case "status":
                    reports = [_report(item) for item in request.status.reports]
                    await deps.reports.instances(session.host_uid, session.epoch, reports)
                    routers = [protoconv.from_proto(RouterReport, item) for item in request.status.routers]
                    await deps.router_reports.apply(session.host_uid, session.epoch, routers)
                case "volumes":
                    volumes = [protoconv.from_proto(VolumeReport, item) for item in request.volumes.reports]
                    await deps.volume_reports.apply(session.host_uid, volumes)
                case "task":
                    deps.tasks.report(session.host_uid, _task_report(request.task))
                case "event":
                    await self._event(session.host_uid, request.event)
                case "neighbour":
                    answer = request.neighbour
                    reach = _REACHES.get(answer.verdict, Reach.SILENT)
                    deps.rounds.take(session.host_uid, answer.question_id, reach, answer.datagram)
                case "farewell":
                    session.is_farewell = True
                case "lease_request":
                    asked = request.lease_request
                    given = deps.ledger.give(session.host_uid, asked.instance_ids)
                    session.request(GivenLeases(asked.number, tuple(given)))
                case other:
                    raise InvalidSpec.of(str(other), "does not belong here", "STREAM_INVALID")

    async def _heartbeat(self, host_uid: str, beat: agent_pb2.AgentHeartbeat) -> None:
        if lookup.by_uid(self._deps.context.store.view(), HOST, host_uid) is None:
            raise Unauthenticated("this host was removed; join it anew", reason="HOST_REMOVED")
        await self._deps.reports.heartbeat(
            host_uid,
            [protoconv.from_proto(HostCondition, item) for item in beat.conditions],
            [protoconv.from_proto(QuarantinedItem, item) for item in beat.quarantined],
            beat.sweep_brake,
            protoconv.from_proto(HostFacts, beat.facts) if beat.HasField("facts") else None,
        )

    async def _event(self, host_uid: str, event: agent_pb2.AgentEvent) -> None:
        context = self._deps.context
        view = context.store.view()
        target: Any = lookup.by_uid(view, HOST, host_uid)
        project = ""
        if event.instance_id:
            instance = lookup.by_uid(view, INSTANCE, event.instance_id)
            if instance is None or instance.host_uid != host_uid:
                return  # gone, or not this host's to tell about
            target, project = instance, instance.project
        if target is None:
            return
        severity = "warning" if event.severity == "warning" else "normal"
        await context.store.update(
            lambda tx: record_event(
                tx, context.clock, target, event.reason, event.message, project=project, severity=severity
            )
        )

    async def OpenStream(
        self, request_iterator: AsyncIterator[agent_pb2.OpenStreamRequest], context: _Context
    ) -> AsyncIterator[agent_pb2.OpenStreamResponse]:
        first = await anext(request_iterator)
        stream = self._deps.broker.claim(current_host(), first.stream_id)
        reader = asyncio.create_task(_relay(stream, request_iterator), name=f"side stream {first.stream_id}")
        ended = asyncio.create_task(stream.ended.wait(), name=f"end of side stream {first.stream_id}")
        getter: asyncio.Future[agent_pb2.OpenStreamResponse] = asyncio.get_running_loop().create_future()
        try:
            while not ended.done():
                getter = asyncio.ensure_future(stream.to_agent.get())
                done, _ = await asyncio.wait({getter, ended, reader}, return_when=asyncio.FIRST_COMPLETED)
                if getter in done:
                    yield getter.result()
                    continue
                getter.cancel()
                if reader in done:
                    reader.result()
                    await ended  # all was received; the caller still reads from the queue
        finally:
            for task in (reader, ended, getter):
                task.cancel()

    async def RenewCertificate(
        self, request: agent_pb2.RenewCertificateRequest, context: _Context
    ) -> agent_pb2.RenewCertificateResponse:
        host = self._require_host()
        certificate = self._deps.enrollment.renew(host, request.certificate_request_pem)
        return agent_pb2.RenewCertificateResponse(
            certificate_pem=certificate.decode(), authority_pem=self._deps.enrollment.authority_pem.decode()
        )

    async def IssueRegistryToken(
        self, request: agent_pb2.IssueRegistryTokenRequest, context: _Context
    ) -> agent_pb2.IssueRegistryTokenResponse:
        host = self._require_host()
        actions = frozenset({"pull"})
        if request.push:
            self._deps.tasks.require_push(host.uid, request.repository)
            actions = frozenset({"pull", "push"})
        elif request.repository not in self._readable(host.uid):
            raise Forbidden("no instance or build of this host needs it", reason="NOT_YOUR_REPOSITORY")
        now = self._deps.context.clock.now()
        token = self._deps.tokens.issue(
            f"host {host.uid}", [Grant(request.repository, actions)], _TOKEN_LIFETIME.total_seconds(), now
        )
        response = agent_pb2.IssueRegistryTokenResponse(token=token)
        response.expire_time.FromDatetime(now + _TOKEN_LIFETIME)
        return response

    def _readable(self, host_uid: str) -> set[str]:
        """Repositories that the host's own instances and builds need."""
        view = self._deps.context.store.view()
        images = (found.value.image for found in view.find(INSTANCE, "host", host_uid))
        return {image.partition("@")[0] for image in images} | self._deps.tasks.base_repositories(host_uid)

    async def FetchBuildContext(
        self, request: agent_pb2.FetchBuildContextRequest, context: _Context
    ) -> AsyncIterator[agent_pb2.FetchBuildContextResponse]:
        source = self._deps.tasks.context(current_host(), request.task_id)
        async for chunk in source.stream():
            yield agent_pb2.FetchBuildContextResponse(chunk=chunk)

    async def FetchSecrets(
        self, request: agent_pb2.FetchSecretsRequest, context: _Context
    ) -> AsyncIterator[agent_pb2.FetchSecretsResponse]:
        view = self._deps.context.store.view()
        instance = lookup.by_uid(view, INSTANCE, request.instance_id)
        if instance is None or instance.host_uid != current_host():
            raise Forbidden("this host has no such instance", reason="NOT_YOUR_INSTANCE")
        for version, payload in payloads_of(view, self._deps.sealer, instance):
            yield agent_pb2.FetchSecretsResponse(payload_id=version.owner_uid, version=version.number, payload=payload)

    def _require_host(self) -> Host:
        host = lookup.by_uid(self._deps.context.store.view(), HOST, current_host())
        if host is None:
            raise Unauthenticated("this host was removed; join it anew", reason="HOST_REMOVED")
        return host


async def _relay(stream: SideStream, requests: AsyncIterator[agent_pb2.OpenStreamRequest]) -> None:
    """Pass on what the agent sends; its end, or its loss, ends the caller's direction."""
    stream.error = Unavailable("the host went away meanwhile", reason="HOST_AWAY")
    try:
        async for request in requests:
            part = request.WhichOneof("part")
            if part == "end":
                stream.error = error_from_status(request.end.error) if request.end.HasField("error") else None
                return
            await stream.from_agent.put(getattr(request, part or "chunk"))
    finally:
        await stream.from_agent.put(None)


def _report(message: agent_pb2.InstanceReport) -> Report:
    try:
        return protoconv.from_proto(Report, message)
    except ValueError as error:
        raise InvalidSpec.of("status", str(error), "STATE_UNKNOWN") from error


def _task_report(message: agent_pb2.TaskReport) -> TaskReport:
    error = error_from_status(message.error) if message.HasField("error") else None
    return TaskReport(
        message.task_id,
        message.phase,
        message.percent,
        message.done_bytes,
        message.total_bytes,
        message.log,
        message.done,
        error,
    )


def _request(item: object) -> agent_pb2.SessionResponse:
    match item:
        case GivenLeases():
            renewal = agent_pb2.LeaseRenewal(number=item.number, instance_ids=item.instance_uids)
            return agent_pb2.SessionResponse(lease_renewal=renewal)
        case ReleaseBrake():
            return agent_pb2.SessionResponse(release_sweep_brake=True)
        case StreamRequest():
            request = agent_pb2.StreamRequest(stream_id=item.stream_id, instance_id=item.instance_uid)
            getattr(request, item.kind).CopyFrom(item.wanted)
            return agent_pb2.SessionResponse(stream=request)
        case SentTask():
            return agent_pb2.SessionResponse(task=_task(item))
        case NeighbourQuestion():
            question = agent_pb2.NeighbourQuestion()
            protoconv.fill(item, question)
            return agent_pb2.SessionResponse(neighbour=question)
    raise TypeError(f"a session cannot carry {item!r}")


def _task(item: SentTask) -> agent_pb2.Task:
    task = agent_pb2.Task(task_id=item.task_id)
    if item.work is None:
        task.cancel = True
    elif isinstance(item.work, BuildTask):
        task.build.SetInParent()
        protoconv.fill(item.work, task.build)
    else:
        task.snapshot.SetInParent()
        protoconv.fill(item.work, task.snapshot)
    return task


def _fill_all(records: Iterable[Any], into: Any) -> None:
    for record in records:
        message: Message = into.add()
        protoconv.fill(record, message)


def _assignments(found: AssignmentSet) -> agent_pb2.Assignments:
    kind = agent_pb2.Assignments.TYPE_COMPLETE if found.is_complete else agent_pb2.Assignments.TYPE_INCREMENTAL
    message = agent_pb2.Assignments(
        type=kind,
        applies_to=found.applies_to,
        results_in=found.results_in,
        revision=found.revision,
        forgotten_instances=found.forgotten_instances,
        removed_networks=found.removed_networks,
    )
    _fill_all(found.instances, message.instances)
    for network, peers in found.networks:
        item = message.networks.add()
        protoconv.fill(network, item)
        _fill_all(peers, item.peers)
    for change in found.peer_changes:
        update = message.peer_updates.add(network_id=change.network_id, removed=change.removed)
        _fill_all(change.upserted, update.upserted)
    _fill_all(found.routers, message.routers)
    _fill_all(found.security.groups, message.security_groups)
    message.removed_security_groups.extend(found.security.removed_groups)
    _fill_all(found.security.members, message.group_members)
    return message

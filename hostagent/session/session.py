"""The session with the control plane: dialled by the agent, held open, opened again with growing delays when it ends.

A control plane that is away stops nothing: workers go on from the journal, and what happened is told in the next hello.
One that cannot be reached is asked about once a second, however long it lasts, which costs it a packet; only what it
answers to, with a refusal or half a session, is tried again with delays that grow.

Rules: assignments are applied in order, each durable before the next is read; one that does not follow the last (a
gap) ends the session, and the next begins with everything; a control plane of a lower term than the highest seen is
not obeyed.
"""

import asyncio
import contextlib
import logging
import random as random_module
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any, Protocol

import grpc

from hostagent.domain import AgentHeartbeat, HostFacts, InstanceReport, InstanceState
from hostagent.facts import machine_mark
from hostagent.journal.journal import AssignmentChange, Journal
from hostagent.session.outbox import Outbox
from hostagent.session.translate import change_from_message, report_message, router_report_message
from moorage.clock import Clock
from moorage.errors import MoorageError, NotReady, StoreUnavailable, Unavailable
from moorage.ids import InstanceId
from moorage.protoconv import fill
from moorage.retry import Backoff, RandomFraction
from moorage.status import error_from_rpc
from moorage.tasks import TaskOwner
from moorage.v1 import agent_pb2, agent_pb2_grpc

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
_BACKOFF = Backoff(initial=0.2, maximum=10.0)
_REACH_BACKOFF = Backoff(initial=0.2, maximum=1.0)
_GATHER_SECONDS = 0.02  # between two batches of reports; the first after a quiet time leaves at once
_WELCOME_SECONDS = 10.0
_MAX_REPORTS = 500  # of one message
_DEFAULT_HEARTBEAT_SECONDS = 5.0
_FAREWELL_SECONDS = 1.0

_EOF: Any = grpc.aio.EOF
Connect = Callable[[], Awaitable[grpc.aio.Channel]]
Call = Any  # grpc.aio.StreamStreamCall; its type parameters differ between stub packages


class SessionPeer(Protocol):
    """What the rest of the agent does about messages of the session."""

    async def on_welcome(
        self, *, host_name: str, registry_url: str, registry_ca_pem: str, lease_renewal_seconds: float
    ) -> None: ...
    async def on_assignments(self, change: AssignmentChange) -> None: ...
    def on_stream(self, request: agent_pb2.StreamRequest) -> None: ...
    def on_task(self, task: agent_pb2.Task) -> None: ...
    def on_release_sweep_brake(self) -> None: ...
    def on_neighbour(self, question: agent_pb2.NeighbourQuestion) -> None: ...
    def on_leases(self, number: int, given: list[InstanceId]) -> None: ...
    async def facts(self) -> HostFacts: ...
    def heartbeat(self) -> AgentHeartbeat: ...


class Session:
    """Runs one session after the other.

    Args:
        connect: opens a channel to the control plane, OSError when it cannot be reached; called for each session, so
            that a renewed certificate is used.
        registry: host:port under which this host's engine reaches the platform's images.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        journal: Journal,
        outbox: Outbox,
        peer: SessionPeer,
        clock: Clock,
        registry: str,
        random: RandomFraction = random_module.random,
    ) -> None:
        self._connect = connect
        self._journal = journal
        self._outbox = outbox
        self._peer = peer
        self._clock = clock
        self._registry = registry
        self._random = random
        self._channel: grpc.aio.Channel | None = None
        self._has_complete = False
        self._is_settled = False
        self._heartbeat_seconds = _DEFAULT_HEARTBEAT_SECONDS
        self._is_ending = False
        self._has_ended = asyncio.Event()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel of the session that stands, for side streams.

        Raises:
            Unavailable: no session stands.
        """
        if self._channel is None:
            raise Unavailable("there is no session with the control plane", reason="SESSION_LOST")
        return self._channel

    async def say_farewell(self) -> None:
        """Tell the control plane that this agent ends, so that it does not give the host up; returns soon in any case."""
        if self._channel is None:
            return
        self._is_ending = True
        self._has_ended.clear()
        self._outbox.notify(agent_pb2.SessionRequest(farewell=agent_pb2.AgentFarewell()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._has_ended.wait()

    def ask_leases(self, number: int, instance_ids: Collection[InstanceId]) -> bool:
        """Ask for leases, soon; whether a session stands in which that can be done."""
        if self._channel is None:
            return False
        request = agent_pb2.LeaseRequest(number=number, instance_ids=sorted(instance_ids))
        self._outbox.notify(agent_pb2.SessionRequest(lease_request=request))
        return True

    async def run(self) -> None:
        """Hold a session until cancelled."""
        delays, reach_delays = _BACKOFF.delays(self._random), _REACH_BACKOFF.delays(self._random)
        told = ""
        while True:
            self._is_settled = False
            try:
                await self.run_once()
            except MoorageError as exc:
                problem, waiting = str(exc), delays
            except OSError as exc:
                problem, waiting = f"the control plane cannot be reached: {exc or 'no answer'}", reach_delays
            if self._is_ending:
                return
            if self._is_settled:
                delays, told = _BACKOFF.delays(self._random), ""
                waiting = delays
            if waiting is not reach_delays:
                reach_delays = _REACH_BACKOFF.delays(self._random)
            if problem != told:  # else the log would grow by it all through a long absence
                log.warning("the session ended", extra={"problem": problem})
                told = problem
            await self._clock.sleep(next(waiting))

    async def run_once(self) -> None:
        """One session, until it ends.

        Raises:
            MoorageError: why it ended.
            OSError: the control plane cannot be reached.
        """
        channel = await self._connect()
        call: Call = None
        try:
            stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
            call = stub.Session()
            hello = agent_pb2.SessionRequest(hello=await self._hello())
            try:
                async with asyncio.timeout(_WELCOME_SECONDS):
                    await call.write(hello)
                    first = await call.read()
            except TimeoutError:
                raise Unavailable("the control plane sent no welcome", reason="SESSION_LOST") from None
            if first is _EOF:
                raise await _ending(call)
            await self._welcome(first)
            self._channel = channel
            self._has_complete = False
            async with TaskOwner("session", on_failure=lambda *_: call.cancel()) as tasks:
                tasks.spawn(self._send(call), name="session sender")
                await self._receive(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not we, but the call was cancelled, which gRPC tells its reader in the same way.
            raise Unavailable("the sender of the session failed", reason="SESSION_LOST") from None
        except grpc.aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc
        except asyncio.InvalidStateError:
            # gRPC's way of saying that the call had ended before we wrote to it.
            raise await _ending(call) from None
        finally:
            self._channel = None
            self._has_ended.set()
            if call is not None:
                call.cancel()
            await channel.close(None)

    async def _hello(self) -> agent_pb2.AgentHello:
        link = self._journal.link
        hello = agent_pb2.AgentHello(
            protocol_version=PROTOCOL_VERSION,
            epoch=self._journal.epoch,
            host_nonce=machine_mark(self._journal.nonce),
            store_id=link.store_id,
            applied_revision=link.revision,
            term=link.term,
            instances=[report_message(report) for report in self._outbox.hello()],
        )
        fill(await self._peer.facts(), hello.facts)
        return hello

    async def _welcome(self, message: agent_pb2.SessionResponse) -> None:
        if message.WhichOneof("part") != "welcome":
            raise NotReady("the control plane did not begin with a welcome", reason="PROTOCOL_VIOLATION")
        welcome = message.welcome
        link = self._journal.link
        if welcome.term < link.term:
            raise NotReady(
                f"the control plane is of term {welcome.term} and was replaced in term {link.term}", reason="OLD_TERM"
            )
        if welcome.HasField("heartbeat_period"):
            self._heartbeat_seconds = welcome.heartbeat_period.ToNanoseconds() / 1e9 or _DEFAULT_HEARTBEAT_SECONDS
        went_back = link.went_back
        if link.store_id and welcome.store_id != link.store_id:
            went_back = f"the control plane's store is another one ({welcome.store_id}) than before ({link.store_id})"
        elif welcome.history_lost:
            went_back = "the control plane's store was put back to an earlier state"
        self._journal.set_link(
            replace(
                link,
                term=welcome.term,
                store_id=welcome.store_id,
                revision=link.revision if welcome.store_id == link.store_id else 0,
                went_back=went_back,
            )
        )
        # Without room on the disk the session must stand all the same, to tell it; the first assignments wait for this.
        with contextlib.suppress(StoreUnavailable):
            await self._journal.commit()
        await self._peer.on_welcome(
            host_name=welcome.host_name,
            registry_url=welcome.registry_url,
            registry_ca_pem=welcome.registry_ca_pem,
            lease_renewal_seconds=welcome.lease_renewal_period.ToNanoseconds() / 1e9,
        )
        log.info("session stands", extra={"host": welcome.host_name, "term": welcome.term})

    async def _receive(self, call: Call) -> None:
        async for message in _messages(call):
            match message.WhichOneof("part"):
                case "assignments":
                    await self._assignments(message.assignments)
                case "stream":
                    self._peer.on_stream(message.stream)
                case "task":
                    self._peer.on_task(message.task)
                case "lease_renewal":
                    renewal = message.lease_renewal
                    self._peer.on_leases(renewal.number, [InstanceId(i) for i in renewal.instance_ids])
                case "release_sweep_brake":
                    self._peer.on_release_sweep_brake()
                case "neighbour":
                    self._peer.on_neighbour(message.neighbour)
                case other:
                    # A newer control plane: what an older agent does not know must not end its session.
                    log.warning("an unknown message was skipped", extra={"part": str(other)})
        raise await _ending(call)

    async def _assignments(self, message: agent_pb2.Assignments) -> None:
        change, problems = change_from_message(message, self._registry)
        link = self._journal.link
        if change.is_complete:
            if change.revision < link.revision:
                went_back = f"the control plane's store went back from revision {link.revision} to {change.revision}"
                self._journal.set_link(replace(link, went_back=went_back))
            self._has_complete = True
        elif not self._has_complete or message.applies_to != link.sequence:
            raise Unavailable(
                f"assignments {message.applies_to} do not follow {link.sequence}", reason="ASSIGNMENT_GAP"
            )
        await self._peer.on_assignments(change)
        self._is_settled = True
        for instance_id, generation, problem in problems:
            self._outbox.put(self._misunderstood(instance_id, generation, problem))

    def _misunderstood(self, instance_id: InstanceId, generation: int, problem: str) -> InstanceReport:
        return InstanceReport(
            instance_id=instance_id,
            run=self._journal.local(instance_id).run,
            sequence=0,
            state=InstanceState.FAILED,
            reason="ASSIGNMENT_INVALID",
            message=f"this agent does not understand the assignment: {problem}",
            generation=generation,
        )

    async def _send(self, call: Call) -> None:
        try:
            await self._send_heartbeat(call)
            next_heartbeat = self._next_heartbeat()
            while True:
                try:
                    async with asyncio.timeout(max(0.0, next_heartbeat - self._clock.monotonic())):
                        await self._outbox.wait()
                except TimeoutError:
                    await self._send_heartbeat(call)
                    next_heartbeat = self._next_heartbeat()
                    continue
                await self._send_waiting(call)
                if self._is_ending:
                    await call.done_writing()  # the other end reads all that was said, and then ends the session
                    return
                await self._clock.sleep(_GATHER_SECONDS)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The call has ended. Reading from it tells why, and ends the session.
            return

    async def _send_waiting(self, call: Call) -> None:
        reports, notices = self._outbox.take()
        for message in notices:
            await call.write(message)
        for start in range(0, len(reports), _MAX_REPORTS):
            batch = [report_message(report) for report in reports[start : start + _MAX_REPORTS]]
            await call.write(agent_pb2.SessionRequest(status=agent_pb2.StatusBatch(reports=batch)))
        if routers := [router_report_message(report) for report in self._outbox.take_routers()]:
            await call.write(agent_pb2.SessionRequest(status=agent_pb2.StatusBatch(routers=routers)))

    def _next_heartbeat(self) -> float:
        return self._clock.monotonic() + self._heartbeat_seconds * (1.0 - 0.1 * self._random())

    async def _send_heartbeat(self, call: Call) -> None:
        heartbeat = self._peer.heartbeat()
        message = agent_pb2.AgentHeartbeat()
        fill(heartbeat, message)
        await call.write(agent_pb2.SessionRequest(heartbeat=message))


async def _messages(call: Call) -> AsyncIterator[agent_pb2.SessionResponse]:
    while (message := await call.read()) is not _EOF:
        yield message


async def _ending(call: Call) -> Exception:
    """What ended a call whose messages are over."""
    code, details = await call.code(), await call.details()
    return Unavailable(
        f"the control plane ended the session: {code.name} {details or ''}".strip(), reason="SESSION_LOST"
    )

"""Never two owners: the control plane's ledger, the agent's book and the watchdog's plan, with clocks of their own that run faster or
slower, and partitions, restarts and stops in any order. One instance whose host may be given up, and a successor that starts at the
moment at which its claim is free.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.claim_leases.plan import plan as free_plan
from controlplane.domain.claims import is_renewed
from controlplane.domain.instances import Claim, Instance, InstanceSpec
from hostagent.claims.book import ClaimBook
from hostagent.claims.deadlines import Hold
from hostagent.domain import ContainerObservation, ContainerPhase
from hostagent.executor.host_state import HostState, NamespaceState
from hostagent.watchdog import lease_file
from hostagent.watchdog.lease_file import Answer
from hostagent.watchdog.plan import plan as watch_plan
from moorage.ids import ContainerId, InstanceId
from tests.unit.worker.world import assignment

LEASE = 10.0
RATE = 0.0005  # a clock is slewed by at most so much
STEP = 0.05
UID = InstanceId("i1")
CONTAINER = ContainerObservation(ContainerId("c" * 64), "db", {}, ContainerPhase.EXITED)


@dataclass
class Machine:
    """A clock of its own."""

    rate: float
    start: float
    real: float = 0.0

    def boottime(self) -> float:
        return self.start + self.real * self.rate

    monotonic = boottime


@dataclass
class Site:
    """Both sides, the wire between them, and what is really so."""

    host: Machine
    control: Machine
    run_dir: Path
    real: float = 0.0
    is_running: bool = False
    is_reached: bool = False  # the namespace answers
    agent: str = "up"  # up, stopped, dead
    has_watchdog: bool = True
    is_cut: bool = False
    delay: float = 0.0
    is_given_up: bool = False
    is_free: bool = False
    wire: list[tuple[float, str, int]] = field(default_factory=list)
    given: float | None = None
    began: float = 0.0
    starting: bool = False  # the engine has been told to start it
    ask_at: float = 0.0
    book: Any = None
    state: Any = None

    def record(self) -> Instance:
        spec: Any = InstanceSpec(template="t", exclusive=True)
        fields: Any = {"claims": (Claim.INSTANCE,), "lease_seconds": LEASE}
        lost = "its host is lost" if self.is_given_up else ""
        return Instance(UID, "p", "db", None, spec, spec, "t", "i", (), given_up=lost, **fields)  # type: ignore[arg-type]

    def start_agent(self) -> None:
        self.state = HostState(nonce="n", is_listed=True)
        journal: Any = SimpleNamespace(assignments={UID: assignment(lease_seconds=LEASE)})
        clock: Any = self.host
        self.book = ClaimBook(journal=journal, state=self.state, clock=clock, run_dir=self.run_dir, boot_id="b")
        self.see()
        self.book.begin()
        self.agent, self.ask_at = "up", 0.0

    def see(self) -> None:
        phase = ContainerPhase.RUNNING if self.is_running else ContainerPhase.EXITED
        known = ContainerObservation(CONTAINER.container_id, "db", {}, phase)
        self.state.containers = {UID: {known.container_id: known}}
        self.state.namespaces = {UID: NamespaceState()} if self.is_reached else {}

    def step(self) -> None:
        self.real += STEP
        self.host.real = self.control.real = self.real
        self._carry()
        if self.agent == "up":
            self._work()
        self._engine()
        if self.has_watchdog:
            self._watch()
        if self.is_given_up and not self.is_free:
            last = self.began if self.given is None else self.given
            free, _ = free_plan([self.record()], lambda _: last, self.control.monotonic())
            self.is_free = bool(free)
        assert not (self.is_free and self.is_running), "two owners"
        assert not (self.is_free and self.is_reached), "two that answer to one address"

    def _carry(self) -> None:
        due, self.wire = [m for m in self.wire if m[0] <= self.real], [m for m in self.wire if m[0] > self.real]
        for _, kind, number in due:
            if kind == "ask" and is_renewed(self.record()):
                self.given = self.control.monotonic()
                self._send("answer", number)
            elif kind == "answer" and self.agent == "up":
                self.see()
                self.book.take(number, [UID])
            elif kind == "answer" and self.agent == "stopped":
                self.wire.append((self.real + STEP, kind, number))  # it waits in the socket

    def _send(self, kind: str, number: int) -> None:
        if not self.is_cut:
            self.wire.append((self.real + self.delay, kind, number))

    def _work(self) -> None:
        self.see()
        book, now = self.book, self.host.boottime()
        book.look()
        if now >= self.ask_at and book.wanted():
            self.ask_at = now + 1.0
            self._send("ask", book.ask())
        hold = book.hold(assignment(lease_seconds=LEASE))
        if hold is Hold.HELD:
            self.is_reached = self.starting = True
        elif hold is Hold.LACKING:
            self.is_running = self.is_reached = self.starting = False
        book.write()

    def _engine(self) -> None:
        if not self.starting or self.is_running:
            return
        # As the runtime wrapper decides.
        found = lease_file.read(self.run_dir)
        assert found is not None
        self.is_running = found.entries[0].end > int(self.host.boottime() * 100)
        self.starting = self.is_running

    def _watch(self) -> None:
        now = int(self.host.boottime() * 100)
        found = lease_file.read(self.run_dir)
        if found is None:
            return
        duty = watch_plan(found, "b", now)
        if duty.entries:
            self.is_running = self.is_reached = False
        if duty.is_agent_silent:
            self.agent, self.starting = "dead", False
        with (self.run_dir / lease_file.ANSWER).open("r+b", buffering=0) as file:
            lease_file.write_answer(file.fileno(), Answer(1, 1, now, found.written))

    def act(self, what: str, amount: float) -> None:
        match what:
            case "pass":
                for _ in range(int(amount / STEP)):
                    self.step()
            case "cut":
                self.is_cut = not self.is_cut
            case "delay":
                self.delay = amount
            case "kill":
                self.agent = "dead" if self.has_watchdog else self.agent
            case "stop" if self.agent == "up" and self.has_watchdog:
                self.agent = "stopped"
            case "continue" if self.agent == "stopped":
                self.agent = "up"
            case "start" if self.agent == "dead":
                self.start_agent()
            case "watchdog" if self.agent == "up":
                self.has_watchdog = not self.has_watchdog
            case "restart":
                self.given, self.began = None, self.control.monotonic()
                self.wire = [m for m in self.wire if m[1] == "answer"]
            case "give up":
                self.is_given_up = True


ACTS = ("pass", "pass", "pass", "cut", "delay", "kill", "stop", "continue", "start", "watchdog", "restart", "give up")
RATES = st.floats(1.0 - RATE, 1.0 + RATE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    host_rate=RATES,
    control_rate=RATES,
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.floats(0.0, 6.0)), min_size=3, max_size=25),
)
def test_never_two_owners(host_rate: float, control_rate: float, acts: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / lease_file.ANSWER).touch()
        site = Site(Machine(host_rate, 5000.0), Machine(control_rate, 70.0), run_dir)
        site.began = site.control.monotonic()
        site.start_agent()
        for what, amount in [("pass", 2.0), *acts, ("give up", 0.0), ("pass", LEASE + 3.0)]:
            site.act(what, amount)
        assert site.is_free


def test_it_runs_when_nothing_happens() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / lease_file.ANSWER).touch()
        site = Site(Machine(1.0, 5000.0), Machine(1.0, 70.0), run_dir)
        site.start_agent()
        site.act("pass", 1.0)
        assert site.is_running
        for _ in range(30):
            site.act("pass", 1.0)
            assert site.is_running

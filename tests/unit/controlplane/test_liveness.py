"""Hosts that are not heard: by the plan alone, in simulated fleets, and over a store with sessions that fall silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.sessions import HostSession
from controlplane.domain.hosts import HostAdminState, HostFacts, HostLinkState
from controlplane.domain.instances import DesiredState, Instance, InstanceState
from controlplane.domain.kinds import INSTANCE
from controlplane.liveness.loop import Liveness
from controlplane.liveness.plan import (
    DOWN_SECONDS,
    SESSION_SECONDS,
    Action,
    Ask,
    DropSession,
    Lose,
    Note,
    Reach,
    Round,
    SetLink,
    Sight,
    plan,
)
from controlplane.liveness.rounds import NeighbourQuestion, Rounds
from controlplane.liveness.terms import ROUND_SECONDS, LivenessTerms
from controlplane.services.host_losses import HostLosses
from moorage import neighbours
from moorage.errors import NotReady
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World

TERMS = LivenessTerms()
UP, AWAY, DOWN, NEW = (
    HostLinkState.UP,
    HostLinkState.DISCONNECTED,
    HostLinkState.DOWN,
    HostLinkState.CONNECTING,
)
BEGAN = 1000.0


def sight(
    name: str, silence: float | None = 0.0, *, now: float = BEGAN + 100, state: HostLinkState = UP, **more: object
) -> Sight:
    """A host that was heard so long ago; None: never by this control plane."""
    heard_at = None if silence is None else now - silence
    values: dict[str, object] = {"has_session": True, **more}
    return Sight(f"uid-{name}", f"hosts/{name}", state, heard_at, **values)  # type: ignore[arg-type]


def decide(
    sights: Sequence[Sight], rounds: Mapping[str, Round] | None = None, *, now: float = BEGAN + 100
) -> list[Action]:
    return list(plan(now, BEGAN, sights, rounds or {}, TERMS).actions)


def silent_round(*names: str, reach: Reach = Reach.SILENT, age: float = 1.0, now: float = BEGAN + 100) -> Round:
    return Round(now - age, tuple(f"hosts/{n}" for n in names), {f"hosts/{n}": reach for n in names})


OTHERS = [sight(name, 0.3) for name in "bcd"]


def test_all_is_well() -> None:
    found = plan(BEGAN + 100, BEGAN, [sight("a", 0.5), *OTHERS], {}, TERMS)
    assert found.actions == ()
    assert found.look_at == pytest.approx(BEGAN + 101)


def test_who_is_heard_again_is_up() -> None:
    for state in (AWAY, DOWN, NEW):
        assert decide([sight("a", 0.1, state=state)]) == [SetLink("uid-a", UP, "its agent is heard")]
    assert decide([sight("a", None, state=NEW, has_session=False)]) == [], "never seen, nothing to lose"


def test_silence_is_told_and_asked_about() -> None:
    link, ask = decide([sight("a", 2.0), *OTHERS])
    assert link == SetLink("uid-a", AWAY, "nothing was heard for 2 s")
    assert isinstance(ask, Ask)
    assert (ask.host_uid, sorted(ask.neighbours)) == ("uid-a", ["uid-b", "uid-c", "uid-d"])


def test_a_session_that_ended_is_told_at_once_and_asked_about_in_time() -> None:
    found = plan(BEGAN + 100, BEGAN, [sight("a", 0.5, has_session=False), *OTHERS], {}, TERMS)
    assert found.actions == (SetLink("uid-a", AWAY, "the session was lost"),)
    assert decide([sight("a", 1.9, state=AWAY, has_session=False), *OTHERS]) == []
    assert [type(a) for a in decide([sight("a", 2.0, state=AWAY, has_session=False), *OTHERS])] == [Ask]


def test_nobody_reaches_it() -> None:
    lost = sight("a", 3.0, state=AWAY, has_session=False)
    said = silent_round("b", "c", "d")
    (loss,) = decide([lost, *OTHERS], {"uid-a": said})
    assert isinstance(loss, Lose)
    assert loss.why == "not heard for 3 s, and none of 3 neighbours reached it"
    assert loss.evidence == ("hosts/b: no answer", "hosts/c: no answer", "hosts/d: no answer")
    (loss,) = decide([lost, *OTHERS], {"uid-a": silent_round("b", reach=Reach.REFUSED)})
    assert isinstance(loss, Lose)
    assert loss.evidence == ("hosts/b: the machine is there, its agent is not",)
    fresh = silent_round("b", "c", "d", age=0.85)
    assert decide([replace(lost, heard_at=BEGAN + 97.1), *OTHERS], {"uid-a": fresh}) == [], "not yet"
    assert decide([replace(lost, link_state=DOWN, is_lost=True), *OTHERS], {"uid-a": said}) == []


def test_one_that_reaches_it_is_enough() -> None:
    said = replace(silent_round("b", "c", "d"), answers={"hosts/b": Reach.SILENT, "hosts/c": Reach.ANSWERS})
    lost = sight("a", 8.0, state=AWAY, has_session=False)
    (note,) = decide([lost, *OTHERS], {"uid-a": said})
    assert isinstance(note, Note)
    assert note.why.startswith("hosts/c reached it: its agent lives")
    assert decide([replace(lost, link_message=note.why), *OTHERS], {"uid-a": said}) == []


def test_who_answered_long_ago_is_asked_again() -> None:
    lost = sight("a", 20.0, state=AWAY, has_session=False)
    for age, kinds in ((1.0, []), (2.5, [Ask]), (4.0, [Ask])):
        said = silent_round("b", "c", "d", age=age)
        found = decide([replace(lost, is_restarting=True), *OTHERS], {"uid-a": said})
        assert [type(a) for a in found] == kinds, age
    before_it_was_silent = silent_round("b", "c", "d", age=3.0)
    found = decide([sight("a", 4.0, state=AWAY, has_session=False), *OTHERS], {"uid-a": before_it_was_silent})
    assert [type(a) for a in found] == [Ask]


def test_half_of_those_that_were_asked_must_have_spoken() -> None:
    lost = sight("a", 3.5, state=AWAY, has_session=False)
    said = replace(silent_round("b", "c", "d"), answers={"hosts/b": Reach.SILENT})
    (note,) = decide([lost, *OTHERS], {"uid-a": said})
    assert isinstance(note, Note)
    assert "did not say" in note.why
    waiting = replace(said, asked_at=BEGAN + 100 - ROUND_SECONDS / 2)
    assert decide([lost, *OTHERS], {"uid-a": waiting}) == []


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([sight("a", 9.0, state=AWAY, has_session=False)], "there is no other host"),
        ([sight("a", 9.0, state=AWAY, has_session=False, can_be_asked=False), *OTHERS], "answers no neighbours"),
        ([sight(n, 9.0, state=AWAY, has_session=False) for n in "ab"] + OTHERS, "more than a third"),
        ([sight(n, None, state=DOWN, has_session=False) for n in "abc"], "more than a third"),
    ],
)
def test_nobody_can_tell(hosts: list[Sight], words: str) -> None:
    found = decide(hosts, {one.uid: silent_round("x", "y") for one in hosts})
    assert found
    assert all(isinstance(action, Note) and words in action.why for action in found)
    told = {action.host_uid: action.why for action in found if isinstance(action, Note)}
    assert decide([replace(one, link_message=told.get(one.uid, "")) for one in hosts]) == [], "told once"


def test_hosts_that_fall_silent_one_after_the_other_are_away_at_once() -> None:
    """A cut of our own cable is seen of each host at its next heartbeat, up to one period later."""
    now = BEGAN + 100
    first, later = sight("a", 3.0, state=AWAY), sight("b", 1.9)
    said = {"uid-a": silent_round("c", age=0.9)}
    assert [type(a) for a in decide([first, later, sight("c", 0.1)], said, now=now)] == []
    assert [type(a) for a in decide([first, sight("b", 0.9), sight("c", 0.1)], said, now=now)] == [Lose]


def test_lost_hosts_are_not_counted_again() -> None:
    gone = [sight(n, 1e4, state=DOWN, has_session=False, is_lost=True) for n in "xyz"]
    lost = sight("a", 3.5, state=AWAY, has_session=False)
    assert [type(a) for a in decide([lost, *OTHERS, *gone], {"uid-a": silent_round("b", "c")})] == [Lose]


def test_an_agent_that_said_that_it_ends_gets_its_time() -> None:
    said = {"uid-a": silent_round("b", "c", reach=Reach.REFUSED)}
    lost = sight("a", 29.0, state=AWAY, has_session=False, is_restarting=True)
    assert decide([lost, *OTHERS], said) == []
    assert [type(a) for a in decide([replace(lost, heard_at=BEGAN + 69), *OTHERS], said)] == [Lose]


def test_after_our_own_start_everybody_gets_time() -> None:
    lost = sight("a", None, state=AWAY, has_session=False)
    for after, kinds in ((5.0, []), (13.0, [Lose])):
        now = BEGAN + after
        others = [sight(n, 0.3, now=now) for n in "bcd"]
        assert [type(a) for a in decide([lost, *others], {"uid-a": silent_round("b", now=now)}, now=now)] == kinds


def test_long_absence() -> None:
    undecided = sight("a", DOWN_SECONDS + 1, state=AWAY, has_session=False, can_be_asked=False)
    link, *_ = decide([undecided, *OTHERS])
    assert link == SetLink("uid-a", DOWN, "away for 40 s")
    drop = decide([sight("a", SESSION_SECONDS + 1, state=AWAY), *OTHERS])[0]
    assert drop == DropSession("uid-a", "no heartbeat for 11 s")


def test_neighbours_are_of_both_kinds_and_different_for_each() -> None:
    zones = [sight(f"z{zone}h{n}", 0.1, zone=zone) for zone in "pq" for n in range(20)]
    asked = {}
    for name in ("one", "two"):
        ask = decide([sight(name, 2.0, zone="p", state=AWAY), *zones])[0]
        assert isinstance(ask, Ask)
        assert [uid.startswith("uid-zp") for uid in ask.neighbours] == [True] * 3 + [False] * 2
        asked[name] = ask.neighbours
    assert asked["one"] != asked["two"]


# Simulated fleets.


@dataclass
class Machine:
    """What is true of one host."""

    name: str
    phase: float
    dies_at: float | None = None  # its agent ends, and its session with it
    cut_at: float | None = None  # from us and from every other host
    link_cut_at: float | None = None  # from us alone

    def is_alive(self, now: float) -> bool:
        return self.dies_at is None or now < self.dies_at

    def reaches_us(self, now: float) -> bool:
        times = [t for t in (self.cut_at, self.link_cut_at) if t is not None]
        return self.is_alive(now) and all(now < t for t in times)


@dataclass
class Sky:
    """A fleet over time: heartbeats come, rounds are answered, and what is decided is carried out."""

    machines: list[Machine]
    step: float = 0.05
    most: int | None = None  # actions that are carried out of a plan; then we are stopped, and look anew
    now: float = BEGAN
    heard: dict[str, float] = field(default_factory=dict)
    states: dict[str, HostLinkState] = field(default_factory=dict)
    lost_at: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, Round] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    pending: list[tuple[float, str, str, Reach]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        look_at = 0.0
        end = self.now + seconds
        for machine in self.machines:
            self.heard.setdefault(machine.name, self.now)
        while self.now < end:
            self.now += self.step
            for machine in self.machines:
                is_due = (self.now - machine.phase) % 1.0 < self.step
                if is_due and machine.reaches_us(self.now):
                    self.heard[machine.name] = self.now
                    self.dropped.discard(machine.name)
            for due, host, neighbour, reach in [one for one in self.pending if one[0] <= self.now]:
                self.pending.remove((due, host, neighbour, reach))
                known = self.rounds[host]
                self.rounds[host] = replace(known, answers={**known.answers, neighbour: reach})
                look_at = self.now
            if any(
                not m.is_alive(self.now) and m.dies_at is not None and self.now - m.dies_at < self.step
                for m in self.machines
            ):
                look_at = self.now  # a session that ends wakes the loop
            if self.now >= look_at:
                look_at = self.look()

    def look(self) -> float:
        sights = [
            Sight(
                m.name,
                m.name,
                self.states.get(m.name, UP),
                self.heard[m.name],
                (m.is_alive(self.now) or m.cut_at is not None) and m.name not in self.dropped,
                is_lost=m.name in self.lost_at,
                link_message=self.notes.get(m.name, ""),
            )
            for m in self.machines
        ]
        decided = plan(self.now, BEGAN, sights, self.rounds, TERMS)
        assert decided == plan(self.now, BEGAN, list(reversed(sights)), dict(self.rounds), TERMS), (
            "same input, same output"
        )
        assert decided.look_at > self.now
        for action in decided.actions[: self.most]:
            match action:
                case SetLink(uid, state, _):
                    self.states[uid] = state
                case Note(uid, why):
                    self.notes[uid] = why
                case DropSession(uid):
                    self.dropped.add(uid)
                case Lose(uid):
                    assert uid not in self.lost_at
                    self.lost_at[uid] = self.now
                    self.states[uid] = DOWN
                case Ask(uid, neighbours_):
                    self.ask(uid, neighbours_)
        return decided.look_at if self.most is None else self.now

    def ask(self, uid: str, asked: tuple[str, ...]) -> None:
        target = next(m for m in self.machines if m.name == uid)
        self.rounds[uid] = Round(self.now, asked)
        self.pending = [one for one in self.pending if one[1] != uid]
        for name in asked:
            neighbour = next(m for m in self.machines if m.name == name)
            if not neighbour.reaches_us(self.now):
                continue
            is_reached = target.cut_at is None or self.now < target.cut_at
            reach = Reach.SILENT if not is_reached else Reach.ANSWERS if target.is_alive(self.now) else Reach.REFUSED
            self.pending.append((self.now + (0.6 if reach is Reach.SILENT else 0.05), uid, name, reach))


_times = st.none() | st.floats(BEGAN + 3, BEGAN + 12)


@st.composite
def _machines(draw: st.DrawFn) -> list[Machine]:
    count = draw(st.integers(1, 7))
    return [
        Machine(f"h{n}", draw(st.floats(0, 0.99)), draw(_times), draw(_times), draw(_times))
        if draw(st.booleans())
        else Machine(f"h{n}", draw(st.floats(0, 0.99)))
        for n in range(count)
    ]


@given(_machines(), st.none() | st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_host_is_given_up_that_somebody_reaches(machines: list[Machine], most: int | None) -> None:
    sky = Sky(machines, most=most)
    sky.run(20)
    for machine in machines:
        lost_at = sky.lost_at.get(machine.name)
        if lost_at is None:
            continue
        assert any(t is not None and t < lost_at for t in (machine.dies_at, machine.cut_at)), "others reach it"
        times = [t for t in (machine.dies_at, machine.cut_at, machine.link_cut_at) if t is not None]
        assert lost_at > min(times) + TERMS.lost_after_seconds - 1.0 - 2 * sky.step
    assert all(m.name not in sky.lost_at for m in machines if m.dies_at is None and m.cut_at is None)


@given(_machines(), st.floats(BEGAN + 3, BEGAN + 12))
@settings(max_examples=40, deadline=None)
def test_our_own_cable(machines: list[Machine], at: float) -> None:
    """When nobody can be heard nobody is given up, whatever else happens from then on."""
    for machine in machines:
        machine.link_cut_at = at
        machine.dies_at = machine.cut_at = None
    sky = Sky(machines)
    sky.run(20)
    assert sky.lost_at == {}


@pytest.mark.parametrize(("kind", "within"), [("dies_at", 3.0), ("cut_at", 3.2)])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("most", [None, 1])
def test_how_soon_a_loss_is_decided(kind: str, within: float, phase: float, most: int | None) -> None:
    at = BEGAN + 5.5
    machines = [Machine(f"h{n}", n / 3) for n in range(3)]
    machines[0] = Machine("h0", phase, **{kind: at})
    sky = Sky(machines, most=most)
    sky.run(15)
    assert list(sky.lost_at) == ["h0"]
    assert sky.lost_at["h0"] - at <= within + 2 * sky.step


# Over a store.


class Watch:
    """The loop over a world's store, with sessions that are opened by hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dispatcher = Dispatcher(world.store, world.clock)
        self.losses = HostLosses(world.context, world.making)
        self.rounds = Rounds(self.dispatcher, world.clock)
        self.liveness = Liveness(world.store, world.clock, self.dispatcher, world.reports, self.losses, self.rounds)
        self.sessions: dict[str, HostSession] = {}

    async def host(self, name: str) -> None:
        facts = HostFacts(underlay_address="192.0.2.1", neighbour_port=7461)
        await self.world.host(name, nonce=f"nonce-{name}", facts=facts)
        self.sessions[name] = self.dispatcher.open(f"uid-{name}", 1)

    async def after(self, seconds: float, *heard: str) -> None:
        """Time passes; some hosts are heard all the while."""
        for _ in range(round(seconds * 10)):
            self.world.clock.advance(0.1)
            for name in heard:
                self.sessions[name].last_heard = self.world.clock.monotonic()
            await self.liveness.look_once()

    def answer(self, name: str, reach: Reach, *, key: str = "") -> int:
        """What a host says to all that it was asked."""
        requests = self.sessions[name].requests
        count = len(requests)
        while requests:
            question = requests.popleft()
            assert isinstance(question, NeighbourQuestion)
            datagram = neighbours.answer(key, question.datagram) or b"nothing of ours"
            self.rounds.take(f"uid-{name}", question.question_id, reach, datagram)
        return count


@pytest.fixture
async def watch(world: World) -> Watch:
    found = Watch(world)
    for name in ("a", "b", "c"):
        await found.host(name)
    await found.liveness.look_once()
    return found


async def owned(
    world: World, name: str, owner: str = f"projects/{P}/groups/web", host: str = "a", **fields: object
) -> Instance:
    await world.create(name)
    placed = await world.place(name, host)

    def write(tx: Transaction) -> Instance:
        changed = replace(placed, owner=owner, **fields)  # type: ignore[arg-type]
        tx.put(INSTANCE, changed)
        return changed

    return await world.store.update(write)


async def test_a_host_is_lost_with_what_others_replace(watch: Watch, world: World) -> None:
    await owned(world, "member")
    await owned(world, "going", desired=DesiredState.DELETED)
    await owned(world, "mine", owner="")
    await owned(world, "elsewhere", host="b")
    stays = await owned(world, "stays")
    world_survivor = replace(stays, effective=replace(stays.effective, survives_isolation=True))
    await world.store.update(lambda tx: tx.put(INSTANCE, world_survivor))
    before = world.get("member")
    await watch.after(2.0, "b", "c")
    assert world.hosts.get("a").link_state is AWAY
    assert (watch.answer("b", Reach.SILENT), watch.answer("c", Reach.REFUSED)) == (1, 1)
    await watch.after(1.0, "b", "c")
    host = world.hosts.get("a")
    assert host.link_state is DOWN
    assert host.loss is not None
    assert host.loss.evidence == ("hosts/b: no answer", "hosts/c: the machine is there, its agent is not")
    assert watch.sessions["a"].is_closed
    lost = world.get("member")
    assert (lost.desired, lost.force, lost.generation) == (DesiredState.DELETED, True, before.generation + 1)
    assert "hosts/a is lost: not heard for 3 s" in lost.given_up
    assert world.get("going").given_up
    assert [world.get(n).given_up for n in ("mine", "elsewhere", "stays")] == ["", "", ""]
    assert world.get("mine").desired is DesiredState.RUNNING
    world.audit()
    assert world.reasons()[-4:] == ["DISCONNECTED", "LOST", "LOST", "LOST"]

    revision = world.store.view().revision
    await watch.after(3.0, "b", "c")
    assert world.store.view().revision == revision, "nothing more to do"

    # It is back: what was given up is still to be removed, and its addresses are kept until then.
    await world.reports.connect("uid-a", host.facts, "nonce-a", 2)
    host = world.hosts.get("a")
    assert (host.link_state, host.loss) == (UP, None)
    await world.report(lost, InstanceState.RUNNING, epoch=2)
    assert world.get("member").given_up
    await world.report(lost, InstanceState.DELETED, epoch=2, sequence=2)
    assert "member" not in [found.value.id for found in world.store.view().all(INSTANCE)]
    world.audit()


async def test_a_neighbour_reaches_it(watch: Watch, world: World) -> None:
    await owned(world, "member")
    await watch.after(2.0, "b", "c")
    watch.answer("b", Reach.SILENT)
    watch.answer("c", Reach.ANSWERS, key="nonce-a")
    await watch.after(1.5, "b", "c")
    host = world.hosts.get("a")
    assert host.loss is None
    assert host.link_message.startswith("hosts/c reached it")
    assert not world.get("member").given_up
    await watch.after(0.1, "a", "b", "c")
    host = world.hosts.get("a")
    assert (host.link_state, host.link_message) == (UP, "")


async def test_somebody_else_answers_at_its_address(watch: Watch, world: World) -> None:
    await watch.after(2.0, "b", "c")
    watch.answer("b", Reach.ANSWERS, key="nonce-of-another")
    watch.answer("c", Reach.SILENT)
    await watch.after(1.0, "b", "c")
    assert world.hosts.get("a").loss is not None


async def test_a_session_that_ends(watch: Watch, world: World) -> None:
    watch.dispatcher.closed(watch.sessions["a"])
    await watch.after(0.1, "b", "c")
    assert world.hosts.get("a").link_state is AWAY
    await watch.after(1.9, "b", "c")
    watch.answer("b", Reach.REFUSED)
    watch.answer("c", Reach.REFUSED)
    await watch.after(1.0, "b", "c")
    assert world.hosts.get("a").loss is not None


async def test_a_farewell(watch: Watch, world: World) -> None:
    watch.sessions["a"].is_farewell = True
    watch.dispatcher.closed(watch.sessions["a"])
    for _ in range(12):
        await watch.after(1.0, "b", "c")
        watch.answer("b", Reach.REFUSED)
        watch.answer("c", Reach.REFUSED)
    assert world.hosts.get("a").loss is None


async def test_after_a_restart_of_ours_nothing_is_given_up(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.host(name)
    await owned(world, "member")
    watch = Watch(world)
    world.clock.advance(1e6)
    await watch.after(60)
    for name in ("a", "b", "c"):
        host = world.hosts.get(name)
        assert (host.link_state, host.loss) == (DOWN, None)
        assert "more than a third of the fleet" in host.link_message
    assert not world.get("member").given_up


async def test_an_operators_word(watch: Watch, world: World) -> None:
    member = await owned(world, "member")
    keeper = replace(member.effective, survives_isolation=True)
    await world.store.update(lambda tx: tx.put(INSTANCE, replace(member, effective=keeper)))
    with pytest.raises(NotReady, match="is connected") as refused:
        await watch.losses.declare("a")
    assert refused.value.reason == "HOST_CONNECTED"
    await watch.after(3.5, "b")
    assert world.hosts.get("a").loss is None
    checked = await watch.losses.declare("a", validate_only=True)
    assert (checked.loss, world.hosts.get("a").loss) == (None, None)
    await watch.losses.declare("a")
    host = world.hosts.get("a")
    assert host.loss is not None
    assert (host.link_state, host.loss.message, host.loss.evidence) == (DOWN, "an operator said so", ())
    assert host.admin_state is HostAdminState.ENABLED
    assert world.get("member").given_up == "hosts/a is lost: an operator said so"
    generation = world.get("member").generation
    await watch.losses.declare("a")
    assert world.get("member").generation == generation
    assert world.reasons().count("LOST") == 2
    world.audit()

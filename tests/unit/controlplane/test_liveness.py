"""The link axis of a host's state: by the plan alone, and over a store with sessions that fall silent."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.domain.hosts import HostLinkState
from controlplane.liveness.loop import DOWN_AFTER_SECONDS, HEARTBEAT_TIMEOUT_SECONDS, Liveness
from controlplane.liveness.plan import Action, DropSession, SetLink, plan
from moorage.clock import ManualClock
from tests.support.controlplane import make_host
from tests.unit.controlplane.world import World

_NOW = ManualClock().now()


def decide(
    state: HostLinkState, *, silent: float | None = None, away: float | None = None
) -> list[tuple[str, HostLinkState | None]]:
    """What becomes of one host."""
    host = make_host("h", _NOW, link_state=state)
    actions: list[Action] = plan(
        [host],
        {} if silent is None else {host.uid: silent},
        {} if away is None else {host.uid: away},
        heartbeat_timeout_seconds=10,
        down_after_seconds=40,
    )
    return [(type(a).__name__, a.state if isinstance(a, SetLink) else None) for a in actions]


def test_an_open_session() -> None:
    assert decide(HostLinkState.UP, silent=10) == []
    assert decide(HostLinkState.UP, silent=10.1) == [("DropSession", None)]
    assert decide(HostLinkState.DOWN, silent=11) == [("DropSession", None)]


def test_an_open_session_means_up() -> None:
    """The end of the session before may be written after the begin of this one; nothing else would put that right."""
    for state in (HostLinkState.DISCONNECTED, HostLinkState.DOWN, HostLinkState.CONNECTING):
        assert decide(state, silent=1) == [("SetLink", HostLinkState.UP)]


def test_no_session() -> None:
    assert decide(HostLinkState.CONNECTING, away=1e6) == [], "never seen, nothing to lose"
    assert decide(HostLinkState.UP, away=0) == [("SetLink", HostLinkState.DISCONNECTED)]
    assert decide(HostLinkState.DISCONNECTED, away=40) == []
    assert decide(HostLinkState.DISCONNECTED, away=40.1) == [("SetLink", HostLinkState.DOWN)]
    assert decide(HostLinkState.DOWN, away=1e6) == []


@given(
    st.lists(st.tuples(st.sampled_from(HostLinkState), st.none() | st.floats(0, 100), st.floats(0, 100)), max_size=5)
)
@settings(max_examples=40, deadline=None)
def test_a_plan_that_is_carried_out_asks_for_nothing_more(
    cases: list[tuple[HostLinkState, float | None, float]],
) -> None:
    hosts = [make_host(f"h{n}", _NOW, link_state=state) for n, (state, _, _) in enumerate(cases)]
    silent = {h.uid: s for h, (_, s, _) in zip(hosts, cases, strict=True) if s is not None}
    away = {h.uid: a for h, (_, s, a) in zip(hosts, cases, strict=True) if s is None}

    def decide_all() -> list[Action]:
        return plan(hosts, silent, away, heartbeat_timeout_seconds=10, down_after_seconds=40)

    for _ in range(3):
        for action in decide_all():
            if isinstance(action, SetLink):
                row = next(n for n, h in enumerate(hosts) if h.uid == action.host_uid)
                hosts[row] = make_host(hosts[row].id, _NOW, link_state=action.state)
    assert all(isinstance(action, DropSession) for action in decide_all())


async def test_over_time(world: World) -> None:
    host = await world.host("h")
    dispatcher = Dispatcher(world.store, world.clock)
    liveness = Liveness(world.store, world.clock, dispatcher, world.reports)
    session = dispatcher.open(host.uid, 1)
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.UP
    world.clock.advance(HEARTBEAT_TIMEOUT_SECONDS + 1)
    await liveness.look_once()
    assert session.is_closed
    assert "no heartbeat for 11 s" in session.close_reason
    dispatcher.closed(session)
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.DISCONNECTED
    world.clock.advance(DOWN_AFTER_SECONDS - 1)
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.DISCONNECTED
    world.clock.advance(2)
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.DOWN
    await world.reports.connect(host.uid, host.facts, "n", 2)
    again = dispatcher.open(host.uid, 2)
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.UP
    await world.reports.set_link(host.uid, HostLinkState.DISCONNECTED, "the late end of the first session")
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.UP
    dispatcher.closed(again)
    assert world.reasons() == ["DISCONNECTED", "DOWN", "UP", "DISCONNECTED", "UP"]


async def test_a_restart_gives_everybody_time(world: World) -> None:
    """Hosts that were up when we went down are asked again before they are called away."""
    await world.host("h")
    liveness = Liveness(world.store, world.clock, Dispatcher(world.store, world.clock), world.reports)
    world.clock.advance(1e6)
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.DISCONNECTED
    await liveness.look_once()
    assert world.hosts.get("h").link_state is HostLinkState.DISCONNECTED

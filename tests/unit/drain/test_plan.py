"""What is done about a host that is being emptied, whatever it has."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.hosts import Host, HostAdminState, HostDrain, drain_why
from controlplane.domain.instances import DesiredState, InstanceState, Observed
from controlplane.domain.routers import is_router
from controlplane.drain.plan import Action, Carried, Evict, Finish, Send, Tell, plan
from tests.support.controlplane import make_host
from tests.unit.routers import scenes as s

OWNERS = ("", "", *(f"projects/p/{kind}/x" for kind in ("groups", "groups", "routers", "jobs")))
STATES = (InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.ASSIGNED)

drains = st.builds(
    lambda deadline, force, delete: HostDrain(
        s.NOW, None if deadline is None else s.NOW + timedelta(seconds=deadline), force, delete
    ),
    st.sampled_from([None, 5.0]),
    st.booleans(),
    st.booleans(),
)
carried = st.builds(
    lambda owner, desired, leaves, state, evict, must_stay: Carried(
        replace(
            s.instance("i"),
            owner=owner,
            desired=desired,
            leave_time=s.NOW if leaves else None,
            observed=Observed(state),
            evict=evict,
        ),
        must_stay,
    ),
    st.sampled_from(OWNERS),
    st.sampled_from([*[DesiredState.RUNNING] * 3, DesiredState.STOPPED, DesiredState.DELETED]),
    st.integers(0, 4).map(lambda n: n == 0),
    st.sampled_from(STATES),
    st.sampled_from(["", "", "it shall have version 2 of projects/p/secrets/s"]),
    st.sampled_from(["", "", "its files are here"]),
)
loads = st.lists(carried, max_size=8).map(
    lambda found: [
        replace(one, instance=replace(one.instance, uid=f"u{n}", id=f"i{n}", evict=_evict(one)))
        for n, one in enumerate(found)
    ]
)
states = st.sampled_from([*[HostAdminState.DRAINING] * 5, *HostAdminState])


def _evict(one: Carried) -> str:
    """Secrets that are rotated mark members of groups alone."""
    return one.instance.evict if "/groups/" in one.instance.owner else ""


def draining(drain: HostDrain, state: HostAdminState = HostAdminState.DRAINING) -> Host:
    return replace(make_host("a", s.NOW), admin_state=state, drain=drain)


def apply(host: Host, load: list[Carried], actions: list[Action]) -> tuple[Host, list[Carried]]:
    for action in actions:
        match action:
            case Evict(uid, why):
                load = [change(one, evict=why) if one.instance.uid == uid else one for one in load]
            case Send(uid, _):
                load = [change(one, leave_time=s.NOW) if one.instance.uid == uid else one for one in load]
            case Tell(drain, _):
                host = replace(host, drain=drain)
            case Finish():
                host = replace(host, admin_state=HostAdminState.MAINTENANCE)
    return host, load


def change(one: Carried, **fields: object) -> Carried:
    return replace(one, instance=replace(one.instance, **fields))  # type: ignore[arg-type]


def settle(host: Host, load: list[Carried], seconds: float) -> tuple[Host, list[Carried]]:
    """Look until nothing is to be done."""
    now = s.NOW + timedelta(seconds=seconds)
    for _ in range(4):
        actions = plan(host, load, now)
        if not actions:
            return host, load
        host, load = apply(host, load, actions)
    raise AssertionError("it does not come to rest")


@given(drains, states, loads, st.sampled_from([0.0, 9.0]), st.integers(0, 9))
def test_it_comes_to_rest_wherever_it_was_cut_off(
    drain: HostDrain, state: HostAdminState, load: list[Carried], seconds: float, cut: int
) -> None:
    host = draining(drain, state)
    actions = plan(host, load, s.NOW + timedelta(seconds=seconds))
    assert actions == plan(host, list(reversed(load)), s.NOW + timedelta(seconds=seconds)), "in whatever order"
    if state is not HostAdminState.DRAINING:
        assert actions == []
    assert settle(*apply(host, load, actions[:cut]), seconds) == settle(host, load, seconds)


@given(drains, loads, st.sampled_from([0.0, 9.0]))
def test_nobody_goes_who_was_not_to_go(drain: HostDrain, load: list[Carried], seconds: float) -> None:
    host = draining(drain)
    is_late = drain.deadline_time is not None and seconds > 5.0
    by_uid = {one.instance.uid: one for one in load}
    actions = plan(host, load, s.NOW + timedelta(seconds=seconds))
    assert any(isinstance(action, Finish) for action in actions) == (not load)
    for action in actions:
        if isinstance(action, Evict):
            one = by_uid[action.instance_uid]
            assert not one.must_stay
            assert "/groups/" in one.instance.owner or is_router(one.instance)
            assert not one.instance.evict
        if isinstance(action, Send):
            found = by_uid[action.instance_uid].instance
            is_over = "/jobs/" in found.owner and found.observed.state is InstanceState.STOPPED
            word = drain.force if found.owner else drain.delete_unmanaged
            assert is_over or (is_late and word)
            assert found.leave_time is None
            assert found.desired is not DesiredState.DELETED


def own(last: str, **fields: object) -> Carried:
    return change(Carried(s.instance(last)), **fields)


def test_what_waits_for_people_is_told_first() -> None:
    crowd = [own(f"a{n:03d}", owner="projects/p/groups/g", evict="x") for n in range(60)]
    load: list[Carried] = [*crowd, own("mine"), replace(own("sticks", owner=crowd[0].instance.owner), must_stay="here")]
    host, _ = settle(draining(HostDrain(s.NOW)), load, 0.0)
    assert host.drain is not None
    assert host.drain.left == 62
    told = [(wait.instance.rpartition("/")[2], wait.reason) for wait in host.drain.waits]
    assert told[:3] == [("mine", "UNMANAGED"), ("sticks", "MUST_STAY"), ("a000", "MOVING")]
    assert len(told) == 50


def test_who_has_come_instead_is_told_of() -> None:
    member = own("w", owner="projects/p/groups/g", evict=drain_why(make_host("a", s.NOW)))
    waiting = replace(member, trouble="projects/p/instances/w2 has no host: less memory")
    host, _ = settle(draining(HostDrain(s.NOW)), [waiting], 0.0)
    assert host.drain is not None
    assert host.drain.waits[0].message.endswith("elsewhere: projects/p/instances/w2 has no host: less memory")


def test_a_deadline_that_leaves_nobody_behind_is_no_warning() -> None:
    at_once = HostDrain(s.NOW, s.NOW, force=True, delete_unmanaged=True)
    host, _ = settle(draining(at_once), [own("mine"), own("w", owner="projects/p/groups/g")], 0.0)
    assert host.drain is not None
    assert not host.drain.overdue
    host, _ = settle(draining(replace(at_once, delete_unmanaged=False)), [own("mine")], 0.0)
    assert host.drain is not None
    assert host.drain.overdue

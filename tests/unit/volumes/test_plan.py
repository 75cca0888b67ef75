"""What becomes of a volume: nothing when all is well, nothing that could not be taken back while somebody may have its files."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.claims import has_let_go
from controlplane.domain.hosts import Host, HostLinkState, HostLoss
from controlplane.domain.instances import Claim, Instance
from controlplane.domain.volumes import HostLossPolicy, Volume, VolumeCopy, VolumeRemoval, VolumeSpec, with_defaults
from controlplane.volumes.plan import AskRemoval, Find, Forget, Lose, RemoveFiles, Scene, StartAnew, plan
from tests.unit.scheduler.values import NOW, host, instance

WAIT, REPLACE, FAIL = HostLossPolicy.WAIT, HostLossPolicy.REPLACE, HostLossPolicy.FAIL
UP, DOWN = HostLinkState.UP, HostLinkState.DOWN
LOSS = HostLoss(NOW)


def volume(policy: HostLossPolicy = WAIT, on: str = "h1", **fields: Any) -> Volume:
    spec = with_defaults(VolumeSpec(on_host_loss=policy, removal=fields.pop("removal", VolumeRemoval.UNSPECIFIED)))
    return Volume("v", "p", "data", NOW, spec, host_uid=f"uid-{on}" if on else "", host=on, **fields)


def scene(of: Volume, *users: Instance, hosts: dict[str, HostLinkState] | None = None, **fields: Any) -> Scene:
    states = {"h1": UP, "h2": UP} if hosts is None else hosts
    known: dict[str, Host] = {
        f"uid-{name}": host(name, link_state=state, loss=LOSS if state is DOWN else None)
        for name, state in states.items()
    }
    return Scene(of, users, known, **fields)


def test_a_volume_that_is_well_is_left_alone() -> None:
    for one in (volume(), volume(on=""), volume(REPLACE)):
        assert plan(scene(one, instance("i", on="h1"))) == []
        assert plan(scene(one)) == []


def test_its_instance_waits_for_the_host() -> None:
    assert plan(scene(volume(WAIT), instance("i"), hosts={"h1": DOWN})) == []


def test_it_begins_anew_only_when_it_is_needed_and_let_go() -> None:
    away = {"h1": DOWN}
    lost = instance("old", on="h1", given_up="its host is lost")
    claiming = replace(lost, claims=(Claim.VOLUME,))
    assert plan(scene(volume(REPLACE), hosts=away)) == []
    assert plan(scene(volume(REPLACE), lost, hosts=away)) == []
    assert plan(scene(volume(REPLACE), instance("old", on="h1"), instance("new"), hosts=away)) == []
    assert plan(scene(volume(REPLACE), claiming, instance("new"), hosts=away)) == []
    (action,) = plan(scene(volume(REPLACE), replace(claiming, is_claim_free=True), instance("new"), hosts=away))
    assert isinstance(action, StartAnew)
    assert action.left_behind == (VolumeCopy("uid-h1", "h1", 1),)
    assert "is given up" in action.why
    (action,) = plan(scene(volume(REPLACE), instance("new"), hosts={}))
    assert isinstance(action, StartAnew)
    assert action.left_behind == ()


def test_it_is_lost_and_found() -> None:
    needed = instance("new")
    (action,) = plan(scene(volume(FAIL), needed, hosts={"h1": DOWN}))
    assert isinstance(action, Lose)
    lost = volume(FAIL, lost=action.why)
    assert plan(scene(lost, needed, hosts={"h1": DOWN})) == []
    assert [type(a) for a in plan(scene(lost, needed))] == [Find]
    (action,) = plan(scene(volume(WAIT), hosts={}))
    assert isinstance(action, Lose)
    assert "was removed" in action.why


def test_its_files_are_removed_where_they_are_and_then_it_is_forgotten() -> None:
    going = volume(is_deleting=True, incarnation=2, copies=(VolumeCopy("uid-h2", "h2", 1),))
    assert [a.copy for a in plan(scene(going)) if isinstance(a, RemoveFiles)] == [
        VolumeCopy("uid-h2", "h2", 1),
        VolumeCopy("uid-h1", "h1", 2),
    ]
    assert [a.copy.host for a in plan(scene(going, hosts={"h1": DOWN, "h2": UP})) if isinstance(a, RemoveFiles)] == [
        "h2"
    ]
    assert [type(a) for a in plan(scene(going, hosts={}))] == [Forget]
    assert [type(a) for a in plan(scene(volume(on="", is_deleting=True)))] == [Forget]


def test_what_is_kept_keeps_its_files() -> None:
    assert plan(scene(volume(is_deleting=True, purge_time=NOW))) == []
    assert plan(scene(volume(on="", is_deleting=True, purge_time=NOW))) == []


def test_it_goes_with_its_owner_if_it_shall() -> None:
    owned = volume(owner="projects/p/groups/g", removal=VolumeRemoval.WITH_OWNER)
    assert plan(scene(owned)) == []
    assert [type(a) for a in plan(scene(owned, is_owner_gone=True))] == [AskRemoval]
    assert plan(scene(owned, instance("i", on="h1"), is_owner_gone=True)) == []
    assert plan(scene(volume(owner=owned.owner), is_owner_gone=True)) == []


def _after(before: Scene, action: Any) -> Scene:
    """What the loop and the hosts make of an action."""
    of = before.volume
    match action:
        case AskRemoval():
            of = replace(of, is_deleting=True)
        case RemoveFiles(copy=copy):
            is_newest = (of.host_uid, of.incarnation) == (copy.host_uid, copy.incarnation)
            copies = tuple(one for one in of.copies if one != copy)
            of = replace(of, copies=copies, host_uid="" if is_newest else of.host_uid)
        case StartAnew(left_behind=left):
            of = replace(of, host_uid="", host="", incarnation=of.incarnation + 1, copies=(*of.copies, *left), lost="")
        case Lose(why=why):
            of = replace(of, lost=why)
        case Find():
            of = replace(of, lost="")
    return replace(before, volume=of)


_users = st.lists(
    st.builds(
        lambda name, on, given_up, claims, free: instance(
            name, on=on, given_up=given_up if on else "", claims=claims, is_claim_free=bool(given_up) and free
        ),
        st.sampled_from("abc"),
        st.sampled_from(["", "h1"]),
        st.sampled_from(["", "lost"]),
        st.sampled_from([(), (Claim.VOLUME,)]),
        st.booleans(),
    ),
    max_size=3,
)
_volumes = st.builds(
    volume,
    st.sampled_from([WAIT, REPLACE, FAIL]),
    st.sampled_from(["", "h1"]),
    is_deleting=st.booleans(),
    lost=st.sampled_from(["", "gone"]),
    copies=st.sampled_from([(), (VolumeCopy("uid-h2", "h2", 0),)]),
    owner=st.sampled_from(["", "projects/p/groups/g"]),
    removal=st.sampled_from([VolumeRemoval.RETAIN, VolumeRemoval.WITH_OWNER]),
)
_hosts = st.dictionaries(st.sampled_from(["h1", "h2"]), st.sampled_from(list(HostLinkState)))


@given(_volumes, _users, _hosts, st.booleans())
def test_it_comes_to_an_end_and_never_parts_somebody_from_his_files(
    of: Volume, users: list[Instance], hosts: dict[str, HostLinkState], is_owner_gone: bool
) -> None:
    now = scene(of, *users, hosts=hosts, is_owner_gone=is_owner_gone)
    assert plan(now) == plan(now)
    for _ in range(8):
        actions = plan(now)
        if not actions or isinstance(actions[0], Forget):
            break
        if isinstance(actions[0], StartAnew):
            assert all(has_let_go(user) for user in users if user.host_uid)
            assert now.hosts.get("uid-h1") is None or now.hosts["uid-h1"].loss is not None
        now = _after(now, actions[0])  # stopped after any prefix, and planned again
    else:
        raise AssertionError(f"never at rest: {plan(now)}")
    for action in plan(now):
        assert isinstance(action, Forget)
        assert not {copy.host_uid for copy in now.volume.copies} & now.hosts.keys()

"""The brake: how much one sweep may remove, and when it may remove nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.domain import ContainerObservation, ContainerPhase
from hostagent.journal.state import LinkState
from hostagent.worker.sweep import allowance, decide, quarantine
from moorage.ids import ContainerId, InstanceId

WELL, WENT_BACK = LinkState(), LinkState(went_back="the store went back")


def ids(count: int) -> list[InstanceId]:
    return [InstanceId(f"i{number:03}") for number in range(count)]


@pytest.mark.parametrize(("carried", "allowed"), [(1, 1), (9, 1), (19, 1), (20, 2), (100, 10)])
def test_a_tenth_is_allowed_and_always_one(carried: int, allowed: int) -> None:
    assert allowance(carried) == allowed
    assert decide(ids(allowed), carried, WELL, is_released=False).remove == tuple(ids(allowed))
    if carried > allowed:
        held = decide(ids(allowed + 1), carried, WELL, is_released=False)
        assert held.remove == ()
        assert held.brake


@given(st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_never_more_than_a_tenth_and_nothing_after_the_store_went_back(orphans: int, rest: int, is_back: bool) -> None:
    link = WENT_BACK if is_back else WELL
    decision = decide(ids(orphans), orphans + rest, link, is_released=False)
    assert len(decision.remove) <= max(1, (orphans + rest) // 10)
    assert not (is_back and decision.remove)
    assert bool(decision.brake) == (len(decision.remove) < orphans)


def test_an_operators_word_releases_everything() -> None:
    assert decide(ids(40), 40, WENT_BACK, is_released=True).remove == tuple(ids(40))


def test_nothing_to_remove_is_no_reason_for_a_brake() -> None:
    assert decide([], 5, WENT_BACK, is_released=False).brake == ""


def container(name: str, instance: str) -> ContainerObservation:
    labels = {"moorage.instance": instance}
    return ContainerObservation(ContainerId(name), name, labels, ContainerPhase.RUNNING)


def test_what_is_not_known_is_shown_with_its_reason() -> None:
    items = quarantine(
        known={InstanceId("a"), InstanceId("held")},
        held={InstanceId("held")},
        ours=[container("c1", "a"), container("c2", "held"), container("c3", "stranger")],
        foreign=[container("c4", "a")],
        namespaces=[InstanceId("a"), InstanceId("ghost")],
        strays=["mbx"],
    )
    assert [(item.kind, item.id) for item in items] == [
        ("container", "c2"),
        ("container", "c3"),
        ("container", "c4"),
        ("link", "mbx"),
        ("namespace", "ghost"),
    ]
    assert all(item.why for item in items)

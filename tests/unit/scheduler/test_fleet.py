"""Columns kept true by changes are the columns that would be built anew, whatever the history."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.placed import placed_of
from controlplane.scheduler.plan import plan
from controlplane.scheduler.request import request_of
from tests.unit.scheduler.values import NOW, any_host, any_instance, host, instance

_NAMES = ("h0", "h1", "h2", "h3")
_COLUMNS = (
    "cpu_total",
    "memory_total",
    "is_up",
    "admin",
    "is_healthy",
    "cpu_used",
    "memory_used",
    "instances",
)


class Histories(RuleBasedStateMachine):
    """Hosts and instances come, change and go; instances may name hosts that are not there (yet)."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, Host] = {}
        self.instances: dict[str, Instance] = {}
        self.fleet = Fleet((), ())

    @rule(name=st.sampled_from(_NAMES), data=st.data())
    def put_host(self, name: str, data: st.DataObject) -> None:
        before, after = self.hosts.get(name), data.draw(any_host(name))
        self.hosts[name] = after
        self.fleet.update_host(before, after)

    @rule(name=st.sampled_from(_NAMES))
    def drop_host(self, name: str) -> None:
        before = self.hosts.pop(name, None)
        if before is not None:
            self.fleet.update_host(before, None)

    @rule(name=st.sampled_from(_NAMES), data=st.data())
    def replace_machine(self, name: str, data: st.DataObject) -> None:
        """Another host of the same name."""
        before = self.hosts.pop(name, None)
        after = replace(data.draw(any_host(name)), uid=f"other-{name}")
        self.hosts[name] = after
        self.fleet.update_host(before, after)

    @rule(uid=st.sampled_from(["a", "b", "c", "d", "e"]), data=st.data())
    def put_instance(self, uid: str, data: st.DataObject) -> None:
        before, after = self.instances.get(uid), data.draw(any_instance(uid, ("", *_NAMES)))
        self.instances[uid] = after
        self.fleet.update_instance(before, after)

    @rule(uid=st.sampled_from(["a", "b", "c", "d", "e"]))
    def drop_instance(self, uid: str) -> None:
        before = self.instances.pop(uid, None)
        if before is not None:
            self.fleet.update_instance(before, None)

    @rule(data=st.data())
    def plan_something(self, data: st.DataObject) -> None:
        """A plan looks at attributes, which are kept, and takes back what it placed."""
        pending = [data.draw(any_instance(f"new{n}")) for n in range(2)]
        requests = [(i.uid, request_of(i)) for i in pending]
        anew = Fleet(self.hosts.values(), self.instances.values())
        assert plan(requests, self.fleet, NOW) == plan(requests, anew, NOW)

    @invariant()
    def same_as_built_anew(self) -> None:
        anew = Fleet(self.hosts.values(), self.instances.values())
        assert self.fleet.hosts == anew.hosts
        assert self.fleet.row == anew.row
        for column in _COLUMNS:
            assert np.array_equal(getattr(self.fleet, column), getattr(anew, column)), column
        assert _tables(self.fleet) == _tables(anew)


def _tables(fleet: Any) -> tuple[Any, ...]:
    return (fleet._placed, fleet._by_template, fleet._by_port, fleet._by_label)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_what_is_being_deleted_still_counts() -> None:
    one = instance("i", cpu=100, on="a")
    fleet = Fleet([host("a")], [one])
    fleet.update_instance(one, replace(one, generation=2))
    assert list(fleet.cpu_used) == [100]
    fleet.update_instance(one, None)
    assert list(fleet.cpu_used) == [0]


def test_what_a_host_holds() -> None:
    one, two = instance("i", cpu=100, on="a"), instance("j", on="a")
    fleet = Fleet([host("a")], [one, two])
    both = [placed for placed in (placed_of(one), placed_of(two)) if placed is not None]
    assert fleet.holds("uid-a", both)
    assert not fleet.holds("uid-a", both[:1])
    assert not fleet.holds("uid-a", [both[0], replace(both[1], cpu_millis=1)])
    assert not fleet.holds("uid-b", [])

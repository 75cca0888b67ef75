"""Moves for balance: each makes something better, nothing is made worse that was worse before, and they come to an end."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.rebalance.plan import (
    Candidate,
    Load,
    Move,
    RebalanceTerms,
    after,
    allowance,
    choose,
    gain,
    worth_asking,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TERMS = RebalanceTerms(at_once=2, per_hour=3)
HOSTS = ("a", "b", "c")

#: Of each member: its group, its host, and what it reserves.
members = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0, 100, 250, 400]), st.sampled_from([0, 200])),
    max_size=10,
)


class Fleet:
    """Hosts of the same size with members that obey."""

    def __init__(self, found: list[tuple[int, int, int, int]]) -> None:
        self.members = {
            f"i{n}": (f"g{group}", HOSTS[host], cpu, memory) for n, (group, host, cpu, memory) in enumerate(found)
        }

    @property
    def loads(self) -> dict[str, Load]:
        def used(host: str, part: int) -> int:
            return sum(one[part] for one in self.members.values() if one[1] == host)

        return {host: Load(host, host, 1000, 1000, used(host, 2), used(host, 3)) for host in HOSTS}

    def alike(self, group: str) -> Counter[str]:
        return Counter(host for other, host, _, _ in self.members.values() if other == group)

    @property
    def candidates(self) -> list[Candidate]:
        return [
            Candidate(uid, f"projects/p/instances/{uid}", group, host, cpu, memory, self.alike(group))
            for uid, (group, host, cpu, memory) in self.members.items()
        ]

    def move(self, move: Move) -> None:
        group, _, cpu, memory = self.members[move.instance_uid]
        self.members[move.instance_uid] = (group, move.to_host.removeprefix("hosts/"), cpu, memory)

    def unevenness(self, group: str) -> int:
        return sum(count * count for count in self.alike(group).values())


def decide(fleet: Fleet, target: Callable[[str], str]) -> Move | None:
    asked = worth_asking(fleet.loads, fleet.candidates, TERMS)
    return choose(fleet.loads, asked, {one.instance_uid: target(one.instance_uid) for one in asked}, TERMS)


@settings(max_examples=200, deadline=None)
@given(members, st.randoms(use_true_random=False))
def test_moves_come_to_an_end_whatever_the_scheduler_says(
    found: list[tuple[int, int, int, int]], chance: object
) -> None:
    fleet = Fleet(found)
    for _ in range(300):
        answers = {uid: chance.choice(["", *HOSTS]) for uid in sorted(fleet.members)}  # type: ignore[attr-defined]
        move = decide(fleet, answers.__getitem__)
        assert move == decide(fleet, answers.__getitem__)
        if move is None:
            if not worth_asking(fleet.loads, fleet.candidates, TERMS):
                return
            # This scheduler lets none of them go where it would be better; another one might.
            continue
        group = fleet.members[move.instance_uid][0]
        here, there = move.from_host.removeprefix("hosts/"), move.to_host.removeprefix("hosts/")
        uneven, fuller = fleet.unevenness(group), fleet.loads[here].share
        fleet.move(move)
        assert fleet.unevenness(group) <= uneven, "a group is less spread"
        if fleet.unevenness(group) == uneven:
            assert max(fleet.loads[here].share, fleet.loads[there].share) < fuller
    assert not worth_asking(fleet.loads, fleet.candidates, TERMS), "it goes on and on"


def test_what_shares_a_host_comes_apart_before_loads_are_levelled() -> None:
    fleet = Fleet([(0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 900, 0), (2, 1, 50, 0)])
    move = decide(fleet, lambda uid: "c")
    assert move is not None
    assert (move.instance_uid, move.to_host) == ("i0", "hosts/c")
    assert move.why == "2 members of g0 are on hosts/a, and none on hosts/c"
    fleet.move(move)
    move = decide(fleet, lambda uid: "a" if uid == "i3" else "")
    assert move is not None
    assert move.why == "hosts/b is 95% full, hosts/a 0%"


def test_small_differences_are_left_alone() -> None:
    fleet = Fleet([(0, 0, 100, 0), (1, 0, 90, 0)])
    assert decide(fleet, lambda uid: "b") is None
    assert gain(fleet.loads, fleet.candidates[0], "b", replace(TERMS, threshold_percent=5)) is not None
    assert gain(fleet.loads, fleet.candidates[0], "gone", TERMS) is None


def test_of_a_group_one_goes_at_a_time() -> None:
    fleet = Fleet([(0, 0, 300, 0), (0, 0, 300, 0), (0, 0, 300, 0), (1, 0, 100, 0)])
    loads, left = after(fleet.loads, fleet.candidates, fleet.candidates[0], "b")
    assert (loads["a"].cpu_used, loads["b"].cpu_used) == (700, 300)
    assert [one.group for one in left] == ["g1"]


@given(st.integers(0, 5), st.lists(st.integers(0, 200), max_size=8))
def test_the_budget_is_kept(under_way: int, minutes: list[int]) -> None:
    begun = [NOW - timedelta(minutes=ago) for ago in minutes]
    allowed = allowance(TERMS, under_way, begun, NOW)
    recent = sum(ago < 60 for ago in minutes)
    assert allowed >= 0
    assert under_way + allowed <= max(under_way, TERMS.at_once)
    assert recent + allowed <= max(recent, TERMS.per_hour)
    assert allowance(RebalanceTerms(), 0, [], NOW) == 0, "off unless somebody wants it"

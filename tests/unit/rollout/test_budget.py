"""How far groups may go, and what comes first."""

from dataclasses import replace

import pytest

from controlplane.domain.budget import Budget, budget_of, order_of, why_stop_first
from controlplane.domain.containers import PublishedPort
from controlplane.domain.groups import GroupMode, GroupSpec, RolloutOrder, RolloutPolicy, SlotPolicy
from controlplane.domain.instances import InstanceSpec, Nic, Placement

START, STOP = RolloutOrder.START_FIRST, RolloutOrder.STOP_FIRST
PORT = (PublishedPort(80, 80),)


@pytest.mark.parametrize(
    ("spec", "is_forced", "order"),
    [
        (GroupSpec(), False, START),
        (GroupSpec(slots=SlotPolicy(sticky_name=True)), True, STOP),
        (GroupSpec(slots=SlotPolicy(sticky_address=True)), True, STOP),
        (GroupSpec(instance=InstanceSpec(nics=(Nic("n", addresses=("10.0.0.2",)),))), True, STOP),
        (GroupSpec(instance=InstanceSpec(published_ports=PORT)), False, STOP),
        (GroupSpec(instance=InstanceSpec(published_ports=PORT, placement=Placement("hosts/a"))), True, STOP),
        (GroupSpec(mode=GroupMode.PER_HOST), False, STOP),
        (GroupSpec(mode=GroupMode.PER_HOST, instance=InstanceSpec(published_ports=PORT)), True, STOP),
    ],
)
def test_what_comes_first(spec: GroupSpec, is_forced: bool, order: RolloutOrder) -> None:
    assert bool(why_stop_first(spec)) == is_forced
    assert order_of(spec) is order
    asked = replace(spec, rollout=RolloutPolicy(order=START))
    assert order_of(asked) is (STOP if is_forced else START)


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        (RolloutPolicy(), Budget(START, 1, 0)),
        (RolloutPolicy(max_surge="25%"), Budget(START, 3, 0)),  # of 10, rounded up
        (RolloutPolicy(max_surge="0", max_unavailable="25%"), Budget(STOP, 0, 2)),  # rounded down
        (RolloutPolicy(max_surge="0", max_unavailable="5%"), Budget(STOP, 0, 1)),  # both 0
        (RolloutPolicy(order=STOP), Budget(STOP, 0, 1)),
        (RolloutPolicy(order=STOP, max_unavailable="3"), Budget(STOP, 0, 3)),
    ],
)
def test_numbers_and_percentages(policy: RolloutPolicy, budget: Budget) -> None:
    assert budget_of(GroupSpec(rollout=policy), 10) == budget

"""Plans carried out one after the other while instances come, leave late, are replaced, and hosts fail: what must hold at every moment."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.groups import Group, GroupSpec, RolloutPolicy
from controlplane.domain.hosts import Host, HostLinkState, HostReservation, HostSettings
from controlplane.domain.instances import DesiredState, Instance, InstanceState, Observed, Placement
from controlplane.scheduler.budgets import spare_members
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, Promise, plan
from controlplane.scheduler.request import request_of
from tests.unit.scheduler.values import NOW, host, instance

_CPU = 1000
_GROUP = Group("uid-g", "p", "g", NOW, GroupSpec(replicas=3, rollout=RolloutPolicy(max_unavailable="1")), generation=1)


class Fleets:
    """Hosts and instances, changed as the control plane and its hosts would."""

    def __init__(self, count: int, reserved: int) -> None:
        kept = HostSettings(reservations=(HostReservation("projects/q", reserved),)) if reserved else HostSettings()
        self.hosts: dict[str, Host] = {h.uid: h for h in (host(f"h{n}", cpu=_CPU, settings=kept) for n in range(count))}
        self.instances: dict[str, Instance] = {}
        self.pushed_out = 0
        self.made = 0

    def make(self, cpu: int, priority: int, project: str, owner: str = "") -> None:
        self.made += 1
        wish = Placement(priority=priority, preempts=priority > 0)
        made = instance(f"i{self.made:03}", cpu=cpu, placement=wish, project=project, owner=owner)
        self.instances[made.uid] = made

    def schedule(self, how_many: int) -> None:
        """One pass; of its decisions only the first ones are carried out."""
        pending = sorted(
            (i for i in self.instances.values() if not i.host_uid),
            key=lambda i: (-i.effective.placement.priority, i.uid),
        )
        members = [i for i in self.instances.values() if i.owner == _GROUP.name]
        budget = {_GROUP.name: spare_members(_GROUP, members)}
        fleet = Fleet(self.hosts.values(), self.instances.values())
        for decision in plan([(i.uid, request_of(i)) for i in pending], fleet, NOW, budget)[:how_many]:
            before = self.instances[decision.instance_uid]
            if isinstance(decision, Assign):
                running = Observed(InstanceState.RUNNING)
                after = replace(before, host_uid=decision.host_uid, promised_uid="", observed=running)
            elif isinstance(decision, Promise):
                after = replace(before, promised_uid=decision.host_uid)
                for victim in decision.victims:
                    gone = self.instances[victim.instance_uid]
                    assert gone.effective.placement.priority < before.effective.placement.priority
                    assert gone.desired is DesiredState.RUNNING
                    self.instances[gone.uid] = replace(gone, desired=DesiredState.DELETED)
                    self.pushed_out += 1
            else:
                after = replace(before, promised_uid="")
            self.instances[after.uid] = after

    def leave(self, everybody: bool = False) -> None:
        """A host says that one that was sent away is gone; whoever looks after it makes another."""
        for uid, found in list(self.instances.items()):
            if found.desired is DesiredState.DELETED:
                del self.instances[uid]
                self.make(
                    found.effective.resources.cpu_millis, found.effective.placement.priority, found.project, found.owner
                )
                if not everybody:
                    return

    def switch(self, number: int) -> None:
        """A host is lost, or comes back."""
        uid = sorted(self.hosts)[number % len(self.hosts)]
        is_up = self.hosts[uid].link_state is HostLinkState.UP
        self.hosts[uid] = replace(self.hosts[uid], link_state=HostLinkState.DOWN if is_up else HostLinkState.UP)

    def check(self, reserved: int) -> None:
        """No host is over its limits, no place is kept twice, and no part of one is taken by others."""
        for uid in self.hosts:
            here = [i for i in self.instances.values() if i.host_uid == uid]
            assert sum(i.effective.resources.cpu_millis for i in here) <= _CPU
            kept = [i for i in self.instances.values() if i.promised_uid == uid]
            stay = [i for i in here if i.desired is DesiredState.RUNNING]
            both = [*stay, *kept]
            assert sum(i.effective.resources.cpu_millis for i in both) <= _CPU, (
                "there is room for all that was promised"
            )
            assert sum(i.effective.resources.cpu_millis for i in both if i.project != "q") <= _CPU - reserved
        assert not any(i.host_uid and i.promised_uid for i in self.instances.values())
        going = [i for i in self.instances.values() if i.owner == _GROUP.name and i.desired is DesiredState.DELETED]
        assert len(going) <= 1, "a group loses no more than it can do without"


steps = st.one_of(
    st.tuples(
        st.just("make"),
        st.sampled_from([300, 500, 1000]),
        st.integers(-1, 3),
        st.sampled_from(["p", "p", "q"]),
        st.sampled_from(["", "", _GROUP.name]),
    ),
    st.tuples(st.just("schedule"), st.integers(0, 5)),
    st.tuples(st.just("leave")),
    st.tuples(st.just("switch"), st.integers(0, 3)),
)


@given(st.integers(1, 3), st.sampled_from([0, 400]), st.lists(steps, max_size=30))
@settings(max_examples=200, deadline=None)
def test_at_every_moment(count: int, reserved: int, history: list[tuple[object, ...]]) -> None:
    world = Fleets(count, reserved)
    for name, *values in history:
        getattr(world, str(name))(*values)
        world.check(reserved)
    _settles(world, reserved)


def _settles(world: Fleets, reserved: int) -> None:
    """Left alone, with those that were sent away gone each time, it comes to rest: nobody is pushed out for ever."""
    for _ in range(4 * len(world.instances) + 4):
        before = (dict(world.instances), world.pushed_out)
        world.leave(everybody=True)
        world.schedule(len(world.instances))
        world.check(reserved)
        if before == (world.instances, world.pushed_out):
            break
    else:
        raise AssertionError("it never comes to rest")
    assert not any(i.promised_uid for i in world.instances.values()), "every place that was kept was taken, or given up"

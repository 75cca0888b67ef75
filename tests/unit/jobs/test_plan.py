"""What a job does next."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.instances import Claim, DesiredState, Instance, InstanceState, Observed
from controlplane.domain.jobs import Job, JobSpec, JobState
from controlplane.jobs.plan import Forget, Make, Remove, Turn, completions, is_ended, parallelism, plan, with_made
from tests.unit.jobs import values as v


@dataclass
class World:
    """A job's record and instances, and whatever is done to them."""

    job: Job
    now: datetime = v.NOW
    members: dict[str, Instance] = field(default_factory=dict)
    is_forgotten: bool = False
    _made: int = 0

    def decide(self) -> Turn:
        return plan(self.job, list(self.members.values()), self.now)

    def turn(self, steps: int = 10**6) -> Turn:
        """Decide, and carry out at most so many actions; each with the record in one transaction, as the loop does."""
        turn = self.decide()
        done = turn.job
        for action in turn.actions[:steps]:
            match action:
                case Make():
                    self._made += 1
                    made = v.member(f"i{self._made}", self.job.name, action.index)
                    self.members[made.uid] = made
                    done = with_made(done, action, made)
                case Remove():
                    one = self.members[action.instance_uid]
                    self.members[one.uid] = replace(one, desired=DesiredState.DELETED)
                case Forget():
                    self.is_forgotten = True
        self.job = done
        return turn

    def at_work(self) -> list[Instance]:
        over = (InstanceState.STOPPED, InstanceState.FAILED)
        return [m for m in self.members.values() if m.observed.state not in over and not m.given_up]

    def end(self, uid: str, exit_code: int) -> None:
        self.members[uid] = v.ended(self.members[uid], exit_code)


def indexes(actions: Iterable[object]) -> list[tuple[int, int]]:
    return [(action.index, action.attempt) for action in actions if isinstance(action, Make)]


def test_so_many_at_a_time_until_all_are_done() -> None:
    world = World(v.job(JobSpec(completions=3, parallelism=2)))
    assert indexes(world.turn().actions) == [(0, 1), (1, 1)]
    assert not world.turn().actions
    world.end("i1", 0)
    assert indexes(world.turn().actions) == [(2, 1)]
    world.end("i2", 0)
    world.end("i3", 0)
    assert not world.turn().actions
    assert world.job.state is JobState.SUCCEEDED
    assert world.job.finish_time == v.NOW


def test_a_failure_is_tried_again_later_and_elsewhere_until_it_is_enough() -> None:
    world = World(v.job(JobSpec(retries=1, retry_delay_seconds=4)))
    world.turn()
    world.end("i1", 3)
    turn = world.turn()
    assert not turn.actions
    assert turn.next_look == v.NOW + timedelta(seconds=4)
    world.now += timedelta(seconds=4)
    (make,) = world.turn().actions
    assert isinstance(make, Make)
    assert (make.attempt, make.avoid_hosts) == (2, ("h1",))
    assert "exit code 3" in make.why
    world.end("i2", 4)
    world.turn()
    assert world.job.state is JobState.FAILED
    assert (
        world.job.message == "index 0 failed after 2 tries: projects/p/instances/i2 on hosts/h1 ended with exit code 4"
    )


def test_a_failed_job_stops_the_rest_and_keeps_what_ended() -> None:
    world = World(v.job(JobSpec(completions=2, parallelism=2, retries=0)))
    world.turn()
    world.end("i1", 1)
    assert [a.instance_uid for a in world.turn().actions if isinstance(a, Remove)] == ["i2"]
    del world.members["i2"]
    assert not world.turn().actions
    world.now += timedelta(hours=1)
    world.turn()
    assert world.members["i1"].desired is DesiredState.DELETED
    del world.members["i1"]
    world.turn()
    assert world.is_forgotten


def test_too_late() -> None:
    world = World(v.job(JobSpec(active_deadline_seconds=10)))
    assert world.turn().next_look == v.NOW + timedelta(seconds=10)
    world.now += timedelta(seconds=10)
    world.turn()
    assert (world.job.state, world.job.reason) == (JobState.FAILED, "DEADLINE_EXCEEDED")


def test_a_lost_host() -> None:
    again = World(v.job())
    again.turn()
    again.members["i1"] = replace(again.members["i1"], given_up="nobody reaches it")
    again.turn()
    again.now += timedelta(minutes=1)
    assert indexes(again.turn().actions) == [(0, 2)]

    once = World(v.job(JobSpec(never_twice=True)))
    once.turn()
    once.members["i1"] = replace(once.members["i1"], given_up="nobody reaches it")
    once.turn()
    assert once.job.state is JobState.FAILED
    assert "must not be tried twice" in once.job.message


def test_what_it_claims_must_be_free_first() -> None:
    world = World(v.job())
    world.turn()
    lost = replace(world.members["i1"], given_up="nobody reaches it", claims=(Claim.ADDRESS,))
    world.members["i1"] = lost
    world.turn()
    world.now += timedelta(minutes=1)
    assert not world.turn().actions
    world.members["i1"] = replace(lost, is_claim_free=True)
    world.turn()
    world.now += timedelta(minutes=1)
    assert indexes(world.turn().actions) == [(0, 2)]


def test_an_instance_that_somebody_removes_counts_as_a_failure_once_it_is_gone() -> None:
    world = World(v.job())
    world.turn()
    world.members["i1"] = replace(world.members["i1"], desired=DesiredState.DELETED)
    assert not world.turn().actions
    del world.members["i1"]
    world.turn()
    assert "removed before it had ended" in world.job.begun[0].message


def test_ended_instances_are_kept_in_a_bounded_number() -> None:
    world = World(v.job(JobSpec(completions=60, parallelism=60)))
    world.turn()
    for uid in list(world.members):
        world.end(uid, 0)
    world.turn()
    assert sum(m.desired is DesiredState.DELETED for m in world.members.values()) == 10


specs = st.builds(
    JobSpec,
    completions=st.integers(0, 5),
    parallelism=st.integers(0, 3),
    retries=st.none() | st.integers(0, 3),
    active_deadline_seconds=st.sampled_from([0.0, 30.0]),
    never_twice=st.booleans(),
)


@given(specs, st.integers(0, 10**9))
def test_it_ends_and_never_does_too_much(spec: JobSpec, seed: int) -> None:
    """Instances end, fail, are lost and removed in any order; the loop dies after any of its actions."""
    lot = random.Random(seed)
    world = World(v.job(spec))
    done: set[int] = set()
    for _ in range(400):
        world.turn(lot.randint(0, 3))
        assert world.decide() == world.decide()
        assert len(world.at_work()) <= parallelism(spec)
        working = [one.slot for one in world.at_work()]
        assert len(working) == len(set(working)), "an index is at work twice"
        if not is_ended(world.job):
            assert done.isdisjoint(working), "an index that is done was begun again"
        if world.is_forgotten:
            break
        if world.members:
            uid = lot.choice(sorted(world.members))
            one = world.members[uid]
            if one.desired is DesiredState.DELETED:
                del world.members[uid]
            elif one in world.at_work():
                match lot.randint(0, 5):
                    case 0 | 1:
                        world.end(uid, 0)
                        done.add(one.slot)
                    case 2:
                        world.end(uid, 1)
                    case 3:
                        world.members[uid] = replace(one, given_up="lost", desired=DesiredState.DELETED)
                    case 4:
                        world.members[uid] = replace(one, observed=Observed(InstanceState.FAILED, "IMAGE_NOT_FOUND"))
        world.now += timedelta(seconds=lot.choice((1, 20, 300)))
    assert world.is_forgotten or is_ended(world.job)
    if world.job.state is JobState.SUCCEEDED:
        assert len(done) == completions(spec)

"""What an instance is good for now, from its record alone. Everybody who asks (balancers, names, rollouts, dependencies) asks here."""

from dataclasses import replace
from datetime import datetime

from controlplane.domain.instances import DesiredState, Instance, InstanceState


def is_started(instance: Instance) -> bool:
    """Whether its process runs and shall run."""
    return instance.desired is DesiredState.RUNNING and instance.observed.state is InstanceState.RUNNING


def is_ready(instance: Instance) -> bool:
    """Whether it runs and its own checks, where it has any, say that it can do its work.

    A readiness probe has the word where the spec has one, the engine's health check else; a startup probe that has not passed holds
    either back. What was not said is no: an agent that knows of no probes never says that they pass. But a probe that the instance was
    given just now, and of which its host has not heard, takes nothing from it.
    """
    if not is_started(instance):
        return False
    observed = instance.observed
    if instance.effective.probes.readiness is None or _is_news(instance):
        return observed.probed_ready is not False and observed.health in ("", "healthy")
    return observed.probed_ready is True


def _is_news(instance: Instance) -> bool:
    """Whether its host answers for an older generation of it, in which it had no probe to speak of."""
    return instance.observed.probed_ready is None and instance.observed.generation < instance.generation


def with_ready_time(before: Instance, after: Instance, now: datetime) -> Instance:
    """`after` with the time since which it has been ready. It begins anew with each run, also where the end of the one before was
    never seen: reports are coalesced.
    """
    if not is_ready(after):
        return replace(after, ready_time=None)
    is_same_run = (before.observed.run, before.observed.start_time) == (after.observed.run, after.observed.start_time)
    is_same = is_ready(before) and before.ready_time is not None and is_same_run
    return replace(after, ready_time=before.ready_time if is_same else now)


def refuses_traffic(instance: Instance) -> bool:
    """Whether it must not be given new clients: it is on its way out, is being ended, or runs and its own checks fail. One that stands
    still refuses nothing: whoever asks it sees that by itself. One that is being ended may hang, and yet take connections.
    """
    is_going = instance.leave_time is not None or instance.desired is DesiredState.DELETED
    is_ending = instance.observed.state is InstanceState.STOPPING
    return is_going or is_ending or (is_started(instance) and not is_ready(instance))


def takes_traffic(instance: Instance) -> bool:
    """Whether balancers and names lead new clients to it: it is ready, and not on its way out."""
    return is_ready(instance) and instance.leave_time is None

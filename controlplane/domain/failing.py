"""Whether an instance fails on its host, from its record alone: what rollouts give up for, and groups replace elsewhere.

Judged between two runs, or while a run is being prepared. A process that runs is given its chance, however often it ended before: it
is not said to fail until it ends again. So a loop that looks now and then still sees each crash loop, for the back-off makes the time
between two runs longer and longer.
"""

from dataclasses import dataclass

from controlplane.domain.containers import RestartMode
from controlplane.domain.instances import DesiredState, Instance, InstanceState

#: Starts in a row that fail before another host is worth a try.
FAILED_STARTS = 5

#: Reasons that lie in what was asked for: another host says the same.
_ANYWHERE = frozenset(
    {
        "IMAGE_LABEL_RESERVED",
        "IMAGE_NOT_FOUND",
        "IMAGE_REFERENCE_INVALID",
        "START_REFUSED",
        "ENGINE_REFUSED",
        "ASSIGNMENT_INVALID",
    }
)
#: Reasons with which a run ends once and for all as far as its host is concerned, at the first time.
_AT_ONCE = _ANYWHERE | {"PLATFORM_NOT_AVAILABLE", "CRASH_LOOP"}


@dataclass(frozen=True, slots=True)
class Failing:
    """How an instance fails on its host."""

    reason: str  # a word for programs
    why: str  # a sentence for people, with what the process printed last where that is known
    starts: int  # in a row that failed
    is_same_anywhere: bool  # no host would do better


def failed_starts(instance: Instance) -> int:
    """Runs that ended soon or could not be started, one after the other; of one that runs now, before it."""
    return instance.observed.failures_in_row


def failing(instance: Instance, *, limit: int = FAILED_STARTS) -> Failing | None:
    """How it fails for good on its host; None if it runs, is going, or may still come up there.

    For good is: its crash loop was given up, what was asked for cannot be run (or not on this host), or `limit` starts in a row have
    failed. The reason of a start that failed may be anything; that the image cannot be had now (REGISTRY_UNREACHABLE) is one.
    """
    observed = instance.observed
    if instance.desired is not DesiredState.RUNNING or instance.leave_time is not None or instance.given_up:
        return None
    if not instance.host_uid or InstanceState.STARTING <= observed.state <= InstanceState.STOPPING:
        return None
    if observed.generation and observed.generation < instance.generation:
        return None  # what its host says is of what it was before
    if not observed.reason:
        return None
    is_at_once = observed.state is InstanceState.FAILED and observed.reason in _AT_ONCE
    if not is_at_once and observed.failures_in_row < limit:
        return None
    why = observed.message or f"it failed with {observed.reason}"
    return Failing(observed.reason, why, observed.failures_in_row, observed.reason in _ANYWHERE)


def has_ended(instance: Instance) -> bool:
    """Whether its process has ended, or could not be started, and its restart policy keeps its host from starting it again."""
    observed, mode = instance.observed, instance.effective.restart.mode
    if instance.desired is not DesiredState.RUNNING or observed.generation < instance.generation:
        return False
    if observed.state not in (InstanceState.STOPPED, InstanceState.FAILED):
        return False
    if mode is RestartMode.ON_FAILURE:
        return observed.exit_code == 0 and not observed.reason
    return mode is RestartMode.NEVER

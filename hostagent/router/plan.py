"""What a router's configuration needs next, decided from values alone.

A configuration is tried when it is new, and again when what is in force is not known any more (a namespace that was made anew, a
sweep). One that was refused is not tried again before that.
"""

import enum
from dataclasses import dataclass, replace

from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle, RouterReport, RouterRole


class Step(enum.Enum):
    """What to do."""

    NOTHING = "nothing"
    ADOPT = "adopt"  # what runs is what is wanted, under an older version
    APPLY = "apply"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one router stands.

    Attributes:
        running: the configuration in force; None: none, or not known yet.
        failed: the newest one that was refused; None: the newest was not.
        error: why, in the words of the tool that refused it.
        is_known: whether this process saw it, and nothing has happened since that may have changed it.
    """

    running: RouterBundle | None = None
    failed: RouterBundle | None = None
    error: str = ""
    is_known: bool = False


def next_step(standing: Standing, wanted: RouterBundle) -> Step:
    """The step to take for a router whose namespace is there."""
    if not standing.is_known:
        return Step.APPLY
    if standing.failed == wanted:
        return Step.NOTHING
    if standing.running is not None and is_same(standing.running, wanted):
        return Step.NOTHING if standing.running == wanted and standing.failed is None else Step.ADOPT
    return Step.APPLY


def is_same(one: RouterBundle, other: RouterBundle) -> bool:
    """Whether two versions are the same configuration."""
    return replace(one, version=0) == replace(other, version=0)


def takes_back_ends_away(before: RouterBundle | None, after: RouterBundle) -> bool:
    """Whether connections may go on to who is no back end any more; of what is not known, it is believed."""
    return before is None or bool(_back_ends(before) - _back_ends(after))


def _back_ends(bundle: RouterBundle) -> set[str]:
    return {
        backend.instance_id for balancer in bundle.balancers for pool in balancer.pools for backend in pool.backends
    }


def report(
    instance_id: InstanceId, standing: Standing, role: RouterRole, draining: tuple[str, ...] = ()
) -> RouterReport:
    """What is said of a router."""
    running, failed = standing.running, standing.failed
    return RouterReport(
        instance_id=instance_id,
        running_version=running.version if running is not None else 0,
        failed_version=failed.version if failed is not None else 0,
        error=standing.error,
        role=role,
        draining=draining,
    )

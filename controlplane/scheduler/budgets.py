"""How many of its members each group can do without now, for whoever wants to push some out. Pure."""

from collections.abc import Iterable

from controlplane.domain.budget import amount
from controlplane.domain.groups import Group
from controlplane.domain.instances import Instance
from controlplane.domain.readiness import is_ready

#: A group that does not say what it can do without can lose one at a time. (A rollout has none missing then: it makes the new one first.
#: Who is pushed out may find no other place, so that no number would keep every group from being touched.)
_UNSAID = "1"


def spare_members(group: Group, members: Iterable[Instance]) -> int:
    """How many may go: what the group says may be missing, less what is missing already."""
    known = list(members)
    ready = sum(is_ready(one) and one.leave_time is None and not one.given_up for one in known)
    wanted = len(known) if group.is_per_host else group.spec.replicas
    may_be_missing = amount(group.spec.rollout.max_unavailable or _UNSAID, wanted, rounds_up=False)
    return max(0, may_be_missing - max(0, wanted - ready))

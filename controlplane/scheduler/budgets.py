"""How many of its members each group can do without now, for whoever wants to push some out. Pure."""

from collections.abc import Iterable

from controlplane.domain.groups import Group, GroupMode
from controlplane.domain.instances import Instance
from controlplane.domain.readiness import is_ready

_UNSAID = "1"  # a group that does not say what it can do without can lose one at a time


def spare_members(group: Group, members: Iterable[Instance]) -> int:
    """How many may go: what the group says may be missing, less what is missing already."""
    known = list(members)
    ready = sum(is_ready(one) and one.leave_time is None and not one.given_up for one in known)
    wanted = len(known) if group.spec.mode is GroupMode.PER_HOST else group.spec.replicas
    return max(0, _amount(group.spec.rollout.max_unavailable or _UNSAID, wanted) - max(0, wanted - ready))


def _amount(text: str, of: int) -> int:
    """`2`, or `25%` of `of`, rounded down. The form was checked when the group was made."""
    return of * int(text[:-1]) // 100 if text.endswith("%") else int(text)

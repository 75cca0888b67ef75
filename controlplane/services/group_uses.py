"""What groups need though no instance of theirs may have it now: it cannot be deleted before them."""

from collections.abc import Callable

from controlplane.domain.groups import Group
from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import GROUP
from controlplane.services.group_revisions import revisions_of
from moorage.store.base import View

_ALL = 1_000_000


def groups_needing(view: View, project_id: str, needs: Callable[[InstanceSpec], bool]) -> list[str]:
    """Full names of the groups of a project whose members, of the spec, the target or the stable revision, have what is asked for. Older
    revisions hold nothing back: going back to one whose things are gone is refused.
    """
    groups = (found.value for found in view.range(GROUP, "", _ALL, f"{project_id}/"))
    return [group.name for group in groups if any(map(needs, _specs(view, group)))]


def _specs(view: View, group: Group) -> list[InstanceSpec]:
    numbers = (group.target_revision, group.stable_revision)
    kept = [revision.instance for revision in revisions_of(view, group) if revision.number in numbers]
    return [group.spec.instance, *kept]

"""Field rules of groups: everything that can be judged without looking at stored objects, all of it at once."""

import re
from collections.abc import Callable, Iterator

from controlplane.domain.budget import order_of, why_stop_first
from controlplane.domain.groups import GroupMode, GroupSpec, RolloutOrder
from controlplane.domain.names import check_id, check_labels
from controlplane.domain.volumes import VolumeMount
from controlplane.services import instance_rules, volume_rules
from moorage.errors import FieldViolation

LARGEST_GROUP = 10_000
LARGEST_KEPT = 100
#: Names and host names of members end in a slot's number and a few letters, and are as long as any at most.
LONGEST_ID = 50
LARGEST_AMOUNT = 10_000
_AMOUNT = re.compile(r"^(0|[1-9][0-9]{0,4})(%?)$")
_NONE = frozenset({"0", "0%"})
_MOST_SLOT_VOLUMES = 8
#: A group's id, a slot's number and this make a volume's name.
_LONGEST_VOLUME_NAME = 7
_LONGEST_SECONDS = 86_400.0
_LARGEST_LIMIT = 1000

_Check = Callable[[GroupSpec, str], Iterator[FieldViolation]]


def check_group_id(group_id: str, field: str) -> list[FieldViolation]:
    """Nothing, or what is wrong with the last part of a new group's name."""
    found = check_id(group_id, field)
    if not found and len(group_id) > LONGEST_ID:
        text = f"must be at most {LONGEST_ID} characters: names of members are made of it"
        found.append(FieldViolation(field, text, "NAME_INVALID"))
    return found


def check_spec(spec: GroupSpec, field: str) -> list[FieldViolation]:
    """Every violation, in the order of the fields."""
    return [violation for check in _CHECKS for violation in check(spec, field)]


def _size(spec: GroupSpec, field: str) -> Iterator[FieldViolation]:
    where = f"{field}.replicas"
    if spec.mode is GroupMode.PER_HOST:
        if spec.replicas:
            yield FieldViolation(
                where, "is for groups that are not one per host: the hosts say how many", "NOT_ALLOWED"
            )
    elif not 0 <= spec.replicas <= LARGEST_GROUP:
        yield FieldViolation(where, f"must be between 0 and {LARGEST_GROUP}", "OUT_OF_RANGE")


def _members(spec: GroupSpec, field: str) -> Iterator[FieldViolation]:
    yield from instance_rules.check_spec(spec.instance, f"{field}.instance")
    if spec.instance.delete_protection:
        text = "is for instances that no group looks after; leave it out, and set the group's own delete_protection"
        yield FieldViolation(f"{field}.instance.delete_protection", text, "NOT_ALLOWED")
    yield from check_labels(dict(spec.instance_labels), f"{field}.instance_labels")
    if spec.replicas <= 1 and spec.mode is not GroupMode.PER_HOST:
        return
    for index, nic in enumerate(spec.instance.nics):
        for name, value in (("addresses", nic.addresses), ("mac", nic.mac)):
            if value:
                text = "cannot be the same for several members; leave it out, or make the group one of 1 replica"
                yield FieldViolation(f"{field}.instance.nics[{index}].{name}", text, "NOT_ALLOWED")


def _rollout(spec: GroupSpec, field: str) -> Iterator[FieldViolation]:
    where, policy = f"{field}.rollout", spec.rollout
    why = why_stop_first(spec)
    if policy.order is RolloutOrder.START_FIRST and why:
        text = f"{why}, so the old one must be gone before its successor is made; leave the order out"
        yield FieldViolation(f"{where}.order", text, "START_FIRST_IMPOSSIBLE")
    for name in ("max_surge", "max_unavailable"):
        text = getattr(policy, name)
        if text and not _is_amount(text):
            hint = f"must be a number up to {LARGEST_AMOUNT} or a percentage up to 100%, such as 2 or 25%"
            yield FieldViolation(f"{where}.{name}", f"{hint}, not {text[:50]!r}", "AMOUNT_INVALID")
    if policy.max_surge in _NONE and policy.order is RolloutOrder.START_FIRST:
        text = "must be at least 1: the successor of a member is there beside it; or say stop-first"
        yield FieldViolation(f"{where}.max_surge", text, "OUT_OF_RANGE")
    elif _is_amount(policy.max_surge) and policy.max_surge not in _NONE and order_of(spec) is RolloutOrder.STOP_FIRST:
        text = f"is for start-first; here the old member goes first{f', because {why}' if why else ''}"
        yield FieldViolation(f"{where}.max_surge", text, "NOT_ALLOWED")
    if {policy.max_surge, policy.max_unavailable} <= _NONE:
        text = "cannot be 0 together with max_surge: no member could ever be replaced"
        yield FieldViolation(f"{where}.max_unavailable", text, "OUT_OF_RANGE")
    for name in ("min_ready", "progress_deadline"):
        if not 0 <= getattr(policy, f"{name}_seconds") <= _LONGEST_SECONDS:
            yield FieldViolation(f"{where}.{name}", "must be between 0 and one day", "OUT_OF_RANGE")
    if 0 < policy.progress_deadline_seconds <= policy.min_ready_seconds:
        text = "must be longer than min_ready: else no member could count in time"
        yield FieldViolation(f"{where}.progress_deadline", text, "OUT_OF_RANGE")
    # A group of 0 keeps its policy for later.
    most = spec.replicas if spec.mode is not GroupMode.PER_HOST and spec.replicas > 0 else LARGEST_GROUP
    if not 0 <= policy.canaries <= most:
        yield FieldViolation(f"{where}.canaries", f"must be between 0 and {most}, the replicas", "OUT_OF_RANGE")
    if not 0 <= policy.failure_limit <= _LARGEST_LIMIT:
        yield FieldViolation(f"{where}.failure_limit", f"must be between 0 and {_LARGEST_LIMIT}", "OUT_OF_RANGE")


def _rest(spec: GroupSpec, field: str) -> Iterator[FieldViolation]:
    if not 0 <= spec.kept_revisions <= LARGEST_KEPT:
        yield FieldViolation(f"{field}.kept_revisions", f"must be between 1 and {LARGEST_KEPT}", "OUT_OF_RANGE")


def _is_amount(text: str) -> bool:
    found = _AMOUNT.fullmatch(text)
    return found is not None and int(found[1]) <= (100 if found[2] else LARGEST_AMOUNT)


def _slots(spec: GroupSpec, field: str) -> Iterator[FieldViolation]:
    where, volumes = f"{field}.slots.volumes", spec.slots.volumes
    if len(volumes) > _MOST_SLOT_VOLUMES:
        yield FieldViolation(where, f"at most {_MOST_SLOT_VOLUMES} volumes", "OUT_OF_RANGE")
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        own = f"{where}[{index}]"
        if check_id(volume.name, "") or len(volume.name) > _LONGEST_VOLUME_NAME:
            text = f"must be at most {_LONGEST_VOLUME_NAME} lower-case letters, digits and hyphens, and begin with a letter"
            yield FieldViolation(f"{own}.name", text, "NAME_INVALID")
        elif volume.name in names:
            yield FieldViolation(f"{own}.name", f"{volume.name} is there twice", "INVALID")
        names.add(volume.name)
        if volume.spec.host:
            text = "cannot be the same for several slots: each volume goes with its first member"
            yield FieldViolation(f"{own}.spec.host", text, "NOT_ALLOWED")
        yield from volume_rules.check_spec(volume.spec, f"{own}.spec")
        yield from check_labels(dict(volume.labels), f"{own}.labels")
    mounts = [VolumeMount(volume.name or "-", volume.target, volume.read_only, volume.sub_path) for volume in volumes]
    taken = [*(mount.target for mount in spec.instance.mounts), *(mount.target for mount in spec.instance.volumes)]
    yield from volume_rules.check_mounts(mounts, taken, where)


_CHECKS: tuple[_Check, ...] = (_size, _members, _slots, _rollout, _rest)

"""Field rules of volumes and of their mounts: everything that can be judged without looking at stored objects, all of it at once."""

from collections.abc import Sequence

from controlplane.domain.names import check_id
from controlplane.domain.volumes import VolumeMount, VolumeSpec
from moorage.errors import FieldViolation

LARGEST_ID = 2**31 - 1
MOST_MOUNTS = 32
SMALLEST_BYTES = 16 * 1024 * 1024
_LONGEST_PATH = 1024


def check_spec(spec: VolumeSpec, field: str) -> list[FieldViolation]:
    """Every violation, in the order of the fields."""
    found: list[FieldViolation] = []
    for name in ("owner_uid", "owner_gid"):
        if not 0 <= getattr(spec, name) <= LARGEST_ID:
            found.append(FieldViolation(f"{field}.{name}", "must not be negative", "OUT_OF_RANGE"))
    if spec.size_bytes and spec.size_bytes < SMALLEST_BYTES:
        found.append(
            FieldViolation(f"{field}.size_bytes", "must be at least 16 MiB, or 0 for no limit", "OUT_OF_RANGE")
        )
    if not 0 <= spec.mode <= 0o7777:
        found.append(FieldViolation(f"{field}.mode", "must be permission bits, at most 07777", "OUT_OF_RANGE"))
    if spec.host and (spec.host.count("/") != 1 or not spec.host.startswith("hosts/") or check_id(spec.host[6:], "")):
        found.append(FieldViolation(f"{field}.host", "must look like hosts/NAME", "NAME_INVALID"))
    return found


def check_mounts(mounts: Sequence[VolumeMount], taken: Sequence[str], field: str) -> list[FieldViolation]:
    """Every violation of an instance's volumes.

    Args:
        taken: targets of its other mounts.
    """
    found: list[FieldViolation] = []
    if len(mounts) > MOST_MOUNTS:
        found.append(FieldViolation(field, f"at most {MOST_MOUNTS} volumes", "OUT_OF_RANGE"))
    targets = set(taken)
    for index, mount in enumerate(mounts):
        where = f"{field}[{index}]"
        if not mount.volume:
            found.append(FieldViolation(f"{where}.volume", "is required", "REQUIRED"))
        if not mount.target.startswith("/") or mount.target == "/" or _has_bad_part(mount.target[1:]):
            found.append(FieldViolation(f"{where}.target", "must be an absolute path below /", "INVALID_PATH"))
        elif mount.target in targets:
            found.append(FieldViolation(f"{where}.target", f"{mount.target} is mounted twice", "INVALID"))
        targets.add(mount.target)
        if mount.sub_path and (mount.sub_path.startswith("/") or _has_bad_part(mount.sub_path)):
            found.append(FieldViolation(f"{where}.sub_path", 'must be relative, without ".."', "INVALID_PATH"))
    return found


def _has_bad_part(path: str) -> bool:
    return len(path) > _LONGEST_PATH or "\0" in path or any(part in ("", ".", "..") for part in path.split("/"))

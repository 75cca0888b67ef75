"""Update masks (AIP-134): which fields an update sets."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from moorage.errors import FieldViolation, InvalidSpec


def paths(mask: FieldMask, message: Any, allowed: Iterable[str], where: str) -> set[str]:
    """The paths to set: those of the mask, or without one those of `allowed` that the message fills.

    Raises:
        InvalidSpec: a path that cannot be changed.
    """
    known = set(allowed)
    if not mask.paths:
        return {path for path in known if _is_filled(message, path)}
    if list(mask.paths) == ["*"]:
        return known
    refused = [path for path in mask.paths if path not in known]
    if refused:
        hint = ", ".join(sorted(known))
        raise InvalidSpec(
            [
                FieldViolation("update_mask", f"{path!r} cannot be changed; {where} has {hint}", "MASK_INVALID")
                for path in refused
            ]
        )
    return set(mask.paths)


def _is_filled(message: Any, path: str) -> bool:
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    field = message.DESCRIPTOR.fields_by_name[last]
    if field.has_presence:
        return bool(message.HasField(last))
    return bool(getattr(message, last))

"""Amounts that a project uses and may use. Charged in the transaction that admits, given back in the one that frees."""

from dataclasses import dataclass, fields
from typing import Self

from moorage.errors import Internal, QuotaExceeded


@dataclass(frozen=True, slots=True)
class Quota:
    """Amounts; mirrors `moorage.v1.Quota`. As a limit, 0 means unlimited. CPU in thousandths of a core."""

    instances: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0
    addresses: int = 0
    templates: int = 0
    networks: int = 0
    volumes: int = 0
    volume_bytes: int = 0

    def __post_init__(self) -> None:
        for name in RESOURCES:
            if getattr(self, name) < 0:
                raise Internal(f"an amount of {name} became negative", metadata={"resource": name})

    def __add__(self, other: Self) -> "Quota":
        return Quota(**{name: getattr(self, name) + getattr(other, name) for name in RESOURCES})

    def __sub__(self, other: Self) -> "Quota":
        """Give back.

        Raises:
            Internal: more is given back than is used; usage and objects disagree, which is a bug of ours.
        """
        return Quota(**{name: getattr(self, name) - getattr(other, name) for name in RESOURCES})


def exceeded(limit: Quota, used: Quota, asked: Quota) -> tuple[str, ...]:
    """Resources of which `asked` on top of `used` would be more than `limit`, in the order of the fields.

    A resource that is not asked for is never among them: after a limit was lowered, what needs no more of it still
    works.
    """
    return tuple(
        name
        for name in RESOURCES
        if getattr(asked, name) > 0 and 0 < getattr(limit, name) < getattr(used, name) + getattr(asked, name)
    )


def charge(limit: Quota, used: Quota, asked: Quota) -> Quota:
    """The usage after `asked` was admitted.

    Raises:
        QuotaExceeded: lists every resource that is short; metadata holds `resources` (joined by commas) and, for each,
            `<resource>.used`, `<resource>.asked` and `<resource>.limit`.
    """
    short = exceeded(limit, used, asked)
    if not short:
        return used + asked
    metadata = {"resources": ",".join(short)}
    for name in short:
        for kind, amounts in (("used", used), ("asked", asked), ("limit", limit)):
            metadata[f"{name}.{kind}"] = str(getattr(amounts, name))
    texts = (
        f"{name}: {getattr(used, name)} used + {getattr(asked, name)} asked > {getattr(limit, name)}" for name in short
    )
    raise QuotaExceeded(
        f"over the project's quota ({'; '.join(texts)}); free something or ask a fleet admin for more",
        metadata=metadata,
    )


RESOURCES: tuple[str, ...] = tuple(field.name for field in fields(Quota))

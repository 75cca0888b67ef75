"""What the mapping must be told besides documents: how images and places of an older world are called in this fleet."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Site:
    """Where a partition is in this fleet."""

    #: Last part of the zone's name; empty: any.
    zone: str = ""
    host_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """Written by the operator of the adapter; zones and labels are read from the fleet."""

    #: Image by type of cartridge, or by the imageId of a provider. It goes before what documents say.
    images: Mapping[str, str] = field(default_factory=dict)
    #: By network partition and partition. It goes before what documents say.
    sites: Mapping[tuple[str, str], Site] = field(default_factory=dict)
    #: Last parts of the names of zones that there are.
    zones: frozenset[str] = frozenset()
    #: Names of labels that some host has.
    host_labels: frozenset[str] = frozenset()

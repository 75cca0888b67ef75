"""Devices of CDI specifications (Container Device Interface, https://github.com/cncf-tags/container-device-interface). Pure.

A specification may name one device several times (by number and by serial) and may name groups of them, such as `all`. Names with the same
nodes are one device; one whose nodes take in all of another's is a group, and no device that could be given beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hostagent.domain import DeviceWay, FoundDevice
from moorage.devices import KIND, NAME

_GROUP = "all"


@dataclass(frozen=True, slots=True)
class _Named:
    kind: str
    name: str
    nodes: frozenset[str]


def cdi_devices(documents: Iterable[Any]) -> tuple[FoundDevice, ...]:
    """The devices of all specifications, in their order; of two with one name the later one counts, as in engines.

    Raises:
        ValueError: a document is no specification.
    """
    named: dict[tuple[str, str], _Named] = {}
    for document in documents:
        for device in _named(document):
            named[device.kind, device.name] = device
    groups = {(one.kind, one.name) for one in named.values() if _is_group(one, named.values())}
    found: dict[object, list[_Named]] = {}
    for key, device in named.items():
        if key not in groups:
            found.setdefault((device.kind, device.nodes) if device.nodes else key, []).append(device)
    return tuple(_found(same) for same in found.values())


def _named(document: Any) -> list[_Named]:
    if not isinstance(document, Mapping) or not isinstance(document.get("devices", []), list):
        raise ValueError("it is no CDI specification")
    kind = document.get("kind")
    if not isinstance(kind, str) or not KIND.fullmatch(kind):
        raise ValueError(f"its kind {kind!r} is not VENDOR/CLASS")
    devices = document.get("devices") or []
    if not all(isinstance(device, Mapping) and isinstance(device.get("name"), str) for device in devices):
        raise ValueError("a device has no name")
    return [_Named(kind, d["name"], _nodes(d)) for d in devices if NAME.fullmatch(d["name"])]


def _nodes(device: Mapping[str, Any]) -> frozenset[str]:
    edits = device.get("containerEdits") or {}
    nodes = edits.get("deviceNodes") if isinstance(edits, Mapping) else None
    return frozenset(str(node["path"]) for node in nodes or () if isinstance(node, Mapping) and "path" in node)


def _is_group(one: _Named, others: Iterable[_Named]) -> bool:
    return one.name == _GROUP or any(
        other.kind == one.kind and other.nodes and other.nodes < one.nodes for other in others
    )


def _found(same: list[_Named]) -> FoundDevice:
    # The longest name first: a serial stays with its device when numbers are given anew.
    names = tuple(sorted((device.name for device in same), key=lambda name: (-len(name), name)))
    return FoundDevice(same[0].kind, names, (DeviceWay("cdi", (f"{same[0].kind}={names[0]}",)),))

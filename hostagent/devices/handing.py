"""One list of what was found in several ways, and what of it an instance is given. Pure.

Invariant: no device is listed twice, whatever ways it was found in: it would be given to two instances.
"""

from collections.abc import Sequence
from dataclasses import replace

from hostagent.domain import ContainerSpec, Device, DeviceRequest, FoundDevice, HostDevice
from moorage.devices import MOST_DEVICES, MOST_NAMES
from moorage.errors import NotReady

_DRIVERS = ("nvidia", "cdi", "path")  # the first that a device has is preferred


def combined(
    configured: Sequence[FoundDevice], cdi: Sequence[FoundDevice], nvidia: Sequence[FoundDevice]
) -> tuple[FoundDevice, ...]:
    """What is offered; what shares a name is one device. Where CDI speaks of a kind, it alone says which GPUs there are: it knows of parts
    of one that are devices of their own, of which `nvidia-smi` lists only the whole.
    """
    of_cdi = {device.kind for device in cdi}
    found: list[FoundDevice] = []
    for device in (*nvidia, *cdi, *configured):
        same = [other for other in found if _is_same(device, other)]
        found = [other for other in found if other not in same]
        found.append(_as_one([*same, device]))
    offered = [d for d in found if d.kind not in of_cdi or any(way.driver != "nvidia" for way in d.ways)]
    return tuple(offered[:MOST_DEVICES])


def _as_one(devices: Sequence[FoundDevice]) -> FoundDevice:
    names = dict.fromkeys(name for device in devices for name in device.names)
    ways = {way.driver: way for device in reversed(devices) for way in reversed(device.ways)}
    return FoundDevice(devices[0].kind, tuple(names), tuple(ways[driver] for driver in _DRIVERS if driver in ways))


def _is_same(one: FoundDevice, other: FoundDevice) -> bool:
    return one.kind == other.kind and bool(set(one.names) & set(other.names))


def told(found: Sequence[FoundDevice]) -> tuple[HostDevice, ...]:
    """What the control plane is told of them."""
    return tuple(HostDevice(d.kind, d.names[:MOST_NAMES], tuple(way.driver for way in d.ways)) for d in found)


def handed(spec: ContainerSpec, found: Sequence[FoundDevice]) -> ContainerSpec:
    """The container with its devices as the engine wants them.

    Raises:
        NotReady: DEVICE_MISSING, one of them is not on this host now, or the engine cannot hand it through as was decided.
    """
    requests: list[DeviceRequest] = []
    nodes: list[Device] = []
    for request in spec.device_requests:
        handles = [handle for name in request.ids for handle in _handles(request, name, found)]
        if request.driver == "path":
            nodes += [Device(path, path) for path in handles]
        else:
            requests.append(replace(request, ids=tuple(handles)))
    return replace(spec, device_requests=tuple(requests), devices=(*spec.devices, *nodes))


def _handles(request: DeviceRequest, name: str, found: Sequence[FoundDevice]) -> tuple[str, ...]:
    device = next((d for d in found if d.kind == request.kind and name in d.names), None)
    if device is None:
        raise NotReady(f"{request.kind}={name} is not on this host now", reason="DEVICE_MISSING")
    for way in device.ways:
        if way.driver == request.driver:
            return way.handles
    ways = ", ".join(way.driver for way in device.ways)
    raise NotReady(
        f"the engine of this host cannot hand {request.kind}={name} through by {request.driver} now, only by {ways}",
        reason="DEVICE_MISSING",
    )

"""Which devices of a host an instance gets. Pure. Each device belongs to one instance until that is gone."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.hosts import HostDevice
from controlplane.scheduler.request import device_key

ALL = -1


def choose(
    devices: Sequence[HostDevice], taken: Collection[tuple[str, str]], requests: Sequence[DeviceRequest]
) -> tuple[DeviceRequest, ...] | None:
    """The requests with the devices that they get as `ids`, in the same order; None when there are not enough.

    Args:
        devices: of the host, in the order in which they are given out.
        taken: (kind, first name) of those that others have.
    """
    busy = set(taken)
    chosen: dict[int, DeviceRequest] = {}
    # The choosy ones first: whoever takes anything must not take what only one device can be.
    for index in sorted(range(len(requests)), key=lambda i: (not requests[i].ids, "/" not in requests[i].kind, i)):
        request = requests[index]
        meant = [device for device in devices if means(request, device)]
        # By any name: a host may come to tell another one first, once it finds its devices in another way.
        free = [device for device in meant if not any(device_key(device.kind, name) in busy for name in device.names)]
        wanted = count_of(request)
        if wanted == ALL:
            if not meant or len(free) != len(meant):
                return None
            wanted = len(meant)
        same_way = _handed_alike(free, request, wanted)
        if same_way is None:
            return None
        driver, got = same_way
        busy.update(device_key(device.kind, device.names[0]) for device in got)
        chosen[index] = replace(
            request,
            kind=got[0].kind,
            count=len(got),
            ids=tuple(device.names[0] for device in got),
            driver=driver,
        )
    return tuple(chosen[index] for index in range(len(requests)))


def means(request: DeviceRequest, device: HostDevice) -> bool:
    """Whether the request can be met by the device."""
    is_kind = request.kind in (device.kind, device.kind.rpartition("/")[2])
    is_named = not request.ids or bool(set(request.ids) & set(device.names))
    return is_kind and is_named and (not request.driver or request.driver in device.drivers)


def count_of(request: DeviceRequest) -> int:
    """How many devices it asks for; ALL for all of the host."""
    return request.count or len(request.ids) or 1


def text_of(requests: Sequence[DeviceRequest]) -> tuple[str, ...]:
    """Devices as CDI writes them, such as nvidia.com/gpu=0."""
    return tuple(f"{request.kind}={name}" for request in requests for name in request.ids)


def _handed_alike(
    free: Sequence[HostDevice], request: DeviceRequest, count: int
) -> tuple[str, tuple[HostDevice, ...]] | None:
    """So many of one kind that the engine hands through in one way: (driver, devices)."""
    for kind, driver in dict.fromkeys((d.kind, driver) for d in free for driver in d.drivers):
        got = [d for d in free if d.kind == kind and driver in d.drivers]
        if len(got) >= count and request.driver in ("", driver):
            return driver, tuple(got[:count])
    return None

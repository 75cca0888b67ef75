"""Field rules of where an instance may run, and of what a host gives: everything that can be judged without looking at stored objects."""

import re
from collections.abc import Iterable, Iterator

from controlplane.domain.hosts import HostFacts, HostSettings
from controlplane.domain.instances import Affinity, Distinct, InstanceSpec, Spread
from controlplane.domain.names import check_labels
from moorage import devices
from moorage.errors import FieldViolation

MOST_PRIORITY = 1_000_000
_MOST_TERMS = 4
_MOST_DEVICE_REQUESTS = 16
_DRIVERS = ("", "nvidia", "cdi", "path")
_KIND = re.compile(r"([a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_CAPABILITY = re.compile(r"[a-z0-9_-]{1,32}")
_TAINT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?(=[A-Za-z0-9]?([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LEAST_RATIO, _MOST_RATIO = 0.1, 100.0


def check_placement(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    """Where it may run."""
    where = f"{field}.placement"
    placement = spec.placement
    for name, collection in (("host", "hosts"), ("zone", "zones")):
        value = getattr(placement, name)
        if value and not re.fullmatch(rf"{collection}/[^/]+", value):
            yield FieldViolation(f"{where}.{name}", f"must look like {collection}/NAME", "NAME_INVALID")
    for name in ("affinity", "anti_affinity"):
        terms: tuple[Affinity, ...] = getattr(placement, name)
        for index, term in enumerate(terms):
            if not term.labels:
                yield FieldViolation(f"{where}.{name}[{index}].labels", "is required", "REQUIRED")
            yield from check_labels(dict(term.labels), f"{where}.{name}[{index}].labels")
    if abs(placement.priority) > MOST_PRIORITY:
        problem = f"must be between {-MOST_PRIORITY} and {MOST_PRIORITY}"
        yield FieldViolation(f"{where}.priority", problem, "OUT_OF_RANGE")
    yield from _spread(placement.spread, f"{where}.spread")
    yield from _distinct(placement.distinct, f"{where}.distinct")
    for index, toleration in enumerate(placement.tolerations):
        if not _TAINT.fullmatch(toleration):
            problem = f"{toleration!r} is neither KEY=VALUE nor KEY"
            yield FieldViolation(f"{where}.tolerations[{index}]", problem, "TAINT_INVALID")


def _spread(terms: tuple[Spread, ...], where: str) -> Iterator[FieldViolation]:
    if len(terms) > _MOST_TERMS:
        yield FieldViolation(where, f"at most {_MOST_TERMS}", "OUT_OF_RANGE")
    for index, term in enumerate(terms):
        if not 0 <= term.max_skew <= 1000:
            yield FieldViolation(f"{where}[{index}].max_skew", "must be between 0 and 1000", "OUT_OF_RANGE")
        targets = f"{where}[{index}].targets"
        yield from _repeated((target.place for target in term.targets), targets, "place")
        for number, target in enumerate(term.targets):
            if not target.place:
                yield FieldViolation(f"{targets}[{number}].place", "is required", "REQUIRED")
            if not 0 <= target.percent <= 100:
                yield FieldViolation(f"{targets}[{number}].percent", "must be between 0 and 100", "OUT_OF_RANGE")
        if sum(target.percent for target in term.targets) > 100:
            yield FieldViolation(targets, "are more than 100 percent together", "OUT_OF_RANGE")


def _distinct(terms: tuple[Distinct, ...], where: str) -> Iterator[FieldViolation]:
    if len(terms) > _MOST_TERMS:
        yield FieldViolation(where, f"at most {_MOST_TERMS}", "OUT_OF_RANGE")
    for index, term in enumerate(terms):
        if term.limit < 0:
            yield FieldViolation(f"{where}[{index}].limit", "must not be negative", "OUT_OF_RANGE")
        yield from check_labels(dict(term.labels), f"{where}[{index}].labels")


def check_device_requests(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    """What devices it has for itself."""
    where = f"{field}.device_requests"
    if len(spec.device_requests) > _MOST_DEVICE_REQUESTS:
        yield FieldViolation(where, f"at most {_MOST_DEVICE_REQUESTS}", "OUT_OF_RANGE")
    for index, request in enumerate(spec.device_requests):
        if not _KIND.fullmatch(request.kind):
            problem = f"{request.kind!r} is no kind of device; write VENDOR/CLASS, such as nvidia.com/gpu, or CLASS"
            yield FieldViolation(f"{where}[{index}].kind", problem, "INVALID")
        if not -1 <= request.count <= 256:
            yield FieldViolation(f"{where}[{index}].count", "must be -1 (all) or from 0 to 256", "OUT_OF_RANGE")
        if request.ids and request.count not in range(len(request.ids) + 1):
            yield FieldViolation(f"{where}[{index}].count", "is more than the ids", "OUT_OF_RANGE")
        yield from _repeated(request.ids, f"{where}[{index}].ids", "device")
        for number, name in enumerate(request.ids):
            if not devices.NAME.fullmatch(name):
                yield FieldViolation(f"{where}[{index}].ids[{number}]", f"{name!r} is no name of a device", "INVALID")
        if request.driver not in _DRIVERS:
            problem = f"{request.driver!r} is not known; nvidia, cdi and path are"
            yield FieldViolation(f"{where}[{index}].driver", problem, "INVALID")
        if request.capabilities and request.driver != "nvidia":
            yield FieldViolation(f"{where}[{index}].capabilities", "go with the driver nvidia only", "INVALID")
        for number, capability in enumerate(request.capabilities):
            if not _CAPABILITY.fullmatch(capability):
                problem = f"{capability!r} is no capability of a driver"
                yield FieldViolation(f"{where}[{index}].capabilities[{number}]", problem, "INVALID")


def check_facts(facts: HostFacts, field: str) -> list[FieldViolation]:
    """What an agent says of its host's devices and images: every device has a name, and none is known twice."""
    found: list[FieldViolation] = []
    for name, most in (("devices", devices.MOST_DEVICES), ("images", devices.MOST_IMAGES)):
        if len(getattr(facts, name)) > most:
            found.append(FieldViolation(f"{field}.{name}", f"at most {most}", "OUT_OF_RANGE"))
    known: set[tuple[str, str]] = set()
    for index, device in enumerate(facts.devices):
        where = f"{field}.devices[{index}]"
        if not devices.KIND.fullmatch(device.kind):
            found.append(FieldViolation(f"{where}.kind", f"{device.kind!r} is not VENDOR/CLASS", "INVALID"))
        names = {(device.kind, name) for name in device.names}
        if (
            not device.names
            or len(device.names) > devices.MOST_NAMES
            or not all(map(devices.NAME.fullmatch, device.names))
        ):
            found.append(
                FieldViolation(f"{where}.names", f"must be 1 to {devices.MOST_NAMES} names of a device", "INVALID")
            )
        elif names & known:
            found.append(FieldViolation(f"{where}.names", "are another device's too", "INVALID"))
        if not device.drivers or not set(device.drivers) <= set(_DRIVERS[1:]):
            found.append(FieldViolation(f"{where}.drivers", "must be of nvidia, cdi and path", "INVALID"))
        known |= names
    return found


def check_settings(settings: HostSettings, field: str) -> list[FieldViolation]:
    """What a host gives, and to whom."""
    return list(_settings(settings, field))


def _settings(settings: HostSettings, field: str) -> Iterator[FieldViolation]:
    for name in ("reserved_cpu_millis", "reserved_memory_bytes"):
        if getattr(settings, name) < 0:
            yield FieldViolation(f"{field}.{name}", "must not be negative", "OUT_OF_RANGE")
    for name in ("cpu_overcommit", "memory_overcommit"):
        ratio = getattr(settings, name)
        if ratio != 0 and not _LEAST_RATIO <= ratio <= _MOST_RATIO:
            problem = f"must be between {_LEAST_RATIO} and {_MOST_RATIO:.0f}"
            yield FieldViolation(f"{field}.{name}", problem, "OUT_OF_RANGE")
    for index, taint in enumerate(settings.taints):
        if not _TAINT.fullmatch(taint) or "=" not in taint:
            yield FieldViolation(f"{field}.taints[{index}]", f"{taint!r} is not KEY=VALUE", "TAINT_INVALID")
    yield from _repeated(settings.taints, f"{field}.taints", "taint")
    yield from _repeated(settings.dedicated_to, f"{field}.dedicated_to", "project")
    yield from _repeated((part.project for part in settings.reservations), f"{field}.reservations", "project")
    for index, part in enumerate(settings.reservations):
        for name in ("cpu_millis", "memory_bytes"):
            if getattr(part, name) < 0:
                yield FieldViolation(f"{field}.reservations[{index}].{name}", "must not be negative", "OUT_OF_RANGE")


def _repeated(values: Iterable[str], where: str, what: str) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield FieldViolation(f"{where}[{index}]", f"the {what} {value} is named twice", "INVALID")
        seen.add(value)

"""Which versions the uses of an instance stand for, read from a view, and what its host is told of them. No bytes are read here."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from controlplane.domain.instances import Instance, InstanceSpec, uses_of
from controlplane.domain.kinds import CONFIG, SECRET, SECRET_VERSION, version_key
from controlplane.domain.names import child_name
from controlplane.domain.secrets import (
    ConfigUse,
    OnRotate,
    Pin,
    Secret,
    SecretUse,
    SecretVersionState,
    Use,
    collection_of,
    env_of,
    id_of,
)
from controlplane.services import lookup
from moorage.errors import InvalidSpec, NotFound
from moorage.store.base import Kind, View

_KINDS: Mapping[str, Kind[Any]] = {"secrets": SECRET, "configs": CONFIG}


def resolve(view: View, project_id: str, spec: InstanceSpec, where: str) -> tuple[InstanceSpec, tuple[Pin, ...]]:
    """The spec with full names, and the version that each use stands for now.

    Raises:
        NotFound: a secret or config is not there.
        InvalidSpec: VERSION_UNKNOWN, VERSION_DISABLED, VERSION_DESTROYED, VERSION_MISSING (it has no enabled one), SECRET_NOT_TEXT.
    """
    pins: list[Pin] = []
    secrets: list[SecretUse] = []
    configs: list[ConfigUse] = []
    for index, use in enumerate(uses_of(spec)):
        collection = collection_of(use)
        own = index if collection == "secrets" else index - len(spec.secrets)
        place = f"{where}.{collection}[{own}]"
        found = _find(view, project_id, use, f"{place}.{collection.removesuffix('s')}")
        pins.append(_pin(view, found, use, place))
        if isinstance(use, SecretUse):
            secrets.append(replace(use, secret=found.name))
        else:
            configs.append(replace(use, config=found.name))
    return replace(spec, secrets=tuple(secrets), configs=tuple(configs)), tuple(pins)


def later(view: View, instance: Instance) -> tuple[Pin, ...]:
    """The pins of an instance with the latest versions where its uses ask for them; the same when there are none."""
    found = list(instance.pins)
    for index, (use, pin) in enumerate(zip(uses_of(instance.spec), instance.pins, strict=True)):
        if use.version or use.on_rotate not in (OnRotate.RESTART, OnRotate.SIGNAL):
            continue
        record = lookup.by_uid(view, _KINDS[collection_of(use)], pin.uid)
        if record is not None and record.latest_version > pin.version:
            version = view.get(SECRET_VERSION, version_key(pin.uid, record.latest_version))
            if version is not None and (version.value.is_text or not env_of(use)):
                found[index] = Pin(pin.uid, record.latest_version)
    return tuple(found)


def _find(view: View, project_id: str, use: Use, field: str) -> Secret:
    collection = collection_of(use)
    own_id = lookup.own_id(project_id, collection, id_of(use), field)
    found = view.get(_KINDS[collection], f"{project_id}/{own_id}")
    if found is None:
        full = child_name(project_id, collection, own_id)
        raise NotFound(f"{full} does not exist ({field})", metadata={"name": full, "field": field})
    record: Secret = found.value
    return record


def _pin(view: View, record: Secret, use: Use, place: str) -> Pin:
    number = use.version or record.latest_version
    if not number:
        raise InvalidSpec.of(place, f"{record.name} has no enabled version; add one", "VERSION_MISSING")
    found = view.get(SECRET_VERSION, version_key(record.uid, number))
    field = f"{place}.version"
    if found is None:
        raise InvalidSpec.of(field, f"{record.name} has no version {number}", "VERSION_UNKNOWN")
    state = found.value.state
    if state is SecretVersionState.DISABLED:
        raise InvalidSpec.of(field, f"{found.value.name} is disabled; enable it or name another", "VERSION_DISABLED")
    if state is SecretVersionState.DESTROYED:
        raise InvalidSpec.of(field, f"{found.value.name} is destroyed; name another", "VERSION_DESTROYED")
    if env_of(use) and not found.value.is_text:
        raise InvalidSpec.of(
            f"{place}.env", f"{found.value.name} is no text of at most 32 KiB; use a file", "SECRET_NOT_TEXT"
        )
    return Pin(record.uid, number)

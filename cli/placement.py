"""Where an instance may run, and what devices it has: from what people write to the messages of the API. Pure.

Each parser refuses with the name of the option and an example. The click options that feed it are in run_options.py.
"""

import re
from collections.abc import Mapping
from typing import Any

from cli.names import in_fleet
from cli.words import key_values
from moorage.errors import InvalidSpec
from moorage.v1 import instances_pb2

_GPU = "gpu"
_ALL = -1
_CDI_NAME = re.compile(r"([a-z0-9.-]+/[A-Za-z0-9_-]+)=([A-Za-z0-9_.:-]+)")


def affinity(option: str, word: str) -> instances_pb2.Affinity:
    """`[soft:]K=V[,K=V][@TOPOLOGY]`."""
    rest, _, topology = word.removeprefix("soft:").partition("@")
    labels = key_values(option, rest.split(","))
    return instances_pb2.Affinity(labels=labels, topology=topology, soft=word.startswith("soft:"))


def spread(word: str) -> instances_pb2.Spread:
    """`[soft:]PLACE[:SKEW][,NAME=PERCENT]...`."""
    first, *targets = word.removeprefix("soft:").split(",")
    topology, colon, skew = first.partition(":")
    made = instances_pb2.Spread(topology=topology, soft=word.startswith("soft:"))
    example = "write PLACE[:SKEW][,NAME=PERCENT], such as zone, soft:rack:2 or zone,a=60,b=40"
    if not topology or (colon and not skew.isdecimal()):
        raise InvalidSpec.of("spread", f"{word!r}: {example}")
    made.max_skew = int(skew or 0)
    for target in targets:
        place, _, percent = target.partition("=")
        if not place or not percent.removesuffix("%").isdecimal():
            raise InvalidSpec.of("spread", f"{word!r}: {example}")
        made.targets.add(place=place, percent=int(percent.removesuffix("%")))
    return made


def distinct(word: str) -> instances_pb2.Distinct:
    """`[K=V[,K=V]@]PLACE[:N]`."""
    labels, _, rest = word.rpartition("@")
    topology, colon, limit = rest.partition(":")
    if not topology or (colon and not limit.isdecimal()):
        raise InvalidSpec.of("distinct", f"{word!r}: write [K=V@]PLACE[:N], such as host, zone:2 or app=web@rack")
    counted = key_values("distinct", labels.split(",")) if labels else {}
    return instances_pb2.Distinct(topology=topology, limit=int(limit or 0), labels=counted)


def gpus(word: str) -> instances_pb2.DeviceRequest:
    """`all`, `N` or `device=ID[,ID]`, as `docker run --gpus` has it."""
    if word == "all":
        return instances_pb2.DeviceRequest(kind=_GPU, count=_ALL)
    if word.isdecimal() and int(word):
        return instances_pb2.DeviceRequest(kind=_GPU, count=int(word))
    if word.startswith("device=") and word != "device=":
        return instances_pb2.DeviceRequest(kind=_GPU, ids=word.removeprefix("device=").strip('"').split(","))
    raise InvalidSpec.of("gpus", f"{word!r}: write all, a number, or device=ID,ID")


def is_cdi_name(word: str) -> bool:
    """Whether a `--device` names a device as CDI does, VENDOR/CLASS=NAME, and no node of the host."""
    return _CDI_NAME.fullmatch(word) is not None


def device_request(word: str) -> instances_pb2.DeviceRequest:
    """`kind=KIND[,count=N|all][,id=ID]...[,driver=D][,capability=C]...`, or CDI's `VENDOR/CLASS=NAME`."""
    named = _CDI_NAME.fullmatch(word)
    if named is not None and named[2] == "all":
        return instances_pb2.DeviceRequest(kind=named[1], count=_ALL)
    if named is not None:
        return instances_pb2.DeviceRequest(kind=named[1], ids=[named[2]])
    made = instances_pb2.DeviceRequest()
    for part in word.split(","):
        key, _, value = part.partition("=")
        match key:
            case "kind" | "driver" if value:
                setattr(made, key, value)
            case "count" if value == "all" or value.isdecimal():
                made.count = _ALL if value == "all" else int(value)
            case "id" if value:
                made.ids.append(value)
            case "capability" if value:
                made.capabilities.append(value)
            case _:
                example = "write kind=nvidia.com/gpu,count=2 or kind=gpu,id=0,id=1[,driver=cdi]"
                raise InvalidSpec.of("device-request", f"{word!r}: {part!r} is not known; {example}")
    return made


def apply_placement(spec: instances_pb2.InstanceSpec, options: Mapping[str, Any]) -> None:
    """Where it may run, of the options of run_options.py; what was not given stays as it is."""
    placement = instances_pb2.Placement()
    if options.get("host"):
        placement.host = in_fleet("hosts", options["host"])
    if options.get("zone"):
        placement.zone = in_fleet("zones", options["zone"])
    placement.host_labels.update(key_values("host-label", options.get("host_label") or ()))
    placement.affinity.extend(affinity("affinity", word) for word in options.get("affinity") or ())
    placement.anti_affinity.extend(affinity("anti-affinity", word) for word in options.get("anti_affinity") or ())
    if options.get("pack"):
        placement.strategy = instances_pb2.PLACEMENT_STRATEGY_PACK
    placement.priority = options.get("priority") or 0
    placement.preempts = bool(options.get("preempt"))
    placement.spread.extend(spread(word) for word in options.get("spread") or ())
    placement.distinct.extend(distinct(word) for word in options.get("distinct") or ())
    placement.tolerations.extend(options.get("tolerate") or ())
    if placement.ListFields():
        spec.placement.MergeFrom(placement)
    if options.get("gpus"):
        spec.device_requests.append(gpus(options["gpus"]))
    spec.device_requests.extend(device_request(word) for word in options.get("device_request") or ())
    spec.device_requests.extend(device_request(word) for word in options.get("device") or () if is_cdi_name(word))

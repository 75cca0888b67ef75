"""How long does one pass of the scheduler take? A group of instances on a fleet that carries some already.

    python -m benchmarks.schedule [--hosts 10000] [--group 500] [--placed 50000]

Nothing is stored and nobody is told: it is the plan that is measured. The last line is one JSON object, in milliseconds a pass.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from controlplane.domain.containers import DeviceRequest, Resources
from controlplane.domain.hosts import Host, HostDevice, HostFacts, HostLinkState
from controlplane.domain.instances import Distinct, Instance, InstanceSpec, Placement, Spread
from controlplane.scheduler.fleet import Fleet
from controlplane.scheduler.plan import Assign, Promise, plan
from controlplane.scheduler.request import request_of

ZONES, RACKS = 5, 200
_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_GIB = 1 << 30

#: What the members of the group ask for.
CASES: dict[str, InstanceSpec] = {
    "plain": InstanceSpec(),
    "spread_zone": InstanceSpec(placement=Placement(spread=(Spread("zone"),))),
    "spread_rack_soft": InstanceSpec(placement=Placement(spread=(Spread("rack", soft=True),))),
    "distinct_host": InstanceSpec(placement=Placement(distinct=(Distinct("host"),))),
    "gpu": InstanceSpec(device_requests=(DeviceRequest("gpu"),)),
    "preempting": InstanceSpec(resources=Resources(cpu_millis=15_600), placement=Placement(priority=1, preempts=True)),
    "refused": InstanceSpec(resources=Resources(cpu_millis=17_000)),
}


def hosts(count: int) -> Iterator[Host]:
    """Hosts of 16 cores in zones and racks, every tenth with four GPUs."""
    for number in range(count):
        gpus = tuple(HostDevice("nvidia.com/gpu", (f"GPU-{number}-{n}", str(n)), ("nvidia",)) for n in range(4))
        yield Host(
            uid=f"uid-{number}",
            id=f"h{number:05}",
            create_time=_NOW,
            zone=f"z{number % ZONES}",
            labels={"rack": f"r{number % RACKS}"},
            link_state=HostLinkState.UP,
            facts=HostFacts(
                platform="linux/amd64",
                cpu_millis=16_000,
                memory_bytes=64 * _GIB,
                devices=gpus if number % 10 == 0 else (),
            ),
        )


def instance(uid: str, spec: InstanceSpec, host_uid: str = "", template_uid: str = "t") -> Instance:
    """A member of the group, or one that runs already."""
    return Instance(
        uid=uid,
        project="p",
        id=uid,
        create_time=_NOW,
        spec=spec,
        effective=spec,
        template_uid=template_uid,
        image="r@sha256:0",
        platforms=("linux/amd64",),
        host_uid=host_uid,
        owner="" if host_uid else "projects/p/groups/g",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--group", type=int, default=500)
    parser.add_argument("--placed", type=int, default=50_000)
    options = parser.parse_args(arguments)
    runs = InstanceSpec(resources=Resources(cpu_millis=100, memory_bytes=_GIB // 8))
    start = time.perf_counter()
    fleet = Fleet(
        hosts(options.hosts),
        (instance(f"o{n}", runs, f"uid-{n % options.hosts}", f"t{n % 500}") for n in range(options.placed)),
    )
    result: dict[str, object] = {
        "hosts": options.hosts,
        "group": options.group,
        "placed": options.placed,
        "build_ms": round(1000 * (time.perf_counter() - start)),
    }
    for name, spec in CASES.items():
        pending = [(f"n{n}", request_of(instance(f"n{n}", spec))) for n in range(options.group)]
        start = time.perf_counter()
        decisions = plan(pending, fleet, _NOW)
        result[f"{name}_ms"] = round(1000 * (time.perf_counter() - start))
        found = sum(isinstance(decision, Assign | Promise) for decision in decisions)
        print(f"{name}: {result[f'{name}_ms']} ms, {found} of {options.group} have a place")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

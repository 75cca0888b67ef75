"""How fast is a deployment, beside Docker Swarm and `docker run` on the same machine in the same run?

    python -m benchmarks.deploy [--rounds 7] [--count 50] [--folder /var/lib/moorage-bench]

Needs root. Each round measures every side once, the order turning with each round. docs/benchmarks.md says what is
measured and how. A table for people, and one JSON object as the last line.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import deploy_footprint
from benchmarks.deploy_boxes import HOSTS, alone, boxes
from benchmarks.deploy_docker import DockerRun
from benchmarks.deploy_moorage import MoorageSide
from benchmarks.deploy_summary import result, table
from benchmarks.deploy_swarm import SwarmSide
from benchmarks.workload import ONE, Limits, limits_for
from cli.dev.rootfs import demo_rootfs
from moorage.errors import MoorageError

FOLDER = Path("/var/lib/moorage-bench")
_PING_ONE_SECONDS = 0.002
_PING_MANY_SECONDS = 0.02
_IDLE_SECONDS = 5.0
_REST_SECONDS = 1.0  # between two measurements, for what the last one left to do in the background

Say = Callable[[str], None]


class Measurements:
    """Times by "case/side"; the first round of each is a rehearsal and not kept."""

    def __init__(self, say: Say) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)
        self._say = say
        self.round = 0

    async def take(self, name: str, work: Awaitable[float]) -> None:
        """Measure once, then rest."""
        seconds = await work
        self._say(f"round {self.round or 'of rehearsal'}: {name} {seconds:.3f} s")
        if self.round:
            self.samples[name].append(seconds)
        await asyncio.sleep(_REST_SECONDS)


async def measure_deployments(
    moorage: MoorageSide, swarm: SwarmSide, docker: DockerRun, *, rounds: int, count: int, say: Say
) -> dict[str, list[float]]:
    """All rounds. Each round of each side is: one up, one gone, many up, many gone."""
    kept = Measurements(say)
    cases = (("one", 1, ONE, _PING_ONE_SECONDS), ("many", count, _limits_of_many(count), _PING_MANY_SECONDS))

    async def both(side: MoorageSide | SwarmSide) -> None:
        for case, number, limits, pause in cases:
            await kept.take(f"{case}/{side.name}", side.create(number, limits, interval_seconds=pause))
            await kept.take(f"{case}_removal/{side.name}", side.remove())

    async def plain() -> None:
        await kept.take("one/docker_api", docker.by_api(interval_seconds=_PING_ONE_SECONDS))
        await kept.take("one/docker_client", docker.by_client(interval_seconds=_PING_ONE_SECONDS))

    turns: list[Callable[[], Awaitable[None]]] = [lambda: both(moorage), plain, lambda: both(swarm)]
    for kept.round in range(rounds + 1):
        for turn in turns if kept.round % 2 else reversed(turns):
            await turn()
    return dict(sorted(kept.samples.items()))


def _limits_of_many(count: int) -> Limits:
    return limits_for(count, hosts=HOSTS, cores=os.cpu_count() or 1)


async def run(folder: Path, *, rounds: int, count: int, endpoint_mode: str, say: Say) -> dict[str, object]:
    """The whole benchmark; its result. Everything that it made is gone afterwards.

    Raises:
        MoorageError: a side could not be brought up, or did not get where it should.
    """
    with alone(folder):
        async with boxes(folder) as (moorage_fleet, swarm_fleet):
            await asyncio.sleep(_IDLE_SECONDS)
            footprint = await deploy_footprint.idle_memory(moorage_fleet)
            say("both fleets are up: " + ", ".join(f"{name} {value:.1f}" for name, value in footprint.items()))
            image = demo_rootfs(moorage_fleet.config.directory / "rootfs.tar")  # goes with the fleet
            async with contextlib.AsyncExitStack() as stack:
                moorage = await stack.enter_async_context(MoorageSide.opened(moorage_fleet, image))
                swarm = await stack.enter_async_context(
                    SwarmSide.opened(swarm_fleet, image, endpoint_mode=endpoint_mode)
                )
                worker = swarm_fleet.hosts()[-1]
                docker = await stack.enter_async_context(
                    DockerRun.opened(worker, swarm.engines[worker.name], swarm.image)
                )
                host = moorage_fleet.hosts()[0]
                footprint |= await deploy_footprint.wrapper_milliseconds(host, moorage.residents[host.name])
                samples = await measure_deployments(moorage, swarm, docker, rounds=rounds, count=count, say=say)
    parameters = {
        "rounds": rounds,
        "count": count,
        "one_cpu_millis": ONE.cpu_millis,
        "many_cpu_millis": _limits_of_many(count).cpu_millis,
        "memory_bytes": ONE.memory_bytes,
        "grace_seconds": ONE.grace_seconds,
        "swarm_endpoint_mode": endpoint_mode,
        "cpus": os.cpu_count(),
    }
    found = result(samples, footprint, parameters)
    say("")
    say(table(samples, found))
    return found


async def run_until_signalled(work: Awaitable[dict[str, object]]) -> dict[str, object]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: in order, with everything removed."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=50, help="instances of the greater case, 2 to 200")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for both fleets, about 200 MB")
    parser.add_argument("--swarm-endpoint-mode", choices=("vip", "dnsrr"), default="vip")
    given = parser.parse_args()
    if given.rounds < 1 or not 2 <= given.count <= 200:
        parser.error("at least one round, and 2 to 200 instances")
    work = run(
        given.folder,
        rounds=given.rounds,
        count=given.count,
        endpoint_mode=given.swarm_endpoint_mode,
        say=lambda line: print(line, flush=True),
    )
    try:
        found = asyncio.run(run_until_signalled(work))
    except MoorageError as error:
        sys.exit(f"benchmark: {error.message}")
    except asyncio.CancelledError:
        sys.exit("benchmark: ended by a signal; everything was removed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

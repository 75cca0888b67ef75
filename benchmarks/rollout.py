"""Do clients notice rolling updates and drains, here and with Docker Swarm on the same machine in the same run?

    python -m benchmarks.rollout [--updates 20] [--drains 3] [--folder /var/lib/moorage-bench]

Needs root and wrk. docs/benchmarks.md says what is measured and how. A table for people, and one JSON object as the last line.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deploy import FOLDER, Say, run_until_signalled
from benchmarks.deploy_boxes import alone, boxes
from benchmarks.network_bed import NetworkBed
from benchmarks.rollout_moorage import MoorageRollout
from benchmarks.rollout_swarm import SwarmRollout
from benchmarks.rollout_work import MEMBERS, Side, drained_hosts
from benchmarks.wrk import CONNECTIONS, Asked
from cli.dev.rootfs import demo_rootfs
from moorage.errors import Internal, MoorageError

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What clients got meanwhile."""

    answered: int
    refused: int
    broken: int
    seconds: float

    @property
    def failed(self) -> int:
        """Requests that did not get what they were for."""
        return self.refused + self.broken

    @classmethod
    def of(cls, asked: Asked, seconds: float) -> "Taken":
        """Once the asking has ended."""
        return cls(asked.answered, asked.refused, asked.broken, seconds)

    def as_json(self) -> dict[str, object]:
        """For the result."""
        numbers: dict[str, object] = {"answered": self.answered, "refused": self.refused, "broken": self.broken}
        return {**numbers, "failed": self.failed, "seconds": round(self.seconds, 1)}


Measured = Mapping[str, Mapping[str, Taken]]  # by side and case


async def measure(side: Side, *, updates: int, drains: int, say: Say) -> dict[str, Taken]:
    """Both cases of one side, while clients ask.

    Raises:
        Internal: clients fail already while nothing is done.
    """
    async with side.asking() as quiet:
        await asyncio.sleep(_LOOK_SECONDS)
    if quiet.failed or not quiet.answered:
        raise Internal(f"{side.name} fails while nothing is done to it: {quiet.words.strip()}")
    taken: dict[str, Taken] = {}
    started = time.perf_counter()
    async with side.asking() as asked:
        for number in range(1, updates + 1):
            await side.update(number)
            say(f"{side.name}: update {number} of {updates}, {time.perf_counter() - started:.0f} s")
    taken["updates"] = Taken.of(asked, time.perf_counter() - started)
    say(f"{side.name}: {taken['updates'].failed} requests failed of {taken['updates'].answered}")
    started = time.perf_counter()
    async with side.asking() as asked:
        for host in drained_hosts(drains):
            await side.drain(host)
            say(f"{side.name}: {host} was drained, {time.perf_counter() - started:.0f} s")
    taken["drains"] = Taken.of(asked, time.perf_counter() - started)
    say(f"{side.name}: {taken['drains'].failed} requests failed of {taken['drains'].answered}")
    return taken


def result(measured: Measured, parameters: Mapping[str, object]) -> dict[str, object]:
    """The JSON object of the last line."""
    failed = {side: sum(case.failed for case in cases.values()) for side, cases in measured.items()}
    return {
        "failed_requests": failed["moorage"],
        "swarm_failed_requests": failed["swarm"],
        "targets": {"failed_requests": {"at_most": 0, "is_met": failed["moorage"] == 0}},
        "cases": {side: {name: case.as_json() for name, case in cases.items()} for side, cases in measured.items()},
        "parameters": dict(parameters),
    }


def table(measured: Measured) -> str:
    """For people."""
    lines = [f"{'case':<10}{'side':<10}{'answered':>10}{'refused':>9}{'broken':>9}{'time':>9}"]
    for side, cases in measured.items():
        for name, case in cases.items():
            numbers = f"{case.answered:>10}{case.refused:>9}{case.broken:>9}{case.seconds:>7.0f} s"
            lines.append(f"{name:<10}{side:<10}{numbers}")
    return "\n".join(lines)


async def run(folder: Path, *, updates: int, drains: int, say: Say) -> dict[str, object]:
    """The whole benchmark; its result. Everything that it made is gone afterwards.

    Raises:
        MoorageError: a side could not be brought up, or an update or drain did not come to its end.
    """
    measured: dict[str, dict[str, Taken]] = {}
    with alone(folder):
        async with boxes(folder) as (fleet, swarm):
            image = demo_rootfs(fleet.config.directory / "rootfs.tar")  # goes with the fleet
            async with NetworkBed.opened(fleet, swarm, image) as bed:
                async with MoorageRollout.opened(bed) as ours:
                    measured[ours.name] = await measure(ours, updates=updates, drains=drains, say=say)
                async with SwarmRollout.opened(bed) as theirs:
                    balancer = theirs.balancer
                    measured[theirs.name] = await measure(theirs, updates=updates, drains=drains, say=say)
    say("")
    say(table(measured))
    parameters = {"updates": updates, "drains": drains, "members": MEMBERS, "connections": CONNECTIONS}
    return result(measured, {**parameters, "swarm_balancer": balancer, "cpus": os.cpu_count()})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--drains", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for both fleets, about 200 MB")
    given = parser.parse_args()
    if given.updates < 1 or given.drains < 1:
        parser.error("at least one update and one drain")
    work = run(given.folder, updates=given.updates, drains=given.drains, say=lambda line: print(line, flush=True))
    try:
        found = asyncio.run(run_until_signalled(work))
    except MoorageError as error:
        sys.exit(f"benchmark: {error.message}")
    except asyncio.CancelledError:
        sys.exit("benchmark: ended by a signal; everything was removed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""How long until what a lost host had runs elsewhere, beside Docker Swarm on the same machine in the same run?

    python -m benchmarks.healing [--rounds 3] [--count 30] [--folder /var/lib/moorage-bench]

Needs root. docs/benchmarks.md says what is measured and how. A table for people, and one JSON object as the last line.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.deploy import FOLDER, Measurements, run_until_signalled
from benchmarks.deploy_boxes import HOSTS, alone, boxes
from benchmarks.deploy_summary import Spread, paired_ratio
from benchmarks.healing_loss import Loss
from benchmarks.healing_moorage import MoorageHealing
from benchmarks.healing_swarm import SwarmHealing
from benchmarks.workload import limits_for
from cli.dev.rootfs import demo_rootfs
from controlplane.liveness.terms import DEFAULT_TERMS
from moorage.errors import MoorageError

TARGETS: Mapping[str, float] = {"kill_s": 5, "kill_vs_swarm": 0.35, "cut_s": 5}
Say = Callable[[str], None]


async def measure(
    moorage: MoorageHealing, swarm: SwarmHealing, *, rounds: int, count: int, say: Say
) -> dict[str, list[float]]:
    """All rounds; each case of each side once a round, the order turning with each."""
    kept = Measurements(say)
    # Two hosts must have room for what three had.
    limits = limits_for(count, hosts=HOSTS - 1, cores=os.cpu_count() or 1)

    async def one(case: str, side: MoorageHealing | SwarmHealing) -> None:
        await kept.take(f"{case}/{side.name}", side.heal(Loss(side.fleet, is_cut=case == "cut"), count, limits))

    for kept.round in range(1, rounds + 1):
        for case in ("kill", "cut"):
            for side in (moorage, swarm) if kept.round % 2 else (swarm, moorage):
                await one(case, side)
        claimed = moorage.heal(Loss(moorage.fleet, is_cut=False), count, limits, is_exclusive=True)
        await kept.take("claim/moorage", claimed)
    return dict(sorted(kept.samples.items()))


def result(samples: Mapping[str, Sequence[float]], parameters: Mapping[str, object]) -> dict[str, object]:
    """The JSON object of the last line."""
    spreads = {name: Spread.of(values) for name, values in samples.items()}
    values: dict[str, float] = {
        "kill_s": spreads["kill/moorage"].median,
        "kill_vs_swarm": paired_ratio(samples, "kill", "moorage", "kill", "swarm").median,
        "cut_s": spreads["cut/moorage"].median,
        "cut_vs_swarm": paired_ratio(samples, "cut", "moorage", "cut", "swarm").median,
        "claim_s": spreads["claim/moorage"].median,
        "heartbeat_s": DEFAULT_TERMS.heartbeat_seconds,
    }
    return {
        **{name: round(value, 3) for name, value in values.items()},
        "targets": {name: {"at_most": most, "is_met": values[name] <= most} for name, most in TARGETS.items()},
        "seconds": {name: spread.as_json() for name, spread in spreads.items()},
        "parameters": dict(parameters),
    }


def table(samples: Mapping[str, Sequence[float]]) -> str:
    """Medians for people."""
    lines = [f"{'case':<8}{'side':<10}{'median':>9}{'least':>9}{'greatest':>9}"]
    for name, values in samples.items():
        case, _, side = name.partition("/")
        spread = Spread.of(values)
        lines.append(f"{case:<8}{side:<10}{spread.median:>8.2f}s{spread.least:>8.2f}s{spread.greatest:>8.2f}s")
    return "\n".join(lines)


async def run(folder: Path, *, rounds: int, count: int, say: Say) -> dict[str, object]:
    """The whole benchmark; its result. Everything that it made is gone afterwards.

    Raises:
        MoorageError: a side could not be brought up, or did not heal.
    """
    with alone(folder):
        async with boxes(folder) as (moorage_fleet, swarm_fleet), contextlib.AsyncExitStack() as stack:
            image = demo_rootfs(moorage_fleet.config.directory / "rootfs.tar")  # goes with the fleet
            moorage = await stack.enter_async_context(MoorageHealing.opened(moorage_fleet, image))
            swarm = await stack.enter_async_context(SwarmHealing.opened(swarm_fleet, image))
            samples = await measure(moorage, swarm, rounds=rounds, count=count, say=say)
    found = result(samples, {"rounds": rounds, "count": count, "cpus": os.cpu_count()})
    say("")
    say(table(samples))
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=30, help="members on three hosts, 3 to 90")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for both fleets, about 200 MB")
    given = parser.parse_args()
    if given.rounds < 1 or not HOSTS <= given.count <= 90:
        parser.error("at least one round, and 3 to 90 members")
    work = run(given.folder, rounds=given.rounds, count=given.count, say=lambda line: print(line, flush=True))
    try:
        found = asyncio.run(run_until_signalled(work))
    except MoorageError as error:
        sys.exit(f"benchmark: {error.message}")
    except asyncio.CancelledError:
        sys.exit("benchmark: ended by a signal; everything was removed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

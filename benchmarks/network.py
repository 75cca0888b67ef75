"""How good are the networks, beside Docker's bridge and Swarm's overlay on the same machine in the same run?

    python -m benchmarks.network [--rounds 7] [--seconds 3] [--only NAME ...] [--folder /var/lib/moorage-bench]

Needs root and iperf3. Each round measures every side of a case once, the order turning with each round.
docs/benchmarks.md says what is measured and how. A table for people, and one JSON object as the last line.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.deploy import FOLDER, Say, run_until_signalled
from benchmarks.deploy_boxes import alone, boxes
from benchmarks.network_balancer import Balancer
from benchmarks.network_bed import NetworkBed
from benchmarks.network_case import Case, Samples, result, table
from benchmarks.network_pair import PairFailover
from benchmarks.network_router import FailedRequests, ManyRules, OneRule, Restart
from benchmarks.network_streams import cross_host, same_host
from cli.dev.rootfs import demo_rootfs
from moorage.errors import MoorageError

_REST_SECONDS = 0.5  # between two measurements, for what the last one left to do in the background


def all_cases(seconds: int) -> list[Case]:
    """Every case, in order. `seconds`: how long a stream lasts."""
    return [
        same_host(seconds),
        cross_host(seconds),
        Balancer(seconds),
        OneRule(),
        ManyRules(),
        FailedRequests(),
        Restart(),
        PairFailover(),
    ]


async def measure(case: Case, bed: NetworkBed, *, rounds: int, say: Say) -> Samples:
    """All rounds of one case; the first is a rehearsal and not kept."""
    samples: dict[str, list[float]] = defaultdict(list)
    async with case.opened(bed) as sides:
        for number in range(rounds + 1):
            for side in list(sides) if number % 2 else reversed(list(sides)):
                value = await sides[side]()
                say(f"{case.name}, round {number or 'of rehearsal'}: {side} {value:.3f} {case.unit}")
                if number:
                    samples[side].append(value)
                await asyncio.sleep(_REST_SECONDS)
    return dict(samples)


async def run(folder: Path, cases: Sequence[Case], *, rounds: int, say: Say) -> dict[str, object]:
    """The whole benchmark; its result. Everything that it made is gone afterwards.

    Raises:
        MoorageError: a side could not be brought up, or did not get where it should.
    """
    with alone(folder):
        async with boxes(folder) as (fleet, swarm):
            image = demo_rootfs(fleet.config.directory / "rootfs.tar")  # goes with the fleet
            async with NetworkBed.opened(fleet, swarm, image) as bed:
                samples = {case.name: await measure(case, bed, rounds=rounds, say=say) for case in cases}
    say("")
    say(table(cases, samples))
    return result(cases, samples, {"rounds": rounds, "cpus": os.cpu_count()})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of each stream")
    parser.add_argument("--only", nargs="*", default=[], help="names of cases; all without it")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for both fleets, about 200 MB")
    given = parser.parse_args()
    cases = [case for case in all_cases(given.seconds) if not given.only or case.name in given.only]
    if given.rounds < 1 or given.seconds < 1 or not cases:
        parser.error("at least one round, of a second or more, of a case that there is")
    work = run(given.folder, cases, rounds=given.rounds, say=lambda line: print(line, flush=True))
    try:
        found = asyncio.run(run_until_signalled(work))
    except MoorageError as error:
        sys.exit(f"benchmark: {error.message}")
    except asyncio.CancelledError:
        sys.exit("benchmark: ended by a signal; everything was removed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""The deployment benchmark, in its smallest form: that it measures every side, says so in its last line, and leaves
nothing. Whether the targets are met is not asked here: one round on a busy machine says nothing about that.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from benchmarks.deploy_summary import TARGETS, Spread, ratios, result, table
from benchmarks.workload import limits_for
from cli.dev import cgroups, processes
from tests.support.fleet import require_fleet

_TIMEOUT_SECONDS = 420
_SAMPLES = {
    "one/moorage": [0.1, 0.3, 0.2],
    "one/swarm": [1.0, 1.0, 1.0],
    "one/docker_api": [0.2, 0.2, 0.2],
    "many/moorage": [1.0, 1.0, 1.0],
    "many/swarm": [2.0, 4.0, 5.0],
    "one_removal/moorage": [0.1, 0.1, 0.1],
    "one_removal/swarm": [1.0, 1.0, 1.0],
    "many_removal/moorage": [1.0, 1.0, 1.0],
    "many_removal/swarm": [2.0, 2.0, 2.0],
}


def test_ratios_are_paired_and_removal_takes_the_worse_case() -> None:
    found = ratios(_SAMPLES)
    assert found["one_vs_swarm"].median == pytest.approx(0.2)
    assert found["fifty_vs_swarm"].median == pytest.approx(0.25)  # of 0.5, 0.25 and 0.2
    assert found["removal_vs_swarm"].median == pytest.approx(0.5)


def test_a_missed_target_is_said() -> None:
    found = result(_SAMPLES, {"controlplane_rss_mb": 100, "agent_rss_mb": 86, "wrapper_ms": 2}, {"rounds": 3})
    targets = found["targets"]
    assert isinstance(targets, dict)
    assert targets.keys() == TARGETS.keys()
    missed = {name for name, target in targets.items() if not target["is_met"]}
    assert missed == {"agent_rss_mb", "one_vs_docker_run", "removal_vs_swarm"}
    assert "MISSED" in table(_SAMPLES, found)


def test_the_spread_of_one_value_is_that_value() -> None:
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0, 1)


def test_fifty_fit_on_three_hosts_of_two_cores() -> None:
    each = limits_for(50, hosts=3, cores=2).cpu_millis
    assert each >= 100
    assert 50 * each + 3 * 50 <= 6000


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.slow
async def test_the_benchmark_measures_every_side_and_leaves_nothing(tmp_path: Path) -> None:
    require_fleet()
    folder = tmp_path / "fleets"
    arguments = ["--rounds", "1", "--count", "5", "--folder", str(folder)]
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.deploy", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            output, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.terminate()  # it removes its fleets
            await program.wait()
    assert program.returncode == 0, output.decode()
    found = json.loads(output.decode().splitlines()[-1])
    assert set(TARGETS) <= found.keys()
    assert set(found["seconds"]) == {*_SAMPLES, "one/docker_client"}
    assert all(spread["n"] == 1 and spread["median"] > 0 for spread in found["seconds"].values())
    for prefix in ("moorbench", "moorswarm"):
        assert not processes.tagged(f"{prefix}-")
        assert not cgroups.names(f"{prefix}-h")
        assert f"{prefix}0" not in {name for _, name in socket.if_nameindex()}
    assert not folder.exists()

"""What the benchmark of healing says of its measurements."""

import pytest

from benchmarks.healing import TARGETS, result, table

_SAMPLES = {
    "claim/moorage": [14.0, 15.0, 13.0],
    "cut/moorage": [4.0, 5.0, 3.0],
    "cut/swarm": [40.0, 20.0, 30.0],
    "kill/moorage": [6.0, 6.0, 6.0],
    "kill/swarm": [12.0, 24.0, 60.0],
}


def test_the_last_line() -> None:
    found = result(_SAMPLES, {"rounds": 3})
    assert (found["kill_s"], found["cut_s"]) == (6.0, 4.0)
    assert found["kill_vs_swarm"] == pytest.approx(0.25), "of 0.5, 0.25 and 0.1"
    assert found["cut_vs_swarm"] == pytest.approx(0.1), "of 0.1, 0.25 and 0.1"
    assert (found["claim_s"], found["heartbeat_s"]) == (14.0, 1.0)
    targets = found["targets"]
    assert isinstance(targets, dict)
    assert {name for name in TARGETS if targets[name]["is_met"]} == {"kill_vs_swarm", "cut_s"}
    assert len(table(_SAMPLES).splitlines()) == 1 + len(_SAMPLES)

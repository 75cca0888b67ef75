"""What the numbers of the network benchmark say."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest

from benchmarks.network_bed import NetworkBed
from benchmarks.network_case import Measure, Target, result, table, value_of


@dataclass(frozen=True)
class _Case:
    name: str
    target: Target
    unit: str = "Gbit/s"

    @contextlib.asynccontextmanager
    async def opened(self, bed: NetworkBed) -> AsyncIterator[Mapping[str, Measure]]:
        yield {}


_FASTER, _QUICK = _Case("faster", Target(0.95, is_least=True)), _Case("quick_ms", Target(150, is_least=False), "ms")
_SAMPLES = {"faster": {"moorage": [9.0, 4.0, 1.0], "docker0": [10.0, 5.0, 1.0]}, "quick_ms": {"moorage": [10, 20, 30]}}


def test_two_sides_are_compared_round_by_round_and_one_stands_for_itself() -> None:
    assert value_of(_SAMPLES["faster"]).median == pytest.approx(0.9)
    assert value_of(_SAMPLES["quick_ms"]).median == 20


def test_the_result_says_what_was_reached() -> None:
    found = result([_FASTER, _QUICK], _SAMPLES, {"rounds": 3})
    assert (found["faster"], found["quick_ms"]) == (0.9, 20)
    assert found["targets"] == {
        "faster": {"at_least": 0.95, "is_met": False},
        "quick_ms": {"at_most": 150, "is_met": True},
    }
    assert "MISSED" in table([_FASTER], _SAMPLES)
    assert "MISSED" not in table([_QUICK], _SAMPLES)

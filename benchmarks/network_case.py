"""What a measurement of networks is, and what its numbers say. Pure but for the two protocols.

A case has one side or two. With two, its value is the median over the rounds of ours / theirs of the same round: what
disturbs a round disturbs both of its halves. With one it is the median of that side.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.deploy_summary import Spread
from benchmarks.network_bed import NetworkBed

OURS = "moorage"
Measure = Callable[[], Awaitable[float]]  # one value, in the case's unit


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached."""

    limit: float
    is_least: bool  # else it is the most

    def is_met(self, value: float) -> bool:
        """Whether a value will do."""
        return value >= self.limit if self.is_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.is_least else 'at most'} {self.limit:g}"


class Case(Protocol):
    """One number of the result. Each lives in a module of its own and is listed in network.py."""

    @property
    def name(self) -> str:
        """Of the number, such as `same_host_vs_docker0`."""

    @property
    def unit(self) -> str:
        """Of each side's values."""

    @property
    def target(self) -> Target: ...

    def opened(self, bed: NetworkBed) -> AbstractAsyncContextManager[Mapping[str, Measure]]:
        """Everything made that is measured; the sides by name, ours as `OURS`. Gone after the block."""


Samples = Mapping[str, Sequence[float]]  # by side, one value a round


def value_of(samples: Samples) -> Spread:
    """Of one case: ratios with two sides, plain values with one."""
    ours = samples[OURS]
    others = [side for side in samples if side != OURS]
    if not others:
        return Spread.of(ours)
    return Spread.of([mine / theirs for mine, theirs in zip(ours, samples[others[0]], strict=True)])


def result(
    cases: Sequence[Case], samples: Mapping[str, Samples], parameters: Mapping[str, object]
) -> dict[str, object]:
    """The JSON object of the last line; samples by the case's name."""
    found = {case.name: value_of(samples[case.name]) for case in cases}
    return {
        "benchmark": "network",
        **{name: round(spread.median, 4) for name, spread in found.items()},
        "targets": {
            case.name: {
                ("at_least" if case.target.is_least else "at_most"): case.target.limit,
                "is_met": case.target.is_met(found[case.name].median),
            }
            for case in cases
        },
        "values": {name: spread.as_json() for name, spread in found.items()},
        "sides": {
            f"{case.name}/{side}": {"unit": case.unit, **Spread.of(values).as_json()}
            for case in cases
            for side, values in samples[case.name].items()
        },
        "parameters": dict(parameters),
    }


def table(cases: Sequence[Case], samples: Mapping[str, Samples]) -> str:
    """For people: each side, then what is to be reached."""
    lines = [f"{'case':<24}{'side':<10}{'min':>10}{'q1':>10}{'median':>10}{'q3':>10}{'max':>10}   unit"]
    for case in cases:
        for side, values in samples[case.name].items():
            spread = Spread.of(values)
            numbers = (spread.least, spread.lower_quartile, spread.median, spread.upper_quartile, spread.greatest)
            lines.append(f"{case.name:<24}{side:<10}" + "".join(f"{n:>10.3f}" for n in numbers) + f"   {case.unit}")
    lines.append("")
    for case in cases:
        value = value_of(samples[case.name]).median
        lines.append(
            f"{case.name:<24}{value:>10.3f}   {case.target} {'met' if case.target.is_met(value) else 'MISSED'}"
        )
    return "\n".join(lines)

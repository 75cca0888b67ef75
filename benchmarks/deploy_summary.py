"""What the numbers say: medians, spreads, ratios and targets. Pure.

A ratio is the median over the rounds of (Moorage's time / the other's time of the same round): what disturbs a round
disturbs both of its halves.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: By name, what is to be reached at most.
TARGETS: Mapping[str, float] = {
    "one_vs_swarm": 0.2,
    "one_vs_docker_run": 0.75,
    "fifty_vs_swarm": 0.35,
    "removal_vs_swarm": 0.3,
    "controlplane_rss_mb": 120,
    "agent_rss_mb": 85,
    "wrapper_ms": 3,
}

Samples = Mapping[str, Sequence[float]]  # "case/side" to seconds, one a round


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one set of measurements."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """At least one value."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(statistics.median(values), min(values), low, high, max(values), len(values))

    def as_json(self) -> dict[str, float]:
        """Rounded to a tenth of a millisecond, if the unit is a second."""
        return {
            "median": round(self.median, 4),
            "min": round(self.least, 4),
            "q1": round(self.lower_quartile, 4),
            "q3": round(self.upper_quartile, 4),
            "max": round(self.greatest, 4),
            "n": self.count,
        }


def paired_ratio(samples: Samples, case: str, side: str, other_case: str, other_side: str) -> Spread:
    """Of one side's times to the other's, round by round."""
    pairs = zip(samples[f"{case}/{side}"], samples[f"{other_case}/{other_side}"], strict=True)
    return Spread.of([ours / theirs for ours, theirs in pairs])


def ratios(samples: Samples) -> dict[str, Spread]:
    """The ratios of the result; `removal_vs_swarm` is the worse one of a single and of many instances."""
    removals = [paired_ratio(samples, case, "moorage", case, "swarm") for case in ("one_removal", "many_removal")]
    return {
        "one_vs_swarm": paired_ratio(samples, "one", "moorage", "one", "swarm"),
        "one_vs_docker_run": paired_ratio(samples, "one", "moorage", "one", "docker_api"),
        "fifty_vs_swarm": paired_ratio(samples, "many", "moorage", "many", "swarm"),
        "removal_vs_swarm": max(removals, key=lambda spread: spread.median),
    }


def result(samples: Samples, footprint: Mapping[str, float], parameters: Mapping[str, object]) -> dict[str, object]:
    """The JSON object of the last line.

    Args:
        footprint: `controlplane_rss_mb`, `agent_rss_mb`, `wrapper_ms` and what else was measured once.
        parameters: rounds, limits and the like, for whoever reads the object later.
    """
    found = ratios(samples)
    values = {name: spread.median for name, spread in found.items()} | dict(footprint)
    return {
        "benchmark": "deploy",
        **{name: round(value, 4) for name, value in values.items()},
        "targets": {
            name: {"at_most": limit, "is_met": values[name] <= limit}
            for name, limit in TARGETS.items()
            if name in values
        },
        "ratios": {name: spread.as_json() for name, spread in found.items()},
        "seconds": {name: Spread.of(values).as_json() for name, values in samples.items()},
        "parameters": dict(parameters),
    }


def table(samples: Samples, found: Mapping[str, object]) -> str:
    """For people: every case and side, then what is to be reached."""
    lines = [f"{'case':<14}{'side':<13}{'min':>9}{'q1':>9}{'median':>9}{'q3':>9}{'max':>9}   seconds"]
    for name, values in samples.items():
        case, side = name.split("/")
        spread = Spread.of(values)
        numbers = (spread.least, spread.lower_quartile, spread.median, spread.upper_quartile, spread.greatest)
        lines.append(f"{case:<14}{side:<13}" + "".join(f"{number:>9.3f}" for number in numbers))
    lines.append("")
    for name, limit in TARGETS.items():
        value = found.get(name)
        if isinstance(value, int | float):
            lines.append(f"{name:<22}{value:>9.3f}   at most {limit:<6g} {'met' if value <= limit else 'MISSED'}")
    return "\n".join(lines)

"""Autoscaling policies: from which load on a cluster gets more members."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Id, Real, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsThreshold(Part):
    """Requests in flight, a member."""

    threshold: float | None = key("threshold", Real(0, 1e9), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentThreshold(Part):
    """Percent of what a member has."""

    threshold: float | None = key("threshold", Real(0, 100), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadThresholds(Part):
    """What is looked at; one that is absent, or 0, is not."""

    requests_in_flight: RequestsThreshold | None = key("requestsInFlight", Nested(RequestsThreshold))
    memory_consumption: PercentThreshold | None = key("memoryConsumption", Nested(PercentThreshold))
    load_average: PercentThreshold | None = key("loadAverage", Nested(PercentThreshold))

    def check(self, findings: Findings) -> None:
        parts = (self.requests_in_flight, self.memory_consumption, self.load_average)
        if not any(part and part.threshold for part in parts):
            findings.note(self.at, "NO_THRESHOLD", "no threshold is above 0: clusters with this policy are not scaled")


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingPolicy(Part):
    """Clusters name it."""

    id: str = key("id", Id(), required=True)
    display_name: str = key("displayName", Text())
    description: str = key("description", Text(limit=65536))
    load_thresholds: LoadThresholds | None = key("loadThresholds", Nested(LoadThresholds), required=True)

"""Figures of a router's balancers, out of what each HAProxy process says of itself. Pure.

A reload starts a process with counters at zero, and old ones end, so totals are kept here over processes: the last sample of one that
has gone is added to all that come later. What an old process still serves is under way like everything else. A process that ends between
two samples takes with it what it counted since the last one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hostagent.router.haproxy_answers import StatLine, Stats
from hostagent.router.haproxy_config import backend_name, instance_of, server_name
from moorage.router_bundle import BackendFigure, BalancerBundle, PoolBundle, PoolFigure

_Key = tuple[str, str]  # back end and server; "" stands for the back end itself


@dataclass(frozen=True, slots=True)
class Counted:
    """What only rises."""

    total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(self.total + other.total, self.bytes_in + other.bytes_in, self.bytes_out + other.bytes_out)


@dataclass(frozen=True, slots=True)
class History:
    """What was seen of each process.

    Attributes:
        samples: the last of each process, by pid; the newest process last.
        ended: what processes counted that have gone.
    """

    samples: Mapping[int, Stats] = field(default_factory=dict)
    ended: Mapping[_Key, Counted] = field(default_factory=dict)

    def seen(self, samples: Mapping[int, Stats]) -> "History":
        """The history after all processes that there are were asked; the newest is last."""
        ended = dict(self.ended)
        for pid in self.samples.keys() - samples.keys():
            for key, line in _lines(self.samples[pid]):
                ended[key] = ended.get(key, Counted()) + _counted(line)
        return History(dict(samples), ended)


def draining(balancers: Sequence[BalancerBundle], history: History) -> tuple[str, ...]:
    """Instances that are behind none of these balancers and have connections through a process, an old one perhaps; sorted."""
    behind = {backend.instance_id for balancer in balancers for pool in balancer.pools for backend in pool.backends}
    busy = {
        instance_of(server)
        for stats in history.samples.values()
        for (_, server), line in stats.servers.items()
        if line.in_flight or line.queued
    }
    return tuple(sorted(busy - behind))


def pool_figures(balancers: Sequence[BalancerBundle], history: History) -> tuple[PoolFigure, ...]:
    """Figures of each pool of these balancers."""
    return tuple(_pool(balancer, pool, history) for balancer in balancers for pool in balancer.pools)


def _pool(balancer: BalancerBundle, pool: PoolBundle, history: History) -> PoolFigure:
    name = backend_name(balancer.balancer_id, pool.pool_id)
    lines = [stats.backends[name] for stats in history.samples.values() if name in stats.backends]
    counted = _sum(lines, history.ended.get((name, ""), Counted()))
    return PoolFigure(
        balancer.balancer_id,
        pool.pool_id,
        in_flight=sum(line.in_flight for line in lines),
        queued=sum(line.queued for line in lines),
        total=counted.total,
        bytes_in=counted.bytes_in,
        bytes_out=counted.bytes_out,
        backends=tuple(_backend(name, b.instance_id, b.port, history) for b in pool.backends),
    )


def _backend(pool_name: str, instance_id: str, port: int, history: History) -> BackendFigure:
    key = (pool_name, server_name(instance_id, port))
    lines = [stats.servers[key] for stats in history.samples.values() if key in stats.servers]
    newest = lines[-1] if lines else None
    return BackendFigure(
        instance_id,
        state=server_state(newest) if newest else "",
        check=newest.check if newest else "",
        in_flight=sum(line.in_flight for line in lines),
        total=_sum(lines, history.ended.get(key, Counted())).total,
    )


def server_state(line: StatLine) -> str:
    """ "up", "down", "drain", "maint" or "no check"."""
    status = line.status.lower()
    if status.startswith("maint"):
        return "maint"
    if status.startswith(("down", "stopping")):
        return "down"
    if line.weight == 0 or status.startswith(("drain", "nolb")):
        return "drain"
    return "no check" if status.startswith("no check") else "up"


def _lines(stats: Stats) -> Iterable[tuple[_Key, StatLine]]:
    yield from (((name, ""), line) for name, line in stats.backends.items())
    yield from stats.servers.items()


def _counted(line: StatLine) -> Counted:
    return Counted(line.total, line.bytes_in, line.bytes_out)


def _sum(lines: Iterable[StatLine], start: Counted) -> Counted:
    for line in lines:
        start += _counted(line)
    return start

"""What clients see of an application: which ports its balancer listens at, and which cluster a request goes to."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from paas_adapter.documents.domain_mapping import DomainMapping
from paas_adapter.documents.places import NOWHERE, Findings, Place
from paas_adapter.mapping.model import Application, Cluster, Port, Protocol


@dataclass(frozen=True, slots=True)
class Target:
    """A port of all members of a cluster."""

    cluster: str
    port: int
    #: Whether a client comes back to the same member.
    sticky: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Requests for a name and below a path."""

    #: Lower-case.
    host: str
    #: Begins with "/", without one at its end but for "/" itself.
    path: str
    target: Target
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Listening:
    """A port at which clients come in."""

    port: int
    #: Who takes all connections, or, with routes, the requests that no route names.
    default: Target
    #: HTTP: in order of name and path. None: connections are passed on as they are.
    routes: tuple[Route, ...] = ()
    is_http: bool = False


def listeners(
    application: Application, domains: Iterable[DomainMapping] = (), findings: Findings | None = None
) -> tuple[Listening, ...]:
    """In order of port.

    HTTP ports are shared: the name decides. A port that passes connections on belongs to the first cluster that offers it; the others are
    told as notices, since their members run all the same.
    """
    findings = findings if findings is not None else Findings()
    by_cluster: dict[str, list[DomainMapping]] = {}
    for domain in domains:
        by_cluster.setdefault(domain.cartridge_alias, []).append(domain)
    taken: dict[int, Listening] = {}
    for cluster in application.level.clusters():
        for port in cluster.container.ports:
            if port.listen is not None:
                _take(taken, cluster, port, port.listen, by_cluster.get(cluster.alias, []), findings)
    return tuple(taken[number] for number in sorted(taken))


def _take(
    taken: dict[int, Listening],
    cluster: Cluster,
    port: Port,
    number: int,
    domains: list[DomainMapping],
    findings: Findings,
) -> None:
    target = Target(cluster.alias, port.number, cluster.sticky)
    is_http = port.protocol is Protocol.HTTP
    there = taken.get(number)
    if there is not None and not (there.is_http and is_http):
        message = f"{cluster.alias} is not reached at {number}: {there.default.cluster} has that port already"
        findings.note(port.at, "PORT_TAKEN", message)
        return
    if not is_http:
        taken[number] = Listening(number, target)
        return
    own = [Route(cluster.host_name, "/", target, port.at)]
    own += [
        Route(domain.domain_name.lower(), domain.context_path.rstrip("/") or "/", target, domain.at)
        for domain in domains
    ]
    routes = {(route.host, route.path): route for route in (there.routes if there else ())}
    for route in own:
        other = routes.setdefault((route.host, route.path), route)
        if other.target != target:
            message = f"{route.host}{route.path} leads to {other.target.cluster} already"
            findings.note(route.at, "PORT_TAKEN", message)
    ordered = tuple(routes[key] for key in sorted(routes))
    taken[number] = Listening(number, there.default if there else target, ordered, True)

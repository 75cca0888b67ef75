"""What an application is to Moorage: no word here is Stratos's own, so that other forms of documents can be mapped to the same values.

Each value says where it comes from (`at`), so that what is wrong with it later can still be told by file and JSON path. Places are no part
of what values are: two applications are equal when the same would run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from paas_adapter.documents.places import NOWHERE, Place


def _at() -> Any:
    return field(default=NOWHERE, compare=False)


class Protocol(Enum):
    """What is spoken at a port."""

    HTTP = "http"
    #: TLS that the members end themselves.
    HTTPS = "https"
    TCP = "tcp"


class Termination(Enum):
    """What happens to the other children of a level when one is lost."""

    #: Nothing: it alone is made anew.
    NONE = "none"
    #: Those that come after it in the order are ended too, and started in order again.
    DEPENDENTS = "dependents"
    #: All are.
    ALL = "all"


class Filling(Enum):
    """In which order pools are used."""

    #: The next when the one before is full; emptied from the last.
    IN_ORDER = "in order"
    #: Evenly; one that is full is passed over.
    EVENLY = "evenly"


@dataclass(frozen=True, slots=True)
class Image:
    """What members are made of."""

    #: As registries have it: host/name:tag or @digest.
    reference: str
    #: Whether the tag is looked up anew with each apply; else the template that is there is used.
    looked_up: bool = False
    #: Secret with the registry's credentials; empty: none.
    credentials: str = ""
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Template:
    """A template that must be there."""

    #: Last part of its name; other images have other names.
    id: str
    image: Image


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment."""

    name: str
    value: str = field(repr=False)
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Amount:
    """A limit in its unit."""

    value: int
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a member may use; None: no limit."""

    #: Thousandths of a core.
    cpu_millis: Amount | None = None
    memory_bytes: Amount | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the container."""

    name: str
    protocol: Protocol
    number: int
    #: Port at the balancer; None: it is not offered.
    listen: int | None = None
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Readiness:
    """A member is ready when a connection to this port is accepted."""

    port: int
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Volume:
    """Files that outlive a member."""

    #: Of the slot's own volume, at most 7 characters; unique in the container.
    name: str
    target: str
    #: None: no limit.
    size_bytes: int | None = None
    #: Whether it is deleted with the group.
    goes_with_group: bool = False
    #: A volume that is there, instead of one for each slot; empty: each slot has its own.
    existing: str = ""
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Repository:
    """Where artifacts come from."""

    url: str
    #: Branch, tag or commit; empty: the default branch.
    ref: str = ""
    #: Folder of the repository; empty: all of it.
    directory: str = ""
    depth: int = 1
    submodules: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class ArtifactMount:
    """A folder of the container that holds artifacts."""

    target: str
    #: None: only sign-ups bring some.
    repository: Repository | None
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Container:
    """What each member of a cluster is. A change of it is a new revision; numbers and places of members are no part of it."""

    template: Template
    #: In order of name.
    env: tuple[Variable, ...] = ()
    limits: Limits = Limits()
    ports: tuple[Port, ...] = ()
    #: None: ready while it runs.
    readiness: Readiness | None = None
    volumes: tuple[Volume, ...] = ()
    artifacts: ArtifactMount | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on load asks for more members; None: it is not looked at."""

    #: Name of the policy.
    policy: str
    #: Requests, a member.
    requests_in_flight: float | None = None
    #: Percent of a member's limit.
    memory_percent: float | None = None
    #: Percent of a member's processors.
    load_percent: float | None = None
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Pool:
    """Hosts that members may go to."""

    id: str
    #: Last part of the zone's name; empty: any.
    zone: str = ""
    #: Labels that hosts must have, in order of name.
    host_labels: tuple[tuple[str, str], ...] = ()
    #: Members of one cluster at most; None: no limit.
    cap: int | None = None
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Region:
    """Pools that are used together: a network partition as one deployment policy uses it."""

    id: str
    filling: Filling
    pools: tuple[Pool, ...]
    #: Environment of members there, over the container's own.
    env: tuple[Variable, ...] = ()
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class MetadataKey:
    """A value that one cluster publishes and others read."""

    #: Alias of the cluster that publishes it.
    owner: str
    key: str
    at: Place = _at()

    def __str__(self) -> str:
        return f"{self.owner}.{self.key}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A component: members of one kind."""

    #: Unique in the application.
    alias: str
    #: Name of what it is made of, such as the type of its cartridge.
    made_of: str
    container: Container
    #: Members of each of its instances.
    least: int
    most: int
    thresholds: Thresholds | None
    #: Where it may go, by id of the region.
    regions: tuple[Region, ...]
    #: Name under which clients reach it.
    host_name: str
    #: Whether a client comes back to the same member.
    sticky: bool = False
    #: Whether it is a balancer itself.
    is_balancer: bool = False
    exports: tuple[MetadataKey, ...] = ()
    imports: tuple[MetadataKey, ...] = ()
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class ClusterGroup:
    """Components that there are several times as a whole."""

    #: Unique in the application.
    alias: str
    #: Name of what it is made of.
    made_of: str
    #: Instances of the whole.
    least: int
    most: int
    level: "Level"
    at: Place = _at()


Component: TypeAlias = Cluster | ClusterGroup


@dataclass(frozen=True, slots=True)
class Edge:
    """`then` starts once `first` is active. Aliases of children of one level."""

    first: str
    then: str
    at: Place = _at()


@dataclass(frozen=True, slots=True)
class Level:
    """Components that are started, ended and scaled in relation to each other."""

    children: tuple[Component, ...]
    #: Without a circle.
    order: tuple[Edge, ...] = ()
    #: Aliases of children that are scaled in proportion.
    scaled_together: tuple[tuple[str, ...], ...] = ()
    termination: Termination = Termination.NONE

    def clusters(self) -> Iterator[Cluster]:
        """All of it, at any depth, in order."""
        for child in self.children:
            if isinstance(child, Cluster):
                yield child
            else:
                yield from child.level.clusters()


@dataclass(frozen=True, slots=True)
class Application:
    """What is deployed as one."""

    id: str
    level: Level
    name: str = ""
    multi_tenant: bool = False
    at: Place = _at()

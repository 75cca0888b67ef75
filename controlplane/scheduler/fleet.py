"""The fleet as columns: one row a host, so that one pass over ten thousand hosts is vector arithmetic.

Built once from a view and then kept true by the store's changes; `copy()` gives a plan its own to write into.
Invariant: used amounts are the sums over the instances that are placed here and not gone, which includes those that are being
deleted: resources are free only when the agent has said that the container is gone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.domain.hosts import Host, HostAdminState, HostLinkState
from controlplane.domain.instances import Instance
from controlplane.scheduler.request import port_key

IntColumn = npt.NDArray[np.int64]
BoolColumn = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Placed:
    """One placed instance, as far as others care."""

    uid: str
    project: str
    template_uid: str
    labels: Mapping[str, str]
    host_uid: str
    cpu_millis: int
    memory_bytes: int
    ports: tuple[tuple[str, int, str], ...]


def placed_of(instance: Instance) -> Placed | None:
    """What the instance takes of its host; None when it has none."""
    if not instance.host_uid:
        return None
    resources = instance.effective.resources
    ports = tuple(port_key(port) for port in instance.effective.published_ports)
    return Placed(
        instance.uid,
        instance.project,
        instance.template_uid,
        instance.labels,
        instance.host_uid,
        resources.cpu_millis,
        resources.memory_bytes,
        ports,
    )


class Fleet:
    """Hosts in order of name, with what their instances take."""

    def __init__(self, hosts: Iterable[Host], instances: Iterable[Instance]) -> None:
        self._placed: dict[str, Placed] = {}
        for instance in instances:
            placed = placed_of(instance)
            if placed is not None:
                self._placed[placed.uid] = placed
        self._set_hosts({host.uid: host for host in hosts})

    def _set_hosts(self, hosts: dict[str, Host]) -> None:
        """Build every column anew; happens when hosts come or go, which is rare."""
        self.hosts: list[Host] = sorted(hosts.values(), key=lambda host: host.id)
        self.row: dict[str, int] = {host.uid: row for row, host in enumerate(self.hosts)}
        size = len(self.hosts)
        self.cpu_total: IntColumn = np.zeros(size, np.int64)
        self.memory_total: IntColumn = np.zeros(size, np.int64)
        self.is_up: BoolColumn = np.zeros(size, np.bool_)
        self.is_enabled: BoolColumn = np.zeros(size, np.bool_)
        self.is_healthy: BoolColumn = np.zeros(size, np.bool_)
        self.cpu_used: IntColumn = np.zeros(size, np.int64)
        self.memory_used: IntColumn = np.zeros(size, np.int64)
        self.instances: IntColumn = np.zeros(size, np.int64)
        self.members: list[dict[str, Placed]] = [{} for _ in range(size)]
        for row, host in enumerate(self.hosts):
            self._set_row(row, host)
        for placed in self._placed.values():
            self._add(placed)

    def _set_row(self, row: int, host: Host) -> None:
        self.hosts[row] = host
        self.cpu_total[row] = host.facts.cpu_millis
        self.memory_total[row] = host.facts.memory_bytes
        self.is_up[row] = host.link_state is HostLinkState.UP
        self.is_enabled[row] = host.admin_state is HostAdminState.ENABLED
        self.is_healthy[row] = not host.conditions

    def _add(self, placed: Placed, sign: int = 1) -> None:
        row = self.row.get(placed.host_uid)
        if row is None:
            return
        self.cpu_used[row] += sign * placed.cpu_millis
        self.memory_used[row] += sign * placed.memory_bytes
        self.instances[row] += sign
        if sign > 0:
            self.members[row][placed.uid] = placed
        else:
            self.members[row].pop(placed.uid, None)

    def update_host(self, before: Host | None, after: Host | None) -> None:
        """A host came, changed or went."""
        if before is not None and after is not None and before.id == after.id and after.uid in self.row:
            self._set_row(self.row[after.uid], after)
            return
        hosts = {host.uid: host for host in self.hosts}
        if before is not None:
            hosts.pop(before.uid, None)
        if after is not None:
            hosts[after.uid] = after
        self._set_hosts(hosts)

    def update_instance(self, before: Instance | None, after: Instance | None) -> None:
        """An instance came, changed or went."""
        if before is not None:
            old = self._placed.pop(before.uid, None)
            if old is not None:
                self._add(old, -1)
        if after is not None:
            new = placed_of(after)
            if new is not None:
                self.place(new)

    def place(self, placed: Placed) -> None:
        """Count one more instance."""
        self._placed[placed.uid] = placed
        self._add(placed)

    def all_placed(self) -> Iterable[Placed]:
        """Every placed instance."""
        return self._placed.values()

    def topology(self, row: int, name: str) -> str:
        """Which place of the kind `name` the host is in; empty: none."""
        host = self.hosts[row]
        if name == "host":
            return host.uid
        if name == "zone":
            return host.zone
        return host.labels.get(name, "")

    def copy(self) -> "Fleet":
        """One that can be written to without changing this one."""
        other = Fleet.__new__(Fleet)
        other._placed = dict(self._placed)
        other.hosts = list(self.hosts)
        other.row = dict(self.row)
        for column in ("cpu_total", "memory_total", "is_up", "is_enabled", "is_healthy"):
            setattr(other, column, getattr(self, column))
        for column in ("cpu_used", "memory_used", "instances"):
            setattr(other, column, getattr(self, column).copy())
        other.members = [dict(members) for members in self.members]
        return other

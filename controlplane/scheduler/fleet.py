"""The fleet as columns: one row a host, so that one pass over ten thousand hosts is vector arithmetic.

Built once from a view and then kept true by the store's changes. What is asked by name (zones, labels, platforms) is kept as a
column of numbers, what only some instances have (ports, labels, a template) as a table of those that have it: no filter or score
visits every host in Python.

Invariant: used amounts are the sums over the instances that are placed here and not gone, which includes those that are being
deleted: resources are free only when the agent has said that the container is gone. Places that are kept for somebody count too.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from controlplane.domain.containers import DeviceRequest
from controlplane.domain.hosts import Host, HostLinkState, capacity_of
from controlplane.domain.instances import Instance
from controlplane.scheduler.devices import choose
from controlplane.scheduler.placed import Kin, Placed, placed_of
from controlplane.scheduler.reservations import Reservations

IntColumn = npt.NDArray[np.int64]
BoolColumn = npt.NDArray[np.bool_]

K = TypeVar("K")
U = TypeVar("U")
V = TypeVar("V")

_DEVICE_COLUMNS = 64  # kept for wishes that come again, such as those of a group's members


@dataclass(frozen=True, slots=True)
class Attribute:
    """A text of each host as a number: equal texts have equal numbers. None is "has none"."""

    codes: IntColumn
    values: Mapping[str | None, int]

    def equals(self, value: str) -> BoolColumn:
        """The hosts that have this value."""
        found: BoolColumn = self.codes == self.values.get(value, -1)
        return found

    def is_any_of(self, codes: Iterable[int]) -> BoolColumn:
        """The hosts that have one of these numbers."""
        is_wanted = np.zeros(len(self.values), np.bool_)
        is_wanted[list(codes)] = True
        found: BoolColumn = is_wanted[self.codes]
        return found


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
        self.row_by_id: dict[str, int] = {host.id: row for row, host in enumerate(self.hosts)}
        size = len(self.hosts)
        self.cpu_total: IntColumn = np.zeros(size, np.int64)
        self.memory_total: IntColumn = np.zeros(size, np.int64)
        self.is_up: BoolColumn = np.zeros(size, np.bool_)
        self.admin: IntColumn = np.zeros(size, np.int64)  # numbers of HostAdminState
        self.is_healthy: BoolColumn = np.zeros(size, np.bool_)
        self.cpu_used: IntColumn = np.zeros(size, np.int64)
        self.memory_used: IntColumn = np.zeros(size, np.int64)
        self.instances: IntColumn = np.zeros(size, np.int64)
        self.given_up: IntColumn = np.zeros(size, np.int64)
        self.reservations = Reservations(size)
        self._by_host: dict[int, dict[str, Placed]] = {}
        self._by_kin: dict[Kin, dict[str, Placed]] = {}
        self._by_image: dict[str, set[int]] = {}  # digest -> rows
        self._with_devices: set[int] = set()
        self._taken: dict[int, dict[tuple[str, str], str]] = {}  # row -> device -> uid of who has it
        self._device_columns: dict[tuple[DeviceRequest, ...], BoolColumn] = {}
        self._by_template: dict[tuple[str, str], dict[int, int]] = {}  # (project, template) -> row -> how many
        self._by_port: dict[tuple[str, int], dict[str, Placed]] = {}
        self._by_network: dict[str, dict[str, Placed]] = {}
        self._by_label: dict[tuple[str, str, str], dict[str, Placed]] = {}  # (project, key, value)
        self._attributes: dict[str, Attribute] = {}
        for row, host in enumerate(self.hosts):
            self._set_row(row, host, ())
        for placed in self._placed.values():
            self._add(placed)

    def _set_row(self, row: int, host: Host, known_images: Iterable[str]) -> None:
        self.hosts[row] = host
        self.cpu_total[row], self.memory_total[row] = capacity_of(host)
        self.reservations.set_row(row, host.settings.reservations)
        for digest in known_images:
            rows = self._by_image.get(digest, set())
            rows.discard(row)
            if not rows:
                self._by_image.pop(digest, None)
        for digest in host.facts.images:
            self._by_image.setdefault(digest, set()).add(row)
        if host.facts.devices:
            self._with_devices.add(row)
        else:
            self._with_devices.discard(row)
        self._judge_devices(row)
        self.is_up[row] = host.link_state is HostLinkState.UP
        self.admin[row] = host.admin_state.value
        self.is_healthy[row] = not host.conditions

    def _add(self, placed: Placed) -> None:
        for item in placed.labels.items():
            self._by_label.setdefault((placed.project, *item), {})[placed.uid] = placed
        self._by_kin.setdefault(placed.kin, {})[placed.uid] = placed
        row = self.row.get(placed.host_uid)
        if row is None:
            return
        self._by_host.setdefault(row, {})[placed.uid] = placed
        self.reservations.use(row, placed.project, placed.cpu_millis, placed.memory_bytes)
        if placed.devices:
            self._taken.setdefault(row, {}).update(dict.fromkeys(placed.devices, placed.uid))
            self._judge_devices(row)
        self.cpu_used[row] += placed.cpu_millis
        self.memory_used[row] += placed.memory_bytes
        self.instances[row] += 1
        self.given_up[row] += placed.is_given_up
        rows = self._by_template.setdefault((placed.project, placed.template_uid), {})
        rows[row] = rows.get(row, 0) + 1
        for protocol, port, _ in placed.ports:
            self._by_port.setdefault((protocol, port), {})[placed.uid] = placed
        for network in placed.networks:
            self._by_network.setdefault(network, {})[placed.uid] = placed

    def _take(self, placed: Placed) -> None:
        for item in placed.labels.items():
            _drop(self._by_label, (placed.project, *item), placed.uid)
        _drop(self._by_kin, placed.kin, placed.uid)
        row = self.row.get(placed.host_uid)
        if row is None:
            return
        _drop(self._by_host, row, placed.uid)
        self.reservations.use(row, placed.project, -placed.cpu_millis, -placed.memory_bytes)
        if placed.devices:
            taken = self._taken[row]
            for device in placed.devices:
                if taken.get(device) == placed.uid:
                    del taken[device]
            self._judge_devices(row)
        self.cpu_used[row] -= placed.cpu_millis
        self.memory_used[row] -= placed.memory_bytes
        self.instances[row] -= 1
        self.given_up[row] -= placed.is_given_up
        key = (placed.project, placed.template_uid)
        self._by_template[key][row] -= 1
        if not self._by_template[key][row]:
            _drop(self._by_template, key, row)
        for protocol, port in {(protocol, port) for protocol, port, _ in placed.ports}:
            _drop(self._by_port, (protocol, port), placed.uid)
        for network in placed.networks:
            _drop(self._by_network, network, placed.uid)

    def update_host(self, before: Host | None, after: Host | None) -> None:
        """A host came, changed or went."""
        if before is not None and after is not None and before.id == after.id and after.uid in self.row:
            row = self.row[after.uid]
            if _words_of(self.hosts[row]) != _words_of(after):
                self._attributes.clear()
            self._set_row(row, after, self.hosts[row].facts.images)
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
            self.remove(before.uid)
        if after is not None:
            new = placed_of(after)
            if new is not None:
                self.place(new)

    def place(self, placed: Placed) -> None:
        """Count one more instance."""
        self.remove(placed.uid)
        self._placed[placed.uid] = placed
        self._add(placed)

    def remove(self, uid: str) -> None:
        """Count an instance no longer; nothing happens when it was not counted."""
        placed = self._placed.pop(uid, None)
        if placed is not None:
            self._take(placed)

    def holds(self, host_uid: str, placed: Collection[Placed]) -> bool:
        """Whether these, and no others, are counted on the host."""
        row = self.row.get(host_uid)
        if row is None or len(placed) != self.instances[row]:
            return False
        return all(self._placed.get(one.uid) == one for one in placed)

    def placed(self, uid: str) -> Placed | None:
        """One instance as it is counted."""
        return self._placed.get(uid)

    def on_host(self, row: int) -> Collection[Placed]:
        """What is counted on one host, promises included."""
        return self._by_host.get(row, {}).values()

    def like(self, kin: Kin) -> Collection[Placed]:
        """The members of a group, or the instances of a template that are in none; promises included."""
        return self._by_kin.get(kin, {}).values()

    def has_image(self, digest: str) -> list[int]:
        """The rows of the hosts that hold this image."""
        return list(self._by_image.get(digest, ()))

    def taken_devices(self, row: int) -> Mapping[tuple[str, str], str]:
        """Devices of the host that somebody has: (kind, first name) to uid."""
        return self._taken.get(row, MappingProxyType({}))

    def devices_for(
        self, row: int, requests: tuple[DeviceRequest, ...], gone: Collection[str] = ()
    ) -> tuple[DeviceRequest, ...] | None:
        """What an instance would get of the host's free devices, those of `gone` (uids) among them; None when they do not do."""
        taken = [device for device, uid in self.taken_devices(row).items() if uid not in gone]
        return choose(self.hosts[row].facts.devices, taken, requests)

    def has_devices(self, requests: tuple[DeviceRequest, ...]) -> BoolColumn:
        """The hosts whose free devices do."""
        column = self._device_columns.get(requests)
        if column is None:
            if len(self._device_columns) >= _DEVICE_COLUMNS:
                self._device_columns.clear()
            column = np.zeros(len(self.hosts), np.bool_)
            for row in self._with_devices:
                column[row] = self.devices_for(row, requests) is not None
            self._device_columns[requests] = column
        return column.copy()

    def _judge_devices(self, row: int) -> None:
        """Keep the columns true after devices of a host came, went, or changed hands."""
        for requests, column in self._device_columns.items():
            column[row] = self.devices_for(row, requests) is not None

    def with_port(self, protocol: str, port: int) -> Iterable[Placed]:
        """The instances that have this port of their hosts, on whatever address."""
        return self._by_port.get((protocol, port), {}).values()

    def on_network(self, uid: str) -> Iterable[Placed]:
        """The instances that have an interface on this network."""
        return self._by_network.get(uid, {}).values()

    def with_labels(self, project: str, labels: Collection[tuple[str, str]]) -> list[Placed]:
        """The project's instances that have all these labels."""
        if not labels:
            return [placed for placed in self._placed.values() if placed.project == project]
        tables = [self._by_label.get((project, key, value), {}) for key, value in labels]
        rarest = min(tables, key=len)
        if len(tables) == 1:
            return list(rarest.values())
        return [placed for uid, placed in rarest.items() if all(uid in table for table in tables)]

    def count_of_template(self, project: str, template_uid: str) -> IntColumn:
        """How many instances of the template each host has."""
        rows = self._by_template.get((project, template_uid), {})
        column = np.zeros(len(self.hosts), np.int64)
        column[list(rows)] = list(rows.values())
        return column

    def host_uid(self, host_id: str) -> str:
        """Of the host of that name; empty when there is none."""
        row = self.row_by_id.get(host_id)
        return "" if row is None else self.hosts[row].uid

    def attribute(self, name: str) -> Attribute:
        """A kind of place: `host`, `zone`, or the name of a host label."""
        match name:
            case "host":
                return self._attribute("host", lambda host: host.uid)
            case "zone":
                return self._attribute("zone", lambda host: host.zone)
        return self.label(name)

    def label(self, name: str) -> Attribute:
        """A host label."""
        return self._attribute(f"label {name}", lambda host: host.labels.get(name))

    def platform(self) -> Attribute:
        """Platforms without their variant: linux/arm64/v8 runs wherever linux/arm64 does."""
        return self._attribute("platform", lambda host: bare_platform(host.facts.platform))

    def dedicated(self) -> Attribute:
        """Projects that alone may use a host, by line."""
        return self._attribute("dedicated", lambda host: "\n".join(host.settings.dedicated_to) or None)

    def taints(self) -> Attribute:
        """Taints of a host, by line."""
        return self._attribute("taints", lambda host: "\n".join(host.settings.taints) or None)

    def has_bridge(self, name: str) -> BoolColumn:
        """The hosts that have a bridge of that name."""
        return self._attribute(f"bridge {name}", lambda h: "yes" if name in h.facts.bridges else None).equals("yes")

    def can_size_volumes(self) -> BoolColumn:
        """The hosts that can limit the size of a volume."""
        return self._attribute("volumes", lambda h: None if h.facts.volume_size_problem else "sized").equals("sized")

    def has_nic(self, name: str) -> BoolColumn:
        """The hosts that have a NIC of that name."""
        return self._attribute(f"nic {name}", lambda h: "yes" if name in h.facts.links else None).equals("yes")

    def _attribute(self, key: str, read: Callable[[Host], str | None]) -> Attribute:
        found = self._attributes.get(key)
        if found is None:
            values: dict[str | None, int] = {None: 0}
            codes = [values.setdefault(read(host), len(values)) for host in self.hosts]
            found = self._attributes[key] = Attribute(np.array(codes, np.int64), values)
        return found


def bare_platform(platform: str) -> str:
    """Without the variant."""
    return "/".join(platform.split("/")[:2])


def _words_of(host: Host) -> tuple[object, ...]:
    """What attributes are made of."""
    facts, settings = host.facts, host.settings
    return (
        host.zone,
        host.labels,
        facts.platform,
        facts.volume_size_problem,
        facts.bridges,
        facts.links,
        settings.dedicated_to,
        settings.taints,
    )


def _drop(table: dict[K, dict[U, V]], key: K, inner: U) -> None:
    """Remove an entry of a table of tables, and the inner table with its last one."""
    entries = table[key]
    del entries[inner]
    if not entries:
        del table[key]

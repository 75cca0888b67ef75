"""What the kernel cannot tell after a restart of the agent: which transit pair a network has, which port leads where,
which hosts may send into which network, and what a NIC was like before a network was put on it.

Small JSON files under run_dir/state, written whole and renamed into place. The folder is on the same volatile file
system as the namespaces, so after a reboot both are gone together. A file that cannot be read counts as absent: the
agent's next call makes it anew.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostagent.netlink.rules import Binding, Transit
from hostagent.netlink.segment_rules import Segment
from moorage.ids import InstanceId, NetworkId


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """What is kept of an isolated network."""

    network_id: NetworkId
    vni: int
    mtu: int
    subnets: tuple[tuple[str, str], ...]  # CIDR, gateway or empty
    egress: bool
    transit: Transit


@dataclass(frozen=True, slots=True)
class AttachmentRecord:
    """A NIC of the host that a shared network stands on, as it was before, and where it is now."""

    network_id: NetworkId
    parent: str
    was_up: bool
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()  # that were moved away from it
    routes: tuple[tuple[str, str, int, int], ...] = ()  # CIDR, gateway or empty, table, protocol
    instance_id: str = ""  # that it is in, as a whole
    interface: str = ""  # its name there


class StateFolder:
    """The files. Blocking, small."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._networks = folder / "networks"
        self._ports = folder / "ports"
        self._segments = folder / "segments"
        self._attachments = folder / "attachments"

    def prepare(self) -> None:
        """Make the folders."""
        self._networks.mkdir(parents=True, exist_ok=True)
        self._ports.mkdir(parents=True, exist_ok=True)
        self._segments.mkdir(parents=True, exist_ok=True)
        self._attachments.mkdir(parents=True, exist_ok=True)

    def destroy(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def load(self) -> tuple[dict[NetworkId, NetworkRecord], dict[InstanceId, tuple[Binding, ...]]]:
        """Everything that was kept."""
        networks: dict[NetworkId, NetworkRecord] = {}
        for data in _read_all(self._networks):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                subnets = tuple((str(cidr), str(gateway)) for cidr, gateway in data.pop("subnets"))
                record = NetworkRecord(**(data | {"subnets": subnets, "transit": Transit(int(data["transit"]))}))
                networks[record.network_id] = record
        ports: dict[InstanceId, tuple[Binding, ...]] = {}
        for data in _read_all(self._ports):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                ports[InstanceId(data["instance_id"])] = tuple(Binding(**one) for one in data["bindings"])
        return networks, ports

    def keep_network(self, record: NetworkRecord) -> None:
        """Write one network."""
        fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        _write(self._networks / record.network_id, fields | {"transit": record.transit.index})

    def drop_network(self, network_id: NetworkId) -> None:
        """Forget one network."""
        (self._networks / network_id).unlink(missing_ok=True)

    def attachments(self) -> list[AttachmentRecord]:
        """All that are kept."""
        found = []
        for data in _read_all(self._attachments) if self._attachments.is_dir() else ():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                routes = tuple((str(c), str(via), int(t), int(p)) for c, via, t, p in data.pop("routes"))
                addresses = tuple(map(str, data.pop("addresses")))
                found.append(AttachmentRecord(**data, addresses=addresses, routes=routes))
        return found

    def attachment(self, network_id: NetworkId) -> AttachmentRecord | None:
        """That of one network."""
        return next((one for one in self.attachments() if one.network_id == network_id), None)

    def keep_attachment(self, record: AttachmentRecord) -> None:
        """Write one down."""
        _write(self._attachments / record.network_id, dataclasses.asdict(record))

    def drop_attachment(self, network_id: NetworkId) -> None:
        """Forget one."""
        (self._attachments / network_id).unlink(missing_ok=True)

    def keep_ports(self, instance_id: InstanceId, bindings: tuple[Binding, ...]) -> None:
        """Write one instance's ports; none removes the file."""
        path = self._ports / instance_id
        if not bindings:
            path.unlink(missing_ok=True)
            return
        _write(path, {"instance_id": instance_id, "bindings": [dataclasses.asdict(one) for one in bindings]})

    def load_segments(self) -> dict[NetworkId, Segment]:
        """Segments that were kept."""
        found: dict[NetworkId, Segment] = {}
        for data in _read_all(self._segments):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                ends = frozenset((str(address), int(port)) for address, port in data["ends"])
                found[NetworkId(data["network_id"])] = Segment(int(data["vni"]), ends)
        return found

    def keep_segment(self, network_id: NetworkId, segment: Segment) -> None:
        """Write who may send into one network."""
        data = {"network_id": network_id, "vni": segment.vni, "ends": sorted(segment.ends)}
        _write(self._segments / network_id, data)

    def drop_segment(self, network_id: NetworkId) -> None:
        """Forget who may send into one network."""
        (self._segments / network_id).unlink(missing_ok=True)


def _read_all(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(path.read_text())
            if isinstance(data, dict):
                found.append(data)
    return found


def _write(path: Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(data))
    os.replace(temporary, path)

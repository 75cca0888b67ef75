"""/etc/hosts, /etc/resolv.conf and /etc/hostname of instances: their text (pure), and writing them.

They are bind-mounted, so the container sees an inode and not a name: a change is written into the same inode, never
moved over it. Docker writes none of them, since its networking is off.
"""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostagent.domain import InstanceAssignment, Mount
from hostagent.names.upstream import LISTEN_ADDRESS
from moorage.ids import InstanceId

HostsLine = tuple[str, tuple[str, ...]]  # address, names

ROUTER_FOLDER = "/run/moorage-router"  # inside the container; see hostagent/router_image/README.md
_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, slots=True)
class FileTexts:
    """Contents of the three files."""

    hosts: str
    resolv_conf: str
    hostname: str


def own_lines(assignment: InstanceAssignment) -> list[HostsLine]:
    """How an instance is found by others: each of its addresses, and its names."""
    names = tuple(dict.fromkeys(name for name in (assignment.hostname, assignment.name) if name))
    return [(address.partition("/")[0], names) for nic in assignment.nics for address in nic.addresses]


def render(assignment: InstanceAssignment, peers: Iterable[HostsLine], domains: Sequence[str] = ()) -> FileTexts:
    """The files of one instance.

    Args:
        peers: other members of its networks; lines for the instance itself among them are left out.
        domains: of its networks, in the order of its interfaces.
    """
    own = own_lines(assignment)
    mine = {address for address, _ in own}
    # Own lines first and the user's before the peers': the first match wins in a resolver.
    lines = own + [(address, (name,)) for name, address in assignment.extra_hosts]
    lines += sorted({line for line in peers if line[0] not in mine and line[1]})
    hosts = _LOCAL + "".join(f"{address}\t{' '.join(names)}\n" for address, names in lines if names)
    # The agent answers there, whoever the instance's own servers are: it asks those for what it does not know itself.
    resolv = f"nameserver {LISTEN_ADDRESS}\n"
    if search := dict.fromkeys((*assignment.dns_search, *domains)):
        resolv += f"search {' '.join(search)}\n"
    return FileTexts(hosts, resolv, f"{assignment.hostname or assignment.name}\n")


class InstanceFiles:
    """The folder data_dir/instances with one folder for each instance."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)

    def found(self) -> set[InstanceId]:
        """Instances that have a folder."""
        return {InstanceId(entry.name) for entry in self._folder.iterdir() if entry.is_dir()}

    def write(self, instance_id: InstanceId, texts: FileTexts) -> None:
        """Write the files, each in place; one that has its content already is left alone."""
        folder = self._folder / instance_id
        folder.mkdir(mode=0o755, exist_ok=True)
        for name, text in (("hosts", texts.hosts), ("resolv.conf", texts.resolv_conf), ("hostname", texts.hostname)):
            _write_in_place(folder / name, text.encode())

    def mounts(self, instance_id: InstanceId, taken: Sequence[Mount]) -> tuple[Mount, ...]:
        """Mounts of the files, but for targets that the user mounts himself."""
        folder = self._folder / instance_id
        own = {mount.target for mount in taken}
        names = ("hosts", "resolv.conf", "hostname")
        return tuple(
            Mount(target=f"/etc/{name}", source=str(folder / name)) for name in names if f"/etc/{name}" not in own
        )

    def router_folder(self, instance_id: InstanceId) -> Path:
        """The folder that a router's container shares with the agent."""
        return self._folder / instance_id / "router"

    def router_mount(self, instance_id: InstanceId) -> Mount:
        """The mount of that folder, which is made if it is missing."""
        folder = self.router_folder(instance_id)
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        return Mount(target=ROUTER_FOLDER, source=str(folder))

    def remove(self, instance_id: InstanceId) -> None:
        """Remove the files of an instance; fine if there are none."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder / instance_id)


def _write_in_place(path: Path, data: bytes) -> None:
    try:
        with path.open("r+b") as file:
            if file.read() == data:
                return
            file.seek(0)
            file.write(data)
            file.truncate()
    except FileNotFoundError:
        path.write_bytes(data)
        path.chmod(0o644)

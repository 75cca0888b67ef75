"""What this machine is, for the control plane; and what is wrong with it."""

import hashlib
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hostagent.domain import FoundDevice, HostCondition, HostDevice, HostFacts
from hostagent.engine.values import EngineInfo
from hostagent.journal.state import PulledImage
from hostagent.volumes import images as volume_images
from moorage.devices import MOST_IMAGES

DISK_PRESSURE_PERCENT = 95
_OUR_BRIDGES = ("mb", "ms")  # as hostagent/netlink/names.py has it


@dataclass(frozen=True, slots=True)
class Site:
    """What the configuration says of the machine."""

    underlay_address: str
    vxlan_port: int
    registry_proxy_port: int
    devices: tuple[FoundDevice, ...] = ()
    neighbour_port: int = 0  # 0: neighbours are not answered


def host_facts(
    info: EngineInfo,
    site: Site,
    *,
    links: tuple[str, ...],
    devices: tuple[HostDevice, ...],
    images: tuple[str, ...],
) -> HostFacts:
    """Facts from the engine, the machine and the configuration.

    Args:
        links: what shared networks may stand on.
        devices: that instances can have for themselves.
        images: digests of those that are here.
    """
    return HostFacts(
        agent_version=_version(),
        platform=info.platform,
        cpu_millis=info.cpus * 1000,
        memory_bytes=info.memory_bytes,
        engine_version=info.version,
        engine_api_version=info.api_version,
        kernel=info.kernel or platform.release(),
        cgroup_version=info.cgroup_version,
        underlay_address=site.underlay_address,
        vxlan_port=site.vxlan_port,
        registry_proxy_port=site.registry_proxy_port,
        hostname=info.hostname,
        bridges=_bridges(),
        links=links,
        devices=devices,
        images=images,
        volume_size_problem=volume_images.problem(),
    )


def held_digests(images: Iterable[PulledImage]) -> tuple[str, ...]:
    """Digests of the images that were pulled here, sorted: those that were used last, where they are very many."""
    newest = sorted(images, key=lambda image: (-image.used_at, image.image))[:MOST_IMAGES]
    return tuple(sorted({digest for image in newest if (digest := image.image.partition("@")[2])}))


def disk_condition(*folders: str) -> HostCondition | None:
    """DISK_PRESSURE when the file system of one of these (the engine's data, the agent's) is nearly full. None also
    where it cannot be asked."""
    for folder in folders:
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        # As `df` counts: what is kept for root is neither used nor free.
        percent = 100 * usage.used // max(1, usage.used + usage.free)
        if percent > DISK_PRESSURE_PERCENT:
            return HostCondition(
                "DISK_PRESSURE", f"{percent} % of the disk that holds {folder} is used; free some space"
            )
    return None


def machine_mark(nonce: str) -> str:
    """The nonce of the data folder bound to this machine: a copied folder on another machine gives another one."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""  # a machine without one: the nonce alone must do
    return hashlib.sha256(f"{nonce}/{machine}".encode()).hexdigest()[:32]


def boot_id() -> str:
    """Changes with each boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _version() -> str:
    try:
        return metadata.version("moorage")
    except metadata.PackageNotFoundError:
        return "unknown"


def _bridges() -> tuple[str, ...]:
    root = Path("/sys/class/net")
    names = os.listdir(root) if root.is_dir() else []
    return tuple(sorted(n for n in names if (root / n / "bridge").is_dir() and not n.startswith(_OUR_BRIDGES)))

"""What a DHCP server gave an interface: read from the client's events, kept in files, worked into interfaces. Pure but for the files."""

import contextlib
import ipaddress
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hostagent.domain import LeasedNic, NicAssignment
from moorage.ids import InstanceId

#: Run by the client at each event; what it prints is a line for us.
SCRIPT = """#!/bin/sh
printf '%s|%s|%s|%s|%s\\n' "$1" "$ip" "$mask" "${router%% *}" "$lease"
"""
_GIVEN, _LOST = ("bound", "renew"), ("deconfig", "nak")


@dataclass(frozen=True, slots=True)
class Lease:
    """One address until `expires` (seconds since the epoch), and the default gateway that came with it, or empty."""

    address: str  # with prefix length
    gateway: str
    expires: float


@dataclass(frozen=True, slots=True)
class Event:
    """The client has a lease, or (None) has none any more."""

    lease: Lease | None


def read_event(line: str, now: float) -> Event | None:
    """An event in a line of the script; None for what means nothing to us, or cannot be read."""
    kind, *values = line.strip().split("|")
    if kind in _LOST:
        return Event(None)
    if kind not in _GIVEN or len(values) != 4:
        return None
    address, prefix, gateway, seconds = values
    try:
        interface = ipaddress.ip_interface(f"{address}/{prefix or 32}")
        via = str(ipaddress.ip_address(gateway)) if gateway else ""
        return Event(Lease(str(interface), via, now + int(seconds)))
    except ValueError:
        return None


def with_leases(nics: Sequence[NicAssignment], leases: Mapping[str, Lease], now: float) -> tuple[NicAssignment, ...]:
    """The interfaces with what they were given. The default route is a lease's only where no other interface has one."""
    has_gateway = any("." in gateway for nic in nics for gateway in nic.gateways)
    found: list[NicAssignment] = []
    for nic in nics:
        lease = leases.get(nic.name) if nic.dhcp_client else None
        if lease is not None:
            gateways = (lease.gateway,) if lease.gateway and not has_gateway else ()
            has_gateway = has_gateway or bool(gateways)
            seconds = max(1, int(lease.expires - now))
            nic = replace(nic, addresses=(lease.address,), gateways=gateways, lease_seconds=seconds)
        found.append(nic)
    return tuple(found)


def leased_nics(leases: Mapping[str, Lease]) -> tuple[LeasedNic, ...]:
    """What is reported of them."""
    return tuple(LeasedNic(name, (lease.address,)) for name, lease in sorted(leases.items()))


class LeaseFiles:
    """A file for each lease, so that a new agent asks for the same address and takes none away meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def write_script(self) -> Path:
        """Where the script is that the client runs."""
        path = self._folder / "report"
        path.write_text(SCRIPT)
        path.chmod(0o755)
        return path

    def load(self, now: float) -> dict[tuple[InstanceId, str], Lease]:
        """Those that have not run out."""
        found = {}
        for path in sorted(self._folder.glob("*.lease")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                lease = Lease(**json.loads(path.read_text()))
                instance_id, _, interface = path.name.removesuffix(".lease").partition(".")
                if lease.expires > now:
                    found[InstanceId(instance_id), interface] = lease
        return found

    def keep(self, instance_id: InstanceId, interface: str, lease: Lease | None) -> None:
        """Write one, or remove it."""
        path = self._folder / f"{instance_id}.{interface}.lease"
        if lease is None:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(lease)))
        os.replace(temporary, path)

    def forget_others(self, known: Collection[InstanceId]) -> None:
        """Remove those of instances that are not on this host any more."""
        others: Iterable[Path] = (p for p in self._folder.glob("*.lease") if p.name.partition(".")[0] not in known)
        for path in others:
            path.unlink(missing_ok=True)

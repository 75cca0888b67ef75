"""Names of links and files, all derived from ids (ten characters) and at most fifteen characters long. Pure.

| name | what | where |
| --- | --- | --- |
| `n-<network>` | namespace of an isolated network | run_dir/netns |
| `i-<instance>` | namespace of an instance | run_dir/netns |
| `mb<network>` | its bridge | network's namespace |
| `mv<network>` | its VXLAN link | network's namespace |
| `mt<network>`, `mu<network>` | its uplink: inner end, outer end | network's namespace, host's |
| `ms<network>`, `mw<network>` | bridge and VLAN link of a shared network on a NIC | host's |
| `mi<instance><nic>` | host end of an interface | network's namespace; host's for a shared network |
"""

import hashlib
import re
from pathlib import Path

from moorage.errors import InvalidSpec
from moorage.ids import InstanceId, NetworkId

_ID = re.compile(r"[a-z0-9]{1,10}")
_NIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,15}")
_ETH = re.compile(r"eth(\d{1,2})")
MEMBER_PREFIX, UPLINK_PREFIX = "mi", "mu"


def check_id(field: str, value: str) -> str:
    """An id that is safe as part of a path and short enough for a link name.

    Raises: InvalidSpec.
    """
    if not _ID.fullmatch(value):
        raise InvalidSpec.of(field, f"{value!r} is not an id")
    return value


def network_namespace(run_dir: Path, network_id: NetworkId) -> Path:
    """Where the namespace of an isolated network is bound."""
    return run_dir / "netns" / f"n-{check_id('network_id', network_id)}"


def instance_namespace(run_dir: Path, instance_id: InstanceId) -> Path:
    """Where the namespace of an instance is bound."""
    return run_dir / "netns" / f"i-{check_id('instance_id', instance_id)}"


def bridge(network_id: NetworkId) -> str:
    """The bridge of an isolated network."""
    return f"mb{network_id}"


def vxlan(network_id: NetworkId) -> str:
    """The VXLAN link of an isolated network."""
    return f"mv{network_id}"


def uplink_inner(network_id: NetworkId) -> str:
    """The end of the uplink in the network's namespace."""
    return f"mt{network_id}"


def uplink_outer(network_id: NetworkId) -> str:
    """The end of the uplink in the host's namespace."""
    return f"{UPLINK_PREFIX}{network_id}"


def member(instance_id: InstanceId, nic: str) -> str:
    """The host end of an interface: `eth0` gives `...e0`, any other name two letters of its hash.

    Raises: InvalidSpec: the name is no link name.
    """
    if not _NIC_NAME.fullmatch(nic) or nic in (".", "..", "lo"):
        raise InvalidSpec.of("nics.name", f"{nic!r} cannot be an interface's name")
    known = _ETH.fullmatch(nic)
    suffix = f"e{known[1]}" if known else "x" + hashlib.sha256(nic.encode()).hexdigest()[:2]
    return f"{MEMBER_PREFIX}{instance_id}{suffix}"


def member_prefix(instance_id: InstanceId) -> str:
    """What the host ends of all interfaces of an instance start with. Ids have one length, so no other's start with
    it."""
    return f"{MEMBER_PREFIX}{instance_id}"


def shared_bridge(network_id: NetworkId) -> str:
    """The bridge that we make on a NIC for a shared network."""
    return f"ms{network_id}"


def shared_vlan(network_id: NetworkId) -> str:
    """The VLAN link that we make on a NIC for a shared network."""
    return f"mw{network_id}"


def gateway_mac(vni: int) -> str:
    """The MAC of a network's anycast gateway: the same on every host."""
    return f"02:6d:67:{vni >> 16 & 0xFF:02x}:{vni >> 8 & 0xFF:02x}:{vni & 0xFF:02x}"

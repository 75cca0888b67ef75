"""Policy rules of an instance's namespace: which routing table a packet is looked up in. Values in, messages out.

Ours are those that were set by hand (protocol boot), as the routes are; the kernel's own three are left alone.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from hostagent.netlink.links import RTPROT_BOOT
from hostagent.netlink.rtnl import NLM_F_CREATE, NLM_F_EXCL, Message, Rtnl, attr, attributes, u8, u32

_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_FRA_DST, _FRA_SRC, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 1, 2, 6, 10, 15, 16, 21
_TO_TABLE = 1
_ALL_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `source` and `destination` are CIDRs or empty; `fwmark` 0: any."""

    version: int
    priority: int
    table: int
    source: str = ""
    destination: str = ""
    fwmark: int = 0


def _body(rule: Rule) -> bytes:
    networks = {
        kind: ipaddress.ip_network(cidr)
        for kind, cidr in ((_FRA_DST, rule.destination), (_FRA_SRC, rule.source))
        if cidr
    }
    lengths = [networks[kind].prefixlen if kind in networks else 0 for kind in (_FRA_DST, _FRA_SRC)]
    family = socket.AF_INET if rule.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, *lengths, 0, rule.table if rule.table < 256 else 0, 0, 0, _TO_TABLE, 0)
    body += u32(_FRA_PRIORITY, rule.priority) + u32(_FRA_TABLE, rule.table) + u8(_FRA_PROTOCOL, RTPROT_BOOT)
    if rule.fwmark:
        body += u32(_FRA_FWMARK, rule.fwmark) + u32(_FRA_FWMASK, _ALL_BITS)
    return body + b"".join(attr(kind, network.network_address.packed) for kind, network in networks.items())


def rule_add(rule: Rule) -> Message:
    """Add a rule that is not there."""
    return Message(_RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _body(rule), what=f"add rule {rule.priority}")


def rule_delete(rule: Rule) -> Message:
    """Remove a rule that is there."""
    return Message(_RTM_DELRULE, 0, _body(rule), what=f"delete rule {rule.priority}")


def list_rules(rtnl: Rtnl) -> set[Rule]:
    """Those that were set by hand."""
    found = set()
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        for payload in rtnl.dump(_RTM_GETRULE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
            _f, to_length, from_length, _tos, table, _r1, _r2, action, _flags = struct.unpack_from(
                "=BBBBBBBBI", payload
            )
            parts = attributes(payload, 12)
            if action != _TO_TABLE or parts.get(_FRA_PROTOCOL, b"\0")[0] != RTPROT_BOOT:
                continue
            found.add(
                Rule(
                    version,
                    _number(parts, _FRA_PRIORITY),
                    _number(parts, _FRA_TABLE) or table,
                    _cidr(parts.get(_FRA_SRC), from_length),
                    _cidr(parts.get(_FRA_DST), to_length),
                    _number(parts, _FRA_FWMARK),
                )
            )
    return found


def difference(have: Iterable[Rule], wanted: Iterable[Rule]) -> list[Message]:
    """From what there is to what shall be; new ones first."""
    before, after = set(have), set(wanted)
    by_priority = sorted(after - before, key=str), sorted(before - after, key=str)
    return [rule_add(rule) for rule in by_priority[0]] + [rule_delete(rule) for rule in by_priority[1]]


def _number(parts: dict[int, bytes], kind: int) -> int:
    found: int = struct.unpack("=I", parts[kind])[0] if kind in parts else 0
    return found


def _cidr(packed: bytes | None, length: int) -> str:
    return f"{ipaddress.ip_address(packed)}/{length}" if packed else ""

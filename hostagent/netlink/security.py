"""Security groups as nftables text: what may come to an instance's interfaces, and what may leave them. Pure.

Table `inet moorage` of the instance's own namespace, for only there the kernel tracks connections by interface. Each
filtered interface has a chain `in-NAME`, and `out-NAME` where a group restricts what leaves; each group that a rule
names a set of its members' addresses a family, so that members come and go without a rule being touched.

- Answers pass: packets of a connection in the direction that did not open it, and errors about it. Those in the
  direction that opened it are held against the rules one by one, so a rule that goes takes effect on connections that
  are open.
- What keeps an interface alive passes: neighbour discovery, multicast listeners, DHCP.
- Loopback is not looked at, nor is what goes to the agent's own listeners at 127.0.0.11 and 169.254.169.254, whatever
  interface a translation chose before.
- Nothing is forwarded from or to a filtered interface, and its addresses are not reached through another one.

Invariant: the base chains stay in place and each batch is one transaction, so no packet sees neither the old nor the
new rules. `replacement` says everything, whatever was there, and so is the repair.
"""

import functools
import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence

from hostagent.domain import GroupMembers, NicFilter, RuleProtocol, SecurityDirection, SecurityRule
from moorage.errors import InvalidSpec

_TABLE = "inet moorage"
_IN, _OUT = "in-", "out-"
_INTERFACE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_FAMILIES = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))
_AGENTS_OWN = "ip daddr { 127.0.0.0/8, 169.254.169.254 } accept"
# Router advertisements and redirects of instances are stopped at the host's end; on a shared network a router's may come.
_DISCOVERY = (
    "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, "
    "mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept"
)
_DHCP = {
    SecurityDirection.IN: ("udp sport 67 udp dport 68 accept", "udp sport 547 udp dport 546 accept"),
    SecurityDirection.OUT: ("udp sport 68 udp dport 67 accept", "udp sport 546 udp dport 547 accept"),
}


def removal() -> str:
    """Filter nothing any more."""
    return f"add table {_TABLE}\ndelete table {_TABLE}\n"


def replacement(filters: Sequence[NicFilter], chains: Collection[str] = (), sets: Collection[str] = ()) -> str:
    """The whole table. `chains` and `sets`: names that the kernel has, of which those that are ours and not wanted go.

    Raises: InvalidSpec: SECURITY_INVALID, something in them is no address, port, name or id.
    """
    if not filters:
        return removal()
    _check(filters)
    lines = [f"add table {_TABLE}"]
    for hook in ("input", "output", "forward"):
        lines.append(f"add chain {_TABLE} {hook} {{ type filter hook {hook} priority 0; policy accept; }}")
        lines.append(f"flush chain {_TABLE} {hook}")
    wanted_chains = {name for nic in filters for name in _chains_of(nic)}
    for name in sorted(wanted_chains):
        lines += [f"add chain {_TABLE} {name}", f"flush chain {_TABLE} {name}"]
    gone = sorted({name for name in chains if name.startswith((_IN, _OUT))} - wanted_chains)
    lines += [f"flush chain {_TABLE} {name}" for name in gone]
    wanted_sets = _sets(filters)
    for name, (kind, addresses) in wanted_sets.items():
        lines += [f"add set {_TABLE} {name} {{ type {kind}; }}", f"flush set {_TABLE} {name}"]
        lines += _elements("add", name, addresses)
    lines.append(f"add rule {_TABLE} output {_AGENTS_OWN}")
    for nic in filters:
        lines += [f"add rule {_TABLE} {rule}" for rule in _rules_of(nic)]
    lines += [f"delete chain {_TABLE} {name}" for name in gone]
    lines += [f"delete set {_TABLE} {name}" for name in sorted(_ours(sets) - wanted_sets.keys())]
    return "\n".join(lines) + "\n"


def difference(before: Sequence[NicFilter], after: Sequence[NicFilter]) -> str | None:
    """What turns one into the other if only members came or went; None: more than that is new.

    Raises: InvalidSpec: as `replacement`.
    """
    _check(after)
    if [_without_members(nic) for nic in before] != [_without_members(nic) for nic in after]:
        return None
    old, new = _sets(before), _sets(after)
    if old.keys() != new.keys():
        return None
    lines: list[str] = []
    for name, (_, addresses) in new.items():
        known = set(old[name][1])
        lines += _elements("add", name, [one for one in addresses if one not in known])
        lines += _elements("delete", name, sorted(known.difference(addresses)))
    return "\n".join(lines) + "\n" if lines else ""


def _check(filters: Iterable[NicFilter]) -> None:
    """All of it becomes text for nftables, so nothing that could be read as more than it is may be among it."""
    try:
        for nic in filters:
            _matching(_INTERFACE, nic.interface, "name of an interface")
            _check_addresses(nic.addresses)
            for members in nic.members:
                _matching(_ID, members.group_id, "id of a group")
                _matching(_ID, members.network_id, "id of a network")
                _check_addresses(members.addresses)
            for rule in (rule for group in nic.groups for rule in group.rules):
                _check_rule(rule)
    except ValueError as error:
        raise InvalidSpec.of("security_groups", str(error), "SECURITY_INVALID") from error


@functools.lru_cache(maxsize=1024)
def _check_addresses(addresses: tuple[str, ...]) -> None:
    for address in addresses:
        ipaddress.ip_address(address)


def _check_rule(rule: SecurityRule) -> None:
    for ports in rule.ports:
        first, last = _matching(_PORTS, ports, "port or range of ports").groups()
        if not 0 < int(first) <= int(last or first) <= 65535:
            raise ValueError(f"{ports!r} is no port or range of ports")
    for cidr in rule.cidrs:
        ipaddress.ip_network(cidr, strict=False)
    if rule.icmp_type is not None and not 0 <= rule.icmp_type <= 255:
        raise ValueError(f"{rule.icmp_type} is no type of ICMP")


def _matching(pattern: "re.Pattern[str]", word: str, what: str) -> "re.Match[str]":
    found = pattern.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r} is no {what}")
    return found


def names_in(listing: str) -> set[str]:
    """Words of a listing of chains or sets, our names among them."""
    return set(listing.split())


def _without_members(nic: NicFilter) -> tuple[object, ...]:
    return nic.interface, nic.network_id, nic.addresses, nic.groups


def _ours(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(("m4-", "m6-"))}


def _set_name(version: int, members: GroupMembers) -> str:
    return f"m{version}-{members.group_id}-{members.network_id}"


def _sets(filters: Sequence[NicFilter]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By name, the kind and the elements of every set."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for nic in filters:
        for members in nic.members:
            for version, _, kind in _FAMILIES:
                own = tuple(a for a in members.addresses if _version(a) == version)
                found[_set_name(version, members)] = (kind, own)
    return found


def _elements(verb: str, name: str, addresses: Sequence[str]) -> list[str]:
    return [f"{verb} element {_TABLE} {name} {{ {', '.join(addresses)} }}"] if addresses else []


def _restricts(nic: NicFilter) -> bool:
    """Whether not everything may leave."""
    return any(
        group.deny_out or any(rule.direction is SecurityDirection.OUT for rule in group.rules) for group in nic.groups
    )


def _chains_of(nic: NicFilter) -> list[str]:
    return [f"{_IN}{nic.interface}", *([f"{_OUT}{nic.interface}"] if _restricts(nic) else [])]


def _rules_of(nic: NicFilter) -> list[str]:
    """Chain and rule, in order."""
    name = nic.interface
    found = [f'forward iifname "{name}" drop', f'forward oifname "{name}" drop']
    for version, family, _ in _FAMILIES:
        own = [a for a in nic.addresses if _version(a) == version]
        if own:
            found.append(f'input iifname != {{ "lo", "{name}" }} {family} daddr {{ {", ".join(own)} }} drop')
    found.append(f'input iifname "{name}" jump {_IN}{name}')
    found += [f"{_IN}{name} {rule}" for rule in _chain(nic, SecurityDirection.IN)]
    if _restricts(nic):
        found.append(f'output oifname "{name}" jump {_OUT}{name}')
        found += [f"{_OUT}{name} {rule}" for rule in _chain(nic, SecurityDirection.OUT)]
    return found


def _chain(nic: NicFilter, direction: SecurityDirection) -> list[str]:
    members = {one.group_id: one for one in nic.members}
    allowed = [
        f"{match} accept".strip()
        for group in nic.groups
        for rule in group.rules
        if rule.direction is direction
        for match in _matches(rule, members)
    ]
    always = ["ct direction reply accept", "ct state related accept", _DISCOVERY, *_DHCP[direction]]
    return [*always, *dict.fromkeys(allowed), "drop"]


def _matches(rule: SecurityRule, members: "dict[str, GroupMembers]") -> list[str]:
    """The rule's match, once for each family that it needs a word of its own for."""
    side = "saddr" if rule.direction is SecurityDirection.IN else "daddr"
    traffic = _traffic(rule)
    if rule.group:
        named = members[rule.group]
        return [
            f"{family} {side} @{_set_name(version, named)} {traffic}".strip()
            for version, family, _ in _FAMILIES
            if _fits(rule, version)
        ]
    if rule.cidrs:
        found = []
        for version, family, _ in _FAMILIES:
            wanted = _collapsed(rule.cidrs, version)
            if wanted and _fits(rule, version):
                whole = wanted[0].endswith("/0")
                who = f"meta nfproto ipv{version}" if whole else f"{family} {side} {{ {', '.join(wanted)} }}"
                found.append(f"{who} {traffic}".strip())
        return found
    return [traffic]


def _fits(rule: SecurityRule, version: int) -> bool:
    return rule.protocol is not (RuleProtocol.ICMPV6 if version == 4 else RuleProtocol.ICMP)


def _traffic(rule: SecurityRule) -> str:
    match rule.protocol:
        case RuleProtocol.TCP | RuleProtocol.UDP:
            word = rule.protocol.value
            return f"{word} dport {{ {', '.join(rule.ports)} }}" if rule.ports else f"meta l4proto {word}"
        case RuleProtocol.ICMP | RuleProtocol.ICMPV6:
            version, word = (4, "icmp") if rule.protocol is RuleProtocol.ICMP else (6, "icmpv6")
            if rule.icmp_type is not None:
                return f"{word} type {rule.icmp_type}"
            return f"meta nfproto ipv{version} meta l4proto {'icmp' if version == 4 else 'ipv6-icmp'}"
    return ""


@functools.lru_cache(maxsize=1024)  # the sweep asks for the same each minute
def _collapsed(cidrs: tuple[str, ...], version: int) -> tuple[str, ...]:
    """Those of one family; an nftables set takes no two that overlap."""
    own = [cidr for cidr in cidrs if _version(cidr) == version]
    if version == 4:
        return tuple(str(n) for n in ipaddress.collapse_addresses(map(ipaddress.IPv4Network, own)))
    return tuple(str(n) for n in ipaddress.collapse_addresses(map(ipaddress.IPv6Network, own)))


def _version(text: str) -> int:
    """Family of an address or CIDR."""
    return 6 if ":" in text else 4

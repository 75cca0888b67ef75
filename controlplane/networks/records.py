"""What an extra name of a network must look like, and which of them cannot stand side by side.

A record and a member cannot have one name: the member would be found under two answers, since every member also stands
in the hosts file of the others, which comes before any name server. So a record of a member's name is refused; where
the member comes later, it wins on the hosts.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable

from controlplane.domain.dns import DnsRecordSpec, DnsRecordType
from moorage.errors import FieldViolation

VALUE_LIMIT = 100
RECORD_LIMIT = 1000  # of one network
LONGEST_TTL_SECONDS = 86400
_LONGEST_NAME = 253
_LONGEST_TEXT = 2048
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*|{_LABEL})(\.{_LABEL})*")
_TARGET = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
#: Types that say where a name is: a member's own name has them already.
ADDRESS_TYPES = frozenset({DnsRecordType.A, DnsRecordType.AAAA, DnsRecordType.CNAME})


def check_record(spec: DnsRecordSpec, domain: str, field: str) -> list[FieldViolation]:
    """Nothing, or everything that is wrong with a record by itself.

    Args:
        domain: of its network.
    """
    found: list[FieldViolation] = []
    if spec.name != "@" and not _NAME.fullmatch(spec.name):
        problem = (
            f"{spec.name!r} is no name below the domain: lower-case, or @ for the domain itself, or * for all others"
        )
        found.append(FieldViolation(f"{field}.name", problem, "RECORD_INVALID"))
    elif len(full_name(spec.name, domain)) > _LONGEST_NAME:
        found.append(FieldViolation(f"{field}.name", "is too long together with the domain", "RECORD_INVALID"))
    if spec.type is DnsRecordType.UNSPECIFIED:
        found.append(FieldViolation(f"{field}.type", "is required: A, AAAA, CNAME, TXT, SRV or MX", "REQUIRED"))
    elif spec.type is DnsRecordType.CNAME and spec.name == "@":
        found.append(FieldViolation(f"{field}.type", "the domain itself cannot be an alias", "RECORD_INVALID"))
    if not 1 <= len(spec.values) <= VALUE_LIMIT:
        found.append(FieldViolation(f"{field}.values", f"there must be 1 to {VALUE_LIMIT}", "OUT_OF_RANGE"))
    if spec.type is DnsRecordType.CNAME and len(spec.values) > 1:
        found.append(FieldViolation(f"{field}.values", "an alias has one value", "RECORD_INVALID"))
    check = _CHECKS.get(spec.type)
    for index, value in enumerate(spec.values if check is not None else ()):
        if check is not None and (problem := check(value)):
            found.append(FieldViolation(f"{field}.values[{index}]", f"{value[:100]!r} {problem}", "RECORD_INVALID"))
        elif value in spec.values[:index]:
            found.append(FieldViolation(f"{field}.values[{index}]", "is there twice", "RECORD_INVALID"))
    if not 0 <= spec.ttl_seconds <= LONGEST_TTL_SECONDS or spec.ttl_seconds % 1:
        found.append(FieldViolation(f"{field}.ttl", "must be whole seconds, at most one day", "OUT_OF_RANGE"))
    return found


def check_beside(
    spec: DnsRecordSpec, others: Iterable[DnsRecordSpec], members: Collection[str], field: str
) -> list[FieldViolation]:
    """Nothing, or why the record cannot stand beside what the network has.

    Args:
        others: the network's other records.
        members: the names of its members, lower-case.
    """
    found: list[FieldViolation] = []
    here = [other for other in others if other.name == spec.name]
    if any(other.type is spec.type for other in here):
        problem = f"there is a record of {spec.name} with this type; change its values"
        found.append(FieldViolation(f"{field}.name", problem, "RECORD_CLASHES"))
    elif here and DnsRecordType.CNAME in (spec.type, *(other.type for other in here)):
        problem = f"an alias has nothing beside it, and {spec.name} has a record of another type"
        found.append(FieldViolation(f"{field}.type", problem, "RECORD_CLASHES"))
    if spec.type in ADDRESS_TYPES and spec.name in members:
        problem = f"{spec.name} is the name of a member, which has its own addresses; name the record otherwise"
        found.append(FieldViolation(f"{field}.name", problem, "DNS_NAME_TAKEN"))
    return found


def full_name(name: str, domain: str) -> str:
    """The name with its domain."""
    return domain if name == "@" else f"{name}.{domain}"


def default_id(spec: DnsRecordSpec) -> str:
    """An id for a record whose maker did not name one: `www-a`, `at-mx`, `any-txt`, `http-tcp-web-srv`."""
    words = spec.name.replace("@", "at").replace("*", "any")
    cleaned = re.sub(r"[^a-z0-9]+", "-", f"{words}-{spec.type.name.lower()}").strip("-")
    return (cleaned if cleaned[0].isalpha() else f"r-{cleaned}")[-63:].lstrip("-0123456789")


def _v4(value: str) -> str:
    return _parsed(ipaddress.IPv4Address, value, "is no IPv4 address")


def _v6(value: str) -> str:
    return "has a zone" if "%" in value else _parsed(ipaddress.IPv6Address, value, "is no IPv6 address")


def _parsed(read: Callable[[str], object], value: str, problem: str) -> str:
    try:
        read(value)
    except ValueError:
        return problem
    return ""


def _target(value: str) -> str:
    is_name = _TARGET.fullmatch(value) and len(value) <= _LONGEST_NAME
    return "" if is_name else "is no name: lower-case, labels of at most 63 characters"


def _text(value: str) -> str:
    return "" if len(value.encode()) <= _LONGEST_TEXT else f"is longer than {_LONGEST_TEXT} bytes"


def _mx(value: str) -> str:
    return _numbers_and_target(value, 1, "PREFERENCE TARGET, such as 10 mail.example.org")


def _srv(value: str) -> str:
    return _numbers_and_target(value, 3, "PRIORITY WEIGHT PORT TARGET, such as 0 5 80 web.example.org")


def _numbers_and_target(value: str, count: int, form: str) -> str:
    words = value.split(" ")
    numbers = [word for word in words[:count] if word.isdecimal() and word.isascii() and int(word) <= 65535]
    if len(words) != count + 1 or len(numbers) != count or _target(words[-1]):
        return f"is not {form}"
    return ""


_CHECKS: dict[DnsRecordType, Callable[[str], str]] = {
    DnsRecordType.A: _v4,
    DnsRecordType.AAAA: _v6,
    DnsRecordType.CNAME: _target,
    DnsRecordType.TXT: _text,
    DnsRecordType.SRV: _srv,
    DnsRecordType.MX: _mx,
}

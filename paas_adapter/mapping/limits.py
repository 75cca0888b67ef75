"""What a member may use, as properties of its cartridge say it."""

from collections.abc import Callable

from moorage.errors import InvalidSpec
from moorage.units import parse_bytes, parse_cpu
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Property, property_map
from paas_adapter.mapping.model import Amount, Limits

CPU = "KUBERNETES_CONTAINER_CPU"
MEMORY = "KUBERNETES_CONTAINER_MEMORY"
_MEBIBYTE = 1024 * 1024
#: Nobody means so few bytes, and nobody has so many mebibytes.
_BYTES_FROM = 4 * _MEBIBYTE
_LEAST_CPU = 10
_LEAST_MEMORY = 6 * _MEBIBYTE


def _memory(text: str) -> int:
    amount = parse_bytes(text)
    return amount * _MEBIBYTE if text.isdigit() and amount < _BYTES_FROM else amount


def _amount(given: Property | None, parse: Callable[[str], int], least: int, findings: Findings) -> Amount | None:
    text = given.value.strip() if given is not None else ""
    if given is None or not text:
        return None
    place = given.at.below("value")
    try:
        amount = parse(text)
    except InvalidSpec:
        findings.refuse(place, "BAD_VALUE", f"{given.name} is no amount")
        return None
    if amount and amount < least:
        findings.refuse(place, "OUT_OF_RANGE", f"{given.name} is less than a container can run with")
        return None
    return Amount(amount, place) if amount else None


def limits_of(properties: tuple[Property, ...], findings: Findings) -> Limits:
    """Limits; 0 means none."""
    named = property_map(properties)
    cpu = _amount(named.get(CPU), parse_cpu, _LEAST_CPU, findings)
    return Limits(cpu, _amount(named.get(MEMORY), _memory, _LEAST_MEMORY, findings))

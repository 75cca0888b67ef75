"""Amounts as people write them: bytes, CPU, durations, ages. Pure; exact arithmetic, no floats on the way in.

Byte suffixes are binary in every spelling (`1g`, `1G`, `1GB`, `1Gi`, `1GiB` are all 2^30 bytes), as `docker run` reads
them: one text must not mean two amounts depending on the tool that a user comes from.
"""

import re
from decimal import Decimal

from moorage.errors import InvalidSpec

MAX_AMOUNT = 2**63 - 1  # what an int64 field carries

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BYTES = re.compile(rf"({_NUMBER})\s*(?:([kmgtp])i?)?b?", re.IGNORECASE | re.ASCII)
_CPU = re.compile(rf"({_NUMBER})(m?)", re.ASCII)
_DURATION_UNITS = (("d", 86400_000), ("h", 3600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_DURATION = re.compile(
    "".join(rf"(?:({_NUMBER}){unit}{'(?!s)' if unit == 'm' else ''})?" for unit, _ in _DURATION_UNITS), re.ASCII
)
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def parse_bytes(text: str, *, field: str = "bytes") -> int:
    """`512Mi`, `1g`, `1.5GiB`, `4096` as bytes; parts of a byte are dropped.

    Raises:
        InvalidSpec: not an amount, or more than an int64 holds; names `field`.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise InvalidSpec.of(
            field, f"{text!r} is not an amount of bytes; write for example 512Mi or 2g", "INVALID_AMOUNT"
        )
    power = "kmgtp".index(match[2].lower()) + 1 if match[2] else 0
    return _bounded(int(Decimal(match[1]) * 1024**power), text, field)


def format_bytes(amount: int) -> str:
    """For people: `0`, `512B`, `1.5Gi`; at most one decimal place, rounded down so that full never looks like over."""
    if amount < 0:
        return "-" + format_bytes(-amount)
    if amount < 1024:
        return f"{amount}B" if amount else "0"
    power = min((amount.bit_length() - 1) // 10, len(_BINARY) - 1)
    tenths = amount * 10 >> (10 * power)
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth}{_BINARY[power]}" if tenth and whole < 100 else f"{whole}{_BINARY[power]}"


def parse_cpu(text: str, *, field: str = "cpu") -> int:
    """`500m`, `0.5`, `2` as thousandths of a core.

    Raises:
        InvalidSpec: not an amount, finer than a thousandth, or more than an int64 holds; names `field`.
    """
    match = _CPU.fullmatch(text.strip())
    if match is None:
        raise InvalidSpec.of(
            field, f"{text!r} is not an amount of CPU; write for example 500m or 0.5", "INVALID_AMOUNT"
        )
    millis = Decimal(match[1]) * (1 if match[2] else 1000)
    if millis != int(millis):
        raise InvalidSpec.of(field, f"{text!r} is finer than a thousandth of a core", "INVALID_AMOUNT")
    return _bounded(int(millis), text, field)


def format_cpu(millis: int) -> str:
    """`2` for whole cores, `500m` for all else."""
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def parse_duration(text: str, *, field: str = "duration") -> float:
    """`1m30s`, `1.5h`, `2d`, `250ms`, or a bare number of seconds; seconds. Units fall in size, each at most once.

    Raises:
        InvalidSpec: not a duration; names `field`.
    """
    stripped = text.strip()
    if re.fullmatch(_NUMBER, stripped, re.ASCII):
        millis = Decimal(stripped) * 1000
    else:
        match = _DURATION.fullmatch(stripped)
        if match is None or not stripped:
            raise InvalidSpec.of(
                field, f"{text!r} is not a duration; write for example 90s, 1m30s or 2h", "INVALID_DURATION"
            )
        parts = zip(match.groups(), _DURATION_UNITS, strict=True)
        millis = sum((Decimal(number) * factor for number, (_, factor) in parts if number), start=Decimal(0))
    if millis > MAX_AMOUNT:
        raise InvalidSpec.of(field, f"{text!r} is too long", "INVALID_DURATION")
    return float(millis / 1000)


def format_duration(seconds: float) -> str:
    """Exact to the millisecond: `1m30s`, `250ms`, `0s`. The inverse of `parse_duration`."""
    rest = round(seconds * 1000)
    if rest <= 0:
        return "0s" if rest == 0 else "-" + format_duration(-seconds)
    text = ""
    for unit, factor in _DURATION_UNITS:
        count, rest = divmod(rest, factor)
        text += f"{count}{unit}" if count else ""
    return text


def format_age(seconds: float) -> str:
    """For tables, coarser as it grows: `45s`, `3m20s`, `59m`, `5h12m`, `31h`, `12d`. Below zero it is `0s`."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if hours < 2:
        return f"{minutes}m"
    if hours < 10:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if days < 2 else f"{days}d"


def _bounded(amount: int, text: str, field: str) -> int:
    if amount > MAX_AMOUNT:
        raise InvalidSpec.of(field, f"{text!r} is too much", "INVALID_AMOUNT")
    return amount

"""Amounts in and out."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import InvalidSpec
from moorage.units import (
    MAX_AMOUNT,
    format_age,
    format_bytes,
    format_cpu,
    format_duration,
    parse_bytes,
    parse_cpu,
    parse_duration,
)

Gi = 1024**3


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("17b", 17),
        ("512Mi", 512 * 1024**2),
        ("512MiB", 512 * 1024**2),
        ("1g", Gi),
        ("1G", Gi),
        ("1GB", Gi),
        ("1 gib", Gi),
        (" 1.5g ", Gi * 3 // 2),
        ("0.1k", 102),
        ("2T", 2 * 1024**4),
        ("1p", 1024**5),
        (str(MAX_AMOUNT), MAX_AMOUNT),
    ],
)
def test_bytes(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text", ["", " ", "g", "-1", "1i", "1iB", "1x", "1 g b", "1e3", ".5g", "1.", "٣", "9" * 30, "9000P"]
)
def test_bad_bytes(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_bytes(text, field="memory")
    assert caught.value.violations[0].field == "memory"
    assert caught.value.reason == "INVALID_AMOUNT"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "1B"),
        (1023, "1023B"),
        (1024, "1Ki"),
        (1536, "1.5Ki"),
        (Gi - 1, "1023Mi"),
        (Gi, "1Gi"),
        (-1536, "-1.5Ki"),
    ],
)
def test_format_bytes(amount: int, text: str) -> None:
    assert format_bytes(amount) == text


@given(st.integers(0, 2**60 - 1))
def test_formatted_bytes_read_back_nearly_and_never_greater(amount: int) -> None:
    back = parse_bytes(format_bytes(amount))
    assert amount * 0.9 <= back <= amount


@pytest.mark.parametrize(
    ("text", "millis"), [("500m", 500), ("0.5", 500), ("2", 2000), ("0.001", 1), ("0", 0), ("1.250", 1250)]
)
def test_cpu(text: str, millis: int) -> None:
    assert parse_cpu(text) == millis


@pytest.mark.parametrize("text", ["", "-1", "0.0005", "0.5m", "1 core", "m", "1M", "9" * 30])
def test_bad_cpu(text: str) -> None:
    with pytest.raises(InvalidSpec):
        parse_cpu(text)


@given(st.integers(0, MAX_AMOUNT))
def test_cpu_reads_back(millis: int) -> None:
    assert parse_cpu(format_cpu(millis)) == millis


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1m30s", 90),
        ("90s", 90),
        ("90", 90),
        ("1.5h", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1s1m", "1m1m", "-1s", "1w", "1 m", "m30s", "9" * 30])
def test_bad_duration(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_duration(text)
    assert caught.value.reason == "INVALID_DURATION"


@given(st.integers(0, 10**12))
def test_duration_reads_back(millis: int) -> None:
    assert round(parse_duration(format_duration(millis / 1000)) * 1000) == millis


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (3540, "59m"),
        (7199, "119m"),
        (7200, "2h"),
        (18720, "5h12m"),
        (111600, "31h"),
        (86400 * 12, "12d"),
    ],
)
def test_age(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@given(st.text(max_size=12))
def test_parsers_return_or_refuse(text: str) -> None:
    for parse in (parse_bytes, parse_cpu, parse_duration):
        with contextlib.suppress(InvalidSpec):
            assert parse(text) >= 0

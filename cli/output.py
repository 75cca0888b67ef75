"""Printing objects: plain aligned tables, and protobuf's JSON mapping (with the protos' field names) as JSON or YAML.

A table is for people: columns may come and go. Programs read `-o json` or `-o name`.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from moorage.units import format_age

LIST_FORMATS = ("table", "wide", "json", "yaml", "name")

_COLOURS = {
    "RUNNING": "green",
    "READY": "green",
    "UP": "green",
    "STABLE": "green",
    "SUCCEEDED": "green",
    "healthy": "green",
    "FAILED": "red",
    "DOWN": "red",
    "unhealthy": "red",
    "DISCONNECTED": "yellow",
    "PENDING": "yellow",
    "DEGRADED": "yellow",
    "ROLLING_BACK": "red",
    "CORDONED": "yellow",
    "warning": "yellow",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, how a cell is made, and whether only `-o wide` shows it."""

    title: str
    cell: Callable[[Any], str]
    wide: bool = False


def output_option(default: str = "table") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`-o`, given to the command as `output`."""
    return click.option(
        "-o", "--output", type=click.Choice(LIST_FORMATS), default=default, show_default=True, help="How to print."
    )


def to_dict(message: Any) -> dict[str, Any]:
    """Protobuf's JSON mapping of a message, with the field names of the protos."""
    from google.protobuf import json_format

    converted: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return converted


def print_list(messages: Sequence[Any], columns: Sequence[Column], output: str) -> None:
    """Print objects; as JSON and YAML they are one list."""
    if output == "json":
        click.echo(json.dumps([to_dict(message) for message in messages], indent=2))
    elif output == "yaml":
        click.echo(to_yaml([to_dict(message) for message in messages]), nl=False)
    elif output == "name":
        for message in messages:
            click.echo(message.name)
    else:
        shown = [column for column in columns if output == "wide" or not column.wide]
        print_rows([column.title for column in shown], [[c.cell(message) for c in shown] for message in messages])


def print_one(message: Any, columns: Sequence[Column], output: str) -> None:
    """Print one object."""
    if output == "json":
        click.echo(json.dumps(to_dict(message), indent=2))
    elif output == "yaml":
        click.echo(to_yaml(to_dict(message)), nl=False)
    else:
        print_list([message], columns, output)


def print_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; the last column is not padded, an empty cell is a dash."""
    for line in table_lines(titles, rows, colour=use_colour()):
        click.echo(line)


def table_lines(titles: Sequence[str], rows: Sequence[Sequence[str]], *, colour: bool = False) -> list[str]:
    """The lines of a table."""
    cells = [list(titles), *[[cell if cell else "-" for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(titles))]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)] + [row[-1]]
        if colour and row is not cells[0]:
            padded = [_coloured(text) for text in padded]
        lines.append("   ".join(padded).rstrip())
    return lines


def use_colour() -> bool:
    """Whether standard output is a terminal that wants colour."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _coloured(text: str) -> str:
    colour = _COLOURS.get(text.strip())
    return click.style(text, fg=colour) if colour else text


def to_yaml(value: Any) -> str:
    """For people, keys in the order in which they are."""
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text


def age(timestamp: Any) -> str:
    """Time since a protobuf Timestamp; empty when it is not set."""
    seconds = timestamp.seconds
    return format_age(time.time() - seconds) if seconds else ""


def clock_time(timestamp: Any) -> str:
    """A protobuf Timestamp as local date and time."""
    if not timestamp.seconds:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp.seconds))


def enum_word(enum: Any, value: int) -> str:
    """`INSTANCE_STATE_RUNNING` as `RUNNING`; the number when this program does not know it, nothing for 0."""
    if value == 0:
        return ""
    found = enum.DESCRIPTOR.values_by_number.get(value)
    zero: str = enum.DESCRIPTOR.values_by_number[0].name
    return found.name.removeprefix(zero.removesuffix("UNSPECIFIED")) if found else str(value)


def pairs(mapping: Iterable[tuple[str, str]]) -> str:
    """Labels as `a=b,c=d`, sorted."""
    return ",".join(f"{key}={value}" for key, value in sorted(mapping))

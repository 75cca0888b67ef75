"""usage: what was used, by day and object."""

import csv
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from cli.names import short
from cli.output import Column, output_option, print_list
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.v1 import usage_pb2

_HOUR = 3600.0
_GIB = 1024.0**3

COLUMNS = (
    Column("DAY", lambda record: _day(record.day) if record.HasField("day") else ""),
    Column("PROJECT", lambda record: short(record.project)),
    Column("NAME", lambda record: short(record.name) if record.name else ""),
    Column("HOURS", lambda record: _amount(record.instance_seconds / _HOUR)),
    Column("CORE-HOURS", lambda record: _amount(record.cpu_milli_seconds / 1000 / _HOUR)),
    Column("GIB-HOURS", lambda record: _amount(record.memory_byte_seconds / _GIB / _HOUR)),
    Column("ADDRESS-HOURS", lambda record: _amount(record.address_seconds / _HOUR)),
)
_SUMS = ("instance_seconds", "cpu_milli_seconds", "memory_byte_seconds", "address_seconds")
_CSV = ("day", "project", "name", "uid", *_SUMS)
_BY: dict[str, Callable[[usage_pb2.UsageRecord], tuple[str, ...]]] = {
    "project": lambda record: (record.project,),
    "day": lambda record: (record.project, _day(record.day)),
    "object": lambda record: (record.project, record.uid),
}


def _amount(value: float) -> str:
    return f"{value:.2f}"


def _day(timestamp: Timestamp) -> str:
    return f"{timestamp.ToDatetime(tzinfo=UTC):%Y-%m-%d}"


def summed(records: Iterable[usage_pb2.UsageRecord], by: str) -> list[usage_pb2.UsageRecord]:
    """One record for each project, day or object; what the others would differ in is left out."""
    sums: dict[tuple[str, ...], usage_pb2.UsageRecord] = {}
    for record in records:
        total = sums.setdefault(_BY[by](record), usage_pb2.UsageRecord(project=record.project))
        if by == "day":
            total.day.CopyFrom(record.day)
        if by == "object":
            total.name, total.uid = record.name, record.uid
        for field in _SUMS:
            setattr(total, field, getattr(total, field) + getattr(record, field))
    return list(sums.values())


def _time(_context: click.Context, _parameter: click.Parameter, value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    message = Timestamp()
    message.FromDatetime(value.replace(tzinfo=UTC))
    return message


@click.command("usage")
@click.option(
    "--from", "start", type=click.DateTime(["%Y-%m-%d"]), callback=_time, metavar="DAY", help="First day, UTC."
)
@click.option(
    "--to", "end", type=click.DateTime(["%Y-%m-%d"]), callback=_time, metavar="DAY", help="Day after the last."
)
@click.option("--by", type=click.Choice(sorted(_BY)), help="One line for each of these; else for each object and day.")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--csv", "is_csv", is_flag=True, help="Seconds as CSV, for programs.")
@project_option
@output_option()
@pass_session
def usage(
    session: Session,
    start: Timestamp | None,
    end: Timestamp | None,
    by: str | None,
    all_projects: bool,
    is_csv: bool,
    output: str,
) -> None:
    """Show what instances and addresses have used, by day."""

    async def work(client: Client) -> list[usage_pb2.UsageRecord]:
        request = usage_pb2.QueryUsageRequest(
            parent=session.parent(all_projects), start_time=start, end_time=end, page_size=1000
        )
        return [found async for found in paginate(client.usage.QueryUsage, request, lambda page: page.records)]

    records = session.run(work)
    if by is not None:
        records = summed(records, by)
    if is_csv:
        _print_csv(records)
    else:
        print_list(records, COLUMNS, output)


def _print_csv(records: Iterable[usage_pb2.UsageRecord]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV)
    for record in records:
        values: dict[str, Any] = {field: getattr(record, field) for field in _CSV[1:]}
        writer.writerow([_day(record.day) if record.HasField("day") else "", *values.values()])

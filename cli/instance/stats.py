"""stats: what instances use."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import click

from cli.completion import complete_names
from cli.names import short
from cli.output import table_lines, to_dict
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.errors import MoorageError, NotReady
from moorage.units import format_bytes
from moorage.v1 import instance_streams_pb2 as streams_pb2
from moorage.v1 import instances_pb2

_REFRESH_SECONDS = 1.0
_TITLES = ("NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "RECEIVED", "SENT", "READ", "WRITTEN")


def cpu_percent(before: Any, after: Any) -> float:
    """Of one core, between two samples; 0 if no time lies between them or the process was started anew."""
    elapsed = after.time.ToNanoseconds() - before.time.ToNanoseconds()
    used = after.cpu_nanos - before.cpu_nanos
    return 100.0 * used / elapsed if elapsed > 0 and used > 0 else 0.0


def row(name: str, before: Any, after: Any) -> list[str]:
    """One line of the table."""
    interfaces = after.interfaces.values()
    return [
        short(name),
        f"{cpu_percent(before, after):.1f}%",
        format_bytes(after.memory_bytes),
        format_bytes(after.memory_limit_bytes) if after.memory_limit_bytes else "",
        str(after.pids),
        format_bytes(sum(each.rx_bytes for each in interfaces)),
        format_bytes(sum(each.tx_bytes for each in interfaces)),
        format_bytes(after.block_read_bytes),
        format_bytes(after.block_write_bytes),
    ]


async def _samples(client: Client, name: str) -> AsyncIterator[tuple[Any, Any]]:
    """Pairs of a sample and the one before it."""
    before = None
    async for sample in client.streams.StreamStats(streams_pb2.StreamStatsRequest(name=name, follow=True)):
        if before is not None:
            yield before, sample
        before = sample


@click.command("stats")
@click.argument("names", nargs=-1, shell_complete=complete_names("instances"))
@click.option("-f", "--follow", is_flag=True, help="Go on, every second.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
)
@project_option
@pass_session
def stats(session: Session, names: tuple[str, ...], follow: bool, output: str) -> None:
    """Show what instances use; without names all that run. CPU is of one core, over the last second."""

    async def work(client: Client) -> None:
        wanted = [session.name_in_project("instances", name) for name in names] or await _running(client, session)
        if not wanted:
            raise NotReady(f"no instance of {session.project} runs", reason="NOTHING_RUNS")
        if output == "json":
            await asyncio.gather(*(_print_json(client, name, follow) for name in wanted))
        elif follow:
            await _follow(client, wanted)
        else:
            rows = await asyncio.gather(*(_first_row(client, name, is_named=bool(names)) for name in wanted))
            click.echo("\n".join(table_lines(_TITLES, [found for found in rows if found])))

    session.run(work)


async def _running(client: Client, session: Session) -> list[str]:
    request = instances_pb2.ListInstancesRequest(parent=session.project, filter="state=RUNNING")
    return [
        found.name async for found in paginate(client.instances.ListInstances, request, lambda page: page.instances)
    ]


async def _first_row(client: Client, name: str, *, is_named: bool) -> list[str] | None:
    try:
        async for before, after in _samples(client, name):
            return row(name, before, after)
    except MoorageError:
        if is_named:
            raise
    return None  # it ended between the listing and now


async def _print_json(client: Client, name: str, follow: bool) -> None:
    async for before, after in _samples(client, name):
        found = {"name": name, "cpu_percent": round(cpu_percent(before, after), 1), **to_dict(after)}
        click.echo(json.dumps(found))
        if not follow:
            return


async def _follow(client: Client, names: list[str]) -> None:
    latest: dict[str, list[str]] = {}

    async def watch(name: str) -> None:
        try:
            async for before, after in _samples(client, name):
                latest[name] = row(name, before, after)
        finally:
            latest.pop(name, None)

    async def draw() -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
            click.echo(clear + "\n".join(table_lines(_TITLES, [latest[name] for name in names if name in latest])))

    drawing = asyncio.create_task(draw(), name="draw the table")
    try:
        await asyncio.gather(*(watch(name) for name in names))
    finally:
        drawing.cancel()

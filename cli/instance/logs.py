"""logs: what an instance wrote."""

import re
import sys
import time
from datetime import UTC, datetime

import click
from google.protobuf import timestamp_pb2

from cli.completion import complete_names
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.errors import InvalidSpec
from moorage.units import parse_duration
from moorage.v1 import instance_streams_pb2 as streams_pb2


def parse_since(text: str, now: float) -> timestamp_pb2.Timestamp:
    """`10m` ago, or a time such as 2026-01-31T12:00:00Z; without a zone it is local.

    Raises:
        InvalidSpec: neither.
    """
    found = timestamp_pb2.Timestamp()
    if re.match(r"\d{4}-", text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as exc:
            raise InvalidSpec.of("since", f"{text!r}: write 10m or 2026-01-31T12:00:00Z") from exc
        found.FromDatetime(moment.astimezone(UTC))
    else:
        found.FromNanoseconds(int((now - parse_duration(text, field="since")) * 1e9))
    return found


async def print_logs(client: Client, request: streams_pb2.StreamLogsRequest) -> None:
    """Each output goes to the one of the same name here."""
    async for piece in client.streams.StreamLogs(request):
        is_error = piece.stream == streams_pb2.OUTPUT_STREAM_STDERR
        target = sys.stderr.buffer if is_error else sys.stdout.buffer
        target.write(piece.data)
        target.flush()


@click.command("logs")
@click.argument("name", metavar="INSTANCE", shell_complete=complete_names("instances"))
@click.option("-f", "--follow", is_flag=True, help="Go on until the instance ends.")
@click.option("--since", metavar="TIME", help="Only from then on: 10m ago, or 2026-01-31T12:00:00Z.")
@click.option("--tail", "-n", type=click.IntRange(min=1), metavar="LINES", help="Only the last lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@project_option
@pass_session
def logs(session: Session, name: str, follow: bool, since: str | None, tail: int | None, timestamps: bool) -> None:
    """Print what an instance wrote."""
    request = streams_pb2.StreamLogsRequest(
        name=session.name_in_project("instances", name), follow=follow, tail=tail or 0, timestamps=timestamps
    )
    if since:
        request.since.CopyFrom(parse_since(since, time.time()))

    async def work(client: Client) -> None:
        await print_logs(client, request)

    session.run(work)

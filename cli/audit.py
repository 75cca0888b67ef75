"""audit: who called what, whether it was allowed or not."""

import click

from cli.output import Column, clock_time, output_option, print_list
from cli.session import Session, pass_session
from moorage.client import Client, paginate
from moorage.v1 import events_pb2

COLUMNS = (
    Column("TIME", lambda event: clock_time(event.time)),
    Column("USER", lambda event: event.user),
    Column("KEY", lambda event: event.key_id),
    Column("METHOD", lambda event: event.method.rsplit("/", 1)[-1]),
    Column("TARGET", lambda event: event.target),
    Column("CODE", lambda event: event.code),
    Column("PEER", lambda event: event.peer),
)


@click.group("audit")
def audit() -> None:
    """Who called what."""


@audit.command("ls")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'user=ada code=PERMISSION_DENIED'.")
@output_option()
@pass_session
def ls(session: Session, filter_text: str, output: str) -> None:
    """List the calls that change something, oldest first; for fleet admins."""

    async def work(client: Client) -> list[events_pb2.AuditEvent]:
        request = events_pb2.ListAuditEventsRequest(filter=filter_text)
        call = client.events.ListAuditEvents
        return [found async for found in paginate(call, request, lambda page: page.audit_events)]

    print_list(session.run(work), COLUMNS, output)

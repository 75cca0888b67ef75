"""event: what happened. With -f it goes on, without a gap between what was and what comes."""

import asyncio
import json

import click

from cli.names import short
from cli.output import Column, clock_time, output_option, print_list, print_rows, table_lines, to_dict, use_colour
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.errors import HistoryCompacted, Unavailable
from moorage.v1 import events_pb2, watch_pb2

COLUMNS = (
    Column("TIME", lambda event: clock_time(event.time)),
    Column("SEVERITY", lambda event: event.severity),
    Column("OBJECT", lambda event: "/".join(event.target.split("/")[-2:])),
    Column("REASON", lambda event: event.reason),
    Column("MESSAGE", lambda event: event.message),
)
_RETRY_SECONDS = 1.0
_REMEMBERED = 20_000  # more than a control plane keeps of one project


class _Shown:
    """Names of what was shown, the newest of them."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> bool:
        """Whether it is new."""
        if name in self._names:
            return False
        self._names[name] = None
        if len(self._names) > _REMEMBERED:
            del self._names[next(iter(self._names))]
        return True


@click.group("event")
def event() -> None:
    """What happened."""


@click.command("ls")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--hosts", is_flag=True, help="Of hosts and the fleet; for fleet admins.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'severity=warning'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, follow: bool, all_projects: bool, hosts: bool, filter_text: str, output: str) -> None:
    """Show what happened, oldest first."""
    if follow and (hosts or filter_text):
        raise click.UsageError("-f follows all events of a project, or with -A all that you may see")
    parent = "-" if hosts else session.parent(all_projects)

    async def listed(client: Client) -> list[events_pb2.Event]:
        request = events_pb2.ListEventsRequest(parent=parent, filter=filter_text)
        return [found async for found in paginate(client.events.ListEvents, request, lambda page: page.events)]

    async def followed(client: Client) -> None:
        shown = _Shown()
        has_listed = False
        while True:
            try:
                # The revision first: what happens between it and the list comes twice, and is shown once.
                revision = await client.revision(session.project)
                for found in await listed(client):
                    if shown.add(found.name):
                        _print_line(found, output)
                has_listed = True
                watched = "" if all_projects else parent
                request = watch_pb2.WatchRequest(kinds=["events"], parent=watched, from_revision=revision)
                async for response in client.watch.Watch(request):
                    is_gone = response.change.type == watch_pb2.CHANGE_TYPE_DELETED  # history is bounded
                    if response.HasField("change") and not is_gone and shown.add(response.change.event.name):
                        _print_line(response.change.event, output)
            except HistoryCompacted:
                pass
            except Unavailable:
                if not has_listed:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    if not follow:
        print_list(session.run(listed), COLUMNS, output)
        return
    if output in ("table", "wide"):
        print_rows([column.title.ljust(width) for column, width in zip(COLUMNS, _WIDTHS, strict=True)], [])
    session.run(followed)


event.add_command(ls)
_WIDTHS = (19, 8, 24, 16, 0)  # a table that grows cannot know its widest cell


def _print_line(event: events_pb2.Event, output: str) -> None:
    if output in ("json", "yaml"):
        click.echo(json.dumps(to_dict(event)))  # a line of JSON is also a line of YAML
    elif output == "name":
        click.echo(short(event.name))
    else:
        cells = [column.cell(event).ljust(width) for column, width in zip(COLUMNS, _WIDTHS, strict=True)]
        click.echo(table_lines(["" for _ in cells], [cells], colour=use_colour())[-1])

"""host drain and maintenance: hosts are emptied."""

from collections.abc import Callable
from typing import Any

import click

from cli.host_columns import COLUMNS
from cli.instance.lifecycle import timeout_option
from cli.names import in_fleet, short
from cli.output import output_option, print_list
from cli.session import Session, pass_session
from moorage.client import Client
from moorage.units import parse_duration
from moorage.v1 import hosts_pb2

_SHOWN = 5


def _teller() -> Callable[[hosts_pb2.Host], None]:
    """Tells on standard error how far a drain is, whenever that is something new."""
    said: list[str] = []

    def tell(host: hosts_pb2.Host) -> None:
        drain = host.status.drain
        if host.admin_state == hosts_pb2.HOST_ADMIN_STATE_MAINTENANCE:
            lines = [f"{short(host.name)}: empty, in maintenance"]
        else:
            lines = [f"{short(host.name)}: {drain.left} left" + (", the deadline is over" if drain.overdue else "")]
            lines += [f"  {wait.instance}: {wait.message}" for wait in drain.waits[:_SHOWN]]
            if drain.left > _SHOWN:
                lines.append(f"  and {drain.left - _SHOWN} more")
        if lines != said:
            click.echo("\n".join(lines), err=True)
        said[:] = lines

    return tell


def _options(command: Any) -> Any:
    """What both commands have."""
    for option in (
        click.option("--deadline", metavar="TIME", help="When --force and --delete-unmanaged begin to count; 0s: now."),
        click.option(
            "--force",
            is_flag=True,
            help="After the deadline send the rest of groups, routers and jobs away too, even below a group's minimum.",
        ),
        click.option(
            "--delete-unmanaged",
            is_flag=True,
            help="After the deadline delete instances that nobody makes anew, with the files of their containers.",
        ),
        timeout_option,
    ):
        command = option(command)
    return command


def _request(name: str, deadline: str | None, force: bool, delete_unmanaged: bool) -> hosts_pb2.DrainHostRequest:
    request = hosts_pb2.DrainHostRequest(name=in_fleet("hosts", name), force=force, delete_unmanaged=delete_unmanaged)
    if deadline is not None:
        request.deadline.FromNanoseconds(int(parse_duration(deadline, field="deadline") * 1e9))
    return request


@click.command("drain")
@click.argument("names", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Until they are empty; tells how far it is.")
@click.option("--dry-run", is_flag=True, help="Check only.")
@_options
@output_option()
@pass_session
def drain(
    session: Session,
    /,
    names: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    deadline: str | None,
    force: bool,
    delete_unmanaged: bool,
    timeout: str,
    output: str,
) -> None:
    """Empty hosts: what groups and routers have there is made anew elsewhere, within the groups' budgets; jobs run to their end.

    Instances that nobody would make anew (those of `moor run`), or that must be on the host, such as those with files of a volume there,
    are named and waited for. A host that is empty is in MAINTENANCE until `moor host uncordon`, which also ends a drain that goes on.
    """
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> list[hosts_pb2.Host]:
        found = []
        for name in names:
            request = _request(name, deadline, force, delete_unmanaged)
            request.validate_only = dry_run
            found.append(await client.hosts.DrainHost(request))
        if wait and not dry_run:
            tell = _teller()
            found = [await client.wait_host_emptied(host.name, seconds, on_change=tell) for host in found]
        return found

    print_list(session.run(work), COLUMNS, output)


@click.command("maintenance")
@click.argument("names", nargs=-1, required=True)
@_options
@output_option()
@pass_session
def maintenance(
    session: Session,
    /,
    names: tuple[str, ...],
    deadline: str | None,
    force: bool,
    delete_unmanaged: bool,
    timeout: str,
    output: str,
) -> None:
    """Take hosts out of use for work on their machines: empties one after the other, as `drain` does, and waits for each."""
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> list[hosts_pb2.Host]:
        found, tell = [], _teller()
        for name in names:
            host = await client.hosts.DrainHost(_request(name, deadline, force, delete_unmanaged))
            found.append(await client.wait_host_emptied(host.name, seconds, on_change=tell))
        return found

    print_list(session.run(work), COLUMNS, output)

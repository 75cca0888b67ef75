"""group: shown, scaled, paused, rolled back, removed."""

from collections.abc import Awaitable, Callable

import click

from cli.completion import complete_names
from cli.group.change import create, update, wait_option, waited
from cli.group.plan import plan
from cli.group.show import COLUMNS, REVISION_COLUMNS
from cli.instance.lifecycle import kept_note, no_wait_option, now_option, timeout_option
from cli.names import short
from cli.output import output_option, print_list, print_one
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.errors import NotFound
from moorage.units import parse_duration
from moorage.v1 import groups_pb2

_name = click.argument("name", shell_complete=complete_names("groups"))
_Call = Callable[[Client, str], Awaitable[groups_pb2.Group]]


@click.group("group")
def group() -> None:
    """Groups: instances of one kind that are kept alive, updated and replaced together.

    A group keeps its members in slots, numbered from 0. A change of what members are is a new revision; they are brought to it some at a
    time, and back if it fails.
    """


group.add_command(create)
group.add_command(update)
group.add_command(plan)


@group.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'state=STABLE labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List groups."""

    async def work(client: Client) -> list[groups_pb2.Group]:
        request = groups_pb2.ListGroupsRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.groups.ListGroups, request, lambda page: page.groups)]

    print_list(session.run(work), COLUMNS, output)


@group.command("get")
@_name
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one group with its slots; what it prints can be edited and given to create and update."""

    async def work(client: Client) -> groups_pb2.Group:
        return await client.groups.GetGroup(groups_pb2.GetGroupRequest(name=session.name_in_project("groups", name)))

    print_one(session.run(work), COLUMNS, output)


@group.command("scale")
@_name
@click.argument("replicas", type=click.IntRange(min=0))
@wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def scale(session: Session, name: str, replicas: int, wait: bool, timeout: str, output: str) -> None:
    """Say how many members a group has; the highest slots go first."""

    async def call(client: Client, full_name: str) -> groups_pb2.Group:
        return await client.groups.ScaleGroup(groups_pb2.ScaleGroupRequest(name=full_name, replicas=replicas))

    _do(session, name, call, output, wait=wait, timeout=timeout)


@group.command("pause")
@_name
@project_option
@output_option("name")
@pass_session
def pause(session: Session, name: str, output: str) -> None:
    """Stop the rollout where it is; lost members are still replaced, by what ran well last."""

    async def call(client: Client, full_name: str) -> groups_pb2.Group:
        return await client.groups.PauseGroup(groups_pb2.PauseGroupRequest(name=full_name))

    _do(session, name, call, output)


@group.command("resume")
@_name
@wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def resume(session: Session, name: str, wait: bool, timeout: str, output: str) -> None:
    """Go on with a rollout that was paused, or that failed and was not rolled back."""

    async def call(client: Client, full_name: str) -> groups_pb2.Group:
        return await client.groups.ResumeGroup(groups_pb2.ResumeGroupRequest(name=full_name))

    _do(session, name, call, output, wait=wait, timeout=timeout)


@group.command("promote")
@_name
@wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def promote(session: Session, name: str, wait: bool, timeout: str, output: str) -> None:
    """Find the canaries good: the rest of the members follows."""

    async def call(client: Client, full_name: str) -> groups_pb2.Group:
        return await client.groups.PromoteGroup(groups_pb2.PromoteGroupRequest(name=full_name))

    _do(session, name, call, output, wait=wait, timeout=timeout)


@group.command("rollback")
@_name
@click.option("--to", "revision", type=click.IntRange(min=0), default=0, help="Revision; default the last good one.")
@wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def rollback(session: Session, name: str, revision: int, wait: bool, timeout: str, output: str) -> None:
    """Bring members, and the group's spec, back to a revision; see `moor group revisions`."""

    async def call(client: Client, full_name: str) -> groups_pb2.Group:
        return await client.groups.RollbackGroup(groups_pb2.RollbackGroupRequest(name=full_name, revision=revision))

    _do(session, name, call, output, wait=wait, timeout=timeout)


@group.command("revisions")
@_name
@project_option
@output_option()
@pass_session
def revisions(session: Session, name: str, output: str) -> None:
    """List what members were or shall be, oldest first."""

    async def work(client: Client) -> list[groups_pb2.GroupRevision]:
        request = groups_pb2.ListGroupRevisionsRequest(parent=session.name_in_project("groups", name))
        pages = paginate(client.groups.ListGroupRevisions, request, lambda page: page.revisions)
        return [found async for found in pages]

    print_list(session.run(work), REVISION_COLUMNS, output)


@group.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names("groups"))
@click.option("--with-dependents", is_flag=True, help="Also groups and jobs that depend on them; they stop first.")
@now_option
@no_wait_option
@timeout_option
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...], with_dependents: bool, now: bool, no_wait: bool, timeout: str) -> None:
    """Delete groups with their members, and wait until nothing is left of them.

    In a project with an undelete window the members go, and the rest is kept until it is over.
    """
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> None:
        full_names = [session.name_in_project("groups", name) for name in names]
        for full_name in full_names:
            request = groups_pb2.DeleteGroupRequest(name=full_name, with_dependents=with_dependents, now=now)
            await client.groups.DeleteGroup(request)
        for full_name in full_names:
            if (note := await _kept(client, full_name)) is not None:
                click.echo(note, err=True)
            elif not no_wait:
                await client.wait_group_gone(full_name, seconds)
            click.echo(short(full_name))

    session.run(work)


async def _kept(client: Client, name: str) -> str | None:
    try:
        return kept_note("group", name, await client.groups.GetGroup(groups_pb2.GetGroupRequest(name=name)))
    except NotFound:
        return None


@group.command("undelete")
@click.argument("name", shell_complete=complete_names("groups"))
@click.option("--wait", is_flag=True, help="Until all its members are ready.")
@timeout_option
@project_option
@output_option("name")
@pass_session
def undelete(session: Session, name: str, wait: bool, timeout: str, output: str) -> None:
    """Bring a deleted group back while it is kept; its members are made anew."""

    async def call(client: Client, full_name: str) -> groups_pb2.Group:
        return await client.groups.UndeleteGroup(groups_pb2.UndeleteGroupRequest(name=full_name))

    _do(session, name, call, output, wait=wait, timeout=timeout)


def _do(session: Session, name: str, call: _Call, output: str, *, wait: bool = False, timeout: str = "5m") -> None:
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> groups_pb2.Group:
        made = await call(client, session.name_in_project("groups", name))
        return await waited(client, made, seconds) if wait else made

    print_one(session.run(work), COLUMNS, output)

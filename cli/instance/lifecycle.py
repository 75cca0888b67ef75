"""start, stop, reboot, pause, unpause, rm: an instance's desired state, and waiting until it is so."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias

import click

from cli.completion import complete_names
from cli.failures import render
from cli.names import short
from cli.output import clock_time
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.errors import MoorageError, NotFound
from moorage.units import parse_duration
from moorage.v1 import instances_pb2

_RUNNING = (instances_pb2.INSTANCE_STATE_RUNNING,)
_STOPPED = (instances_pb2.INSTANCE_STATE_STOPPED, instances_pb2.INSTANCE_STATE_FAILED)
_ENDED = (*_STOPPED, instances_pb2.INSTANCE_STATE_STOPPING)
_ANY = tuple(instances_pb2.InstanceState.values())
_PAUSED = (instances_pb2.INSTANCE_STATE_PAUSED,)
_DELETED = (instances_pb2.INSTANCE_STATE_DELETED,)
# A short command may have ended before anybody saw it run.
HAS_RUN = (instances_pb2.INSTANCE_STATE_RUNNING, instances_pb2.INSTANCE_STATE_STOPPED)

names_argument = click.argument("names", nargs=-1, required=True, shell_complete=complete_names("instances"))
no_wait_option = click.option("--no-wait", is_flag=True, help="Do not wait until it is so.")
timeout_option = click.option(
    "--timeout", default="5m", metavar="TIME", show_default=True, help="Longest wait, such as 30s."
)

now_option = click.option("--now", is_flag=True, help="Do not keep it, whatever the project's undelete window.")

_Verb = Callable[[Client, str], Awaitable[str | None]]
_State: TypeAlias = "instances_pb2.InstanceState.ValueType"


def kept_note(noun: str, name: str, holder: Any) -> str | None:
    """What to tell of an object that was deleted and is kept; None: it is not. `holder` has its purge_time."""
    if not holder.HasField("purge_time"):
        return None
    return f"{short(name)} is kept until {clock_time(holder.purge_time)}; `moor {noun} undelete {short(name)}` brings it back."


def _change(
    session: Session,
    names: Sequence[str],
    verb: _Verb,
    states: Sequence[_State],
    *,
    no_wait: bool,
    timeout: str,
    new_run_from: Collection[_State] = (),
    missing_ok: bool = False,
) -> None:
    """Do it to all at once, print the name of each that is done, and fail with the first error.

    What the verb returns is a note on an instance that is as it shall be, so that nothing is waited for.

    `new_run_from` are states in which the verb begins a new run: what was reported before it does not count.
    """
    full_names = [session.name_in_project("instances", name) for name in names]
    seconds = parse_duration(timeout, field="timeout")
    notes: dict[str, str] = {}

    async def one(client: Client, name: str) -> tuple[str, int]:
        # By what people type (a name or a uid) to its name, which is what a watch tells of.
        before = await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name))
        if (note := await verb(client, before.name)) is not None:
            notes[before.name] = note
        return before.name, before.status.run if before.status.state in new_run_from else -1

    async def work(client: Client) -> None:
        results = await asyncio.gather(*(one(client, name) for name in full_names), return_exceptions=True)
        runs = dict(found for found in results if not isinstance(found, BaseException))
        projects = {"/".join(name.split("/")[:2]) for name in runs}
        for project in sorted(projects) if not no_wait else ():
            wanted = [name for name in runs if name.startswith(f"{project}/") and name not in notes]
            await client.wait_instances(wanted, states, seconds, after_runs=runs)
        for name in runs:
            click.echo(short(name))
        for note in notes.values():
            click.echo(note, err=True)
        errors = [error for error in results if isinstance(error, BaseException)]
        if missing_ok:
            errors = [error for error in errors if not isinstance(error, NotFound)]
        for error in errors[1:]:
            click.echo(render(error) if isinstance(error, MoorageError) else repr(error), err=True)
        if errors:
            raise errors[0]

    session.run(work)


@click.command("start")
@names_argument
@no_wait_option
@timeout_option
@project_option
@pass_session
def start(session: Session, names: tuple[str, ...], no_wait: bool, timeout: str) -> None:
    """Start stopped or failed instances: the same containers and files."""

    async def verb(client: Client, name: str) -> None:
        await client.instances.StartInstance(instances_pb2.StartInstanceRequest(name=name))

    _change(session, names, verb, _RUNNING, no_wait=no_wait, timeout=timeout, new_run_from=_ENDED)


@click.command("stop")
@names_argument
@no_wait_option
@timeout_option
@project_option
@pass_session
def stop(session: Session, names: tuple[str, ...], no_wait: bool, timeout: str) -> None:
    """Stop instances and keep their files and addresses."""

    async def verb(client: Client, name: str) -> None:
        await client.instances.StopInstance(instances_pb2.StopInstanceRequest(name=name))

    _change(session, names, verb, _STOPPED, no_wait=no_wait, timeout=timeout)


@click.command("reboot")
@names_argument
@no_wait_option
@timeout_option
@project_option
@pass_session
def reboot(session: Session, names: tuple[str, ...], no_wait: bool, timeout: str) -> None:
    """Stop and start instances: same containers, files and addresses."""

    async def verb(client: Client, name: str) -> None:
        await client.instances.RebootInstance(instances_pb2.RebootInstanceRequest(name=name))

    _change(session, names, verb, _RUNNING, no_wait=no_wait, timeout=timeout, new_run_from=_ANY)


@click.command("pause")
@names_argument
@no_wait_option
@timeout_option
@project_option
@pass_session
def pause(session: Session, names: tuple[str, ...], no_wait: bool, timeout: str) -> None:
    """Freeze instances in memory."""

    async def verb(client: Client, name: str) -> None:
        await client.instances.PauseInstance(instances_pb2.PauseInstanceRequest(name=name))

    _change(session, names, verb, _PAUSED, no_wait=no_wait, timeout=timeout)


@click.command("unpause")
@names_argument
@no_wait_option
@timeout_option
@project_option
@pass_session
def unpause(session: Session, names: tuple[str, ...], no_wait: bool, timeout: str) -> None:
    """Thaw instances."""

    async def verb(client: Client, name: str) -> None:
        await client.instances.UnpauseInstance(instances_pb2.UnpauseInstanceRequest(name=name))

    _change(session, names, verb, _RUNNING, no_wait=no_wait, timeout=timeout)


@click.command("rm")
@names_argument
@click.option(
    "-f", "--force", is_flag=True, help="Kill at once instead of stopping in order; a missing one is no error."
)
@now_option
@no_wait_option
@timeout_option
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...], force: bool, now: bool, no_wait: bool, timeout: str) -> None:
    """Delete instances, and wait until their containers and addresses are gone.

    In a project with an undelete window they stand still instead, and are removed when it is over.
    """

    async def verb(client: Client, name: str) -> str | None:
        request = instances_pb2.DeleteInstanceRequest(name=name, force=force, now=now)
        await client.instances.DeleteInstance(request)
        try:
            found = await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name))
        except NotFound:
            return None
        return kept_note("instance", name, found.status)

    _change(session, names, verb, _DELETED, no_wait=no_wait, timeout=timeout, missing_ok=force)


@click.command("undelete")
@names_argument
@no_wait_option
@timeout_option
@project_option
@pass_session
def undelete(session: Session, names: tuple[str, ...], no_wait: bool, timeout: str) -> None:
    """Bring deleted instances back while they are kept: the same containers, files and addresses."""

    async def verb(client: Client, name: str) -> str | None:
        found = await client.instances.UndeleteInstance(instances_pb2.UndeleteInstanceRequest(name=name))
        is_still = found.desired_state == instances_pb2.DESIRED_STATE_STOPPED
        return f"{short(name)} is stopped, as it was before." if is_still else None

    _change(session, names, verb, HAS_RUN, no_wait=no_wait, timeout=timeout, new_run_from=_ENDED)

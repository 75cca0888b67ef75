"""run in the foreground: show an instance's process until it ends, exit as it did, and clean up after --rm."""

import asyncio

import click

from cli.instance.create import wait_until_run
from cli.instance.interact import Detached, interact
from cli.instance.logs import print_logs
from cli.names import short
from moorage.client import Client
from moorage.errors import MoorageError, NotFound, NotReady
from moorage.v1 import instance_streams_pb2 as streams_pb2
from moorage.v1 import instances_pb2

_ENDED = (instances_pb2.INSTANCE_STATE_STOPPED, instances_pb2.INSTANCE_STATE_FAILED)
_REMOVAL_SECONDS = 30.0


async def follow_to_end(
    client: Client,
    instance: instances_pb2.Instance,
    *,
    stdin: bool,
    tty: bool,
    remove: bool,
    timeout_seconds: float | None,
    unplaced_seconds: float | None,
) -> int:
    """Wait until it runs, show it until it ends; its exit code. With `remove` it is deleted, whatever happened.

    Raises:
        MoorageError: it never ran, or the connection broke.
    """
    try:
        (current,) = await wait_until_run(client, [instance], timeout_seconds, unplaced_seconds=unplaced_seconds)
        code = await _show(client, current, stdin=stdin, tty=tty)
        return await _exit_code(client, current.name) if code is None else code
    except Detached:
        click.echo(
            f"\r\n{short(instance.name)} goes on; `moor attach {short(instance.name)}` joins it again.", err=True
        )
        remove = False
        return 0
    finally:
        if remove:
            # Ctrl-C cancels this task once; what is awaited here is not touched by that.
            await _remove(client, instance.name)


async def _show(client: Client, instance: instances_pb2.Instance, *, stdin: bool, tty: bool) -> int | None:
    has_ended = instance.status.state == instances_pb2.INSTANCE_STATE_STOPPED
    if (stdin or tty) and not has_ended:
        try:
            start = streams_pb2.ExecStart(name=instance.name, attach=True, tty=tty, stdin=stdin)
            return await interact(client, start, replay=True)
        except NotReady:
            pass  # it ended before we came: its log has what it wrote
    await print_logs(client, streams_pb2.StreamLogsRequest(name=instance.name, follow=not has_ended))
    return None


async def _exit_code(client: Client, name: str) -> int:
    ended = await client.wait_instance(name, _ENDED)
    status = ended.status
    if status.HasField("exit_code"):
        return status.exit_code
    if status.message:
        click.echo(f"{short(name)}: {status.message}", err=True)
    return 1


async def _remove(client: Client, name: str) -> None:
    try:
        await client.instances.DeleteInstance(instances_pb2.DeleteInstanceRequest(name=name, force=True, now=True))
        await client.wait_instance(name, [instances_pb2.INSTANCE_STATE_DELETED], _REMOVAL_SECONDS)
    except NotFound:
        pass  # gone already
    except (MoorageError, asyncio.CancelledError) as error:
        click.echo(f"{short(name)} may be left; remove it with `moor rm {short(name)}`", err=True)
        if isinstance(error, asyncio.CancelledError):
            raise

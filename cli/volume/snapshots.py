"""volume snapshot: what a volume had at one moment."""

from typing import Any

import click

from cli.completion import complete_names
from cli.instance.lifecycle import no_wait_option, timeout_option
from cli.names import short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.session import Session, pass_session, project_option
from cli.words import key_values
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.units import parse_duration
from moorage.v1 import volumes_pb2

COLUMNS = (
    Column("NAME", lambda snapshot: short(snapshot.name)),
    Column("STATE", lambda snapshot: enum_word(volumes_pb2.VolumeSnapshotState, snapshot.state)),
    Column("HOST", lambda snapshot: short(snapshot.host)),
    Column("AGE", lambda snapshot: age(snapshot.create_time)),
    Column("MESSAGE", lambda snapshot: snapshot.message),
    Column("LABELS", lambda snapshot: pairs(snapshot.labels.items()), wide=True),
)

_volume = click.argument("volume", shell_complete=complete_names("volumes"))


def full_name(session: Session, volume: str, name: str) -> str:
    """projects/{project}/volumes/{volume}/snapshots/{snapshot}."""
    return f"{session.name_in_project('volumes', volume)}/snapshots/{name}"


@click.group("snapshot")
def snapshot() -> None:
    """Snapshots of a volume, kept beside its files on the same host: against mistakes, not against the loss of the host."""


@snapshot.command("create")
@_volume
@click.argument("name")
@click.option(
    "--no-pause", is_flag=True, help="Let instances that use it run meanwhile; files that change may be torn."
)
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the snapshot.")
@no_wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    volume: str,
    name: str,
    no_pause: bool,
    label: tuple[str, ...],
    no_wait: bool,
    timeout: str,
    output: str,
) -> None:
    """Keep what a volume has now; instances that use it stand still while the copy is made."""
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> volumes_pb2.VolumeSnapshot:
        request = volumes_pb2.CreateVolumeSnapshotRequest(
            parent=session.name_in_project("volumes", volume),
            volume_snapshot_id=name,
            volume_snapshot=volumes_pb2.VolumeSnapshot(labels=key_values("label", label)),
            request_id=new_id(),
            no_pause=no_pause,
        )
        made = await client.volumes.CreateVolumeSnapshot(request)
        return made if no_wait else await client.wait_volume_snapshot(made.name, seconds)

    print_one(session.run(work), COLUMNS, output)


@snapshot.command("ls")
@_volume
@project_option
@output_option()
@pass_session
def ls(session: Session, volume: str, output: str) -> None:
    """List the snapshots of a volume."""

    async def work(client: Client) -> list[Any]:
        request = volumes_pb2.ListVolumeSnapshotsRequest(parent=session.name_in_project("volumes", volume))
        pages = paginate(client.volumes.ListVolumeSnapshots, request, lambda page: page.volume_snapshots)
        return [found async for found in pages]

    print_list(session.run(work), COLUMNS, output)


@snapshot.command("restore")
@_volume
@click.argument("name")
@no_wait_option
@timeout_option
@project_option
@pass_session
def restore(session: Session, volume: str, name: str, no_wait: bool, timeout: str) -> None:
    """Put what a snapshot has in place of all that its volume has; its instances must be stopped."""
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> None:
        request = volumes_pb2.RestoreVolumeSnapshotRequest(name=full_name(session, volume, name))
        found = await client.volumes.RestoreVolumeSnapshot(request)
        if not no_wait:
            await client.wait_volume_copied(found.name, seconds)
        click.echo(f"{'Restoring' if no_wait else 'Restored'} {short(found.name)}.")

    session.run(work)


@snapshot.command("rm")
@_volume
@click.argument("names", nargs=-1, required=True)
@project_option
@pass_session
def rm(session: Session, volume: str, names: tuple[str, ...]) -> None:
    """Delete snapshots of a volume."""

    async def work(client: Client) -> None:
        for name in names:
            request = volumes_pb2.DeleteVolumeSnapshotRequest(name=full_name(session, volume, name))
            await client.volumes.DeleteVolumeSnapshot(request)
            click.echo(f"Deleting {name}.")

    session.run(work)

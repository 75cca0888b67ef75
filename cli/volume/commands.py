"""volume: make, list, change and delete volumes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.instance.lifecycle import kept_note, no_wait_option, now_option, timeout_option
from cli.names import in_fleet, short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.run_options import PROTECTION, add_options
from cli.session import Session, pass_session, project_option
from cli.tarstream import CHUNK_BYTES
from cli.volume.snapshots import snapshot
from cli.volume.words import ON_HOST_LOSS, REMOVAL, SHARING, mode, owner, word_of
from cli.words import key_values
from moorage.client import Client, paginate
from moorage.errors import NotFound
from moorage.ids import new_id
from moorage.units import format_bytes, parse_bytes, parse_duration
from moorage.v1 import volumes_pb2

COLUMNS = (
    Column("NAME", lambda volume: short(volume.name)),
    Column("STATE", lambda volume: enum_word(volumes_pb2.VolumeState, volume.status.state)),
    Column("HOST", lambda volume: short(volume.status.host)),
    Column("USED", lambda volume: _used(volume.status)),
    Column("SHARING", lambda volume: word_of(SHARING, volume.spec.sharing)),
    Column("INSTANCES", lambda volume: " ".join(map(short, volume.status.instances))),
    Column("AGE", lambda volume: age(volume.create_time)),
    Column("ON HOST LOSS", lambda volume: word_of(ON_HOST_LOSS, volume.spec.on_host_loss), wide=True),
    Column("REMOVAL", lambda volume: word_of(REMOVAL, volume.spec.removal), wide=True),
    Column("OWNER", lambda volume: short(volume.status.owner), wide=True),
    Column("LABELS", lambda volume: pairs(volume.labels.items()), wide=True),
    Column("MESSAGE", lambda volume: volume.status.message, wide=True),
)


def _used(status: volumes_pb2.VolumeStatus) -> str:
    if not status.HasField("usage_time"):
        return ""
    of = f" of {format_bytes(status.capacity_bytes)}" if status.capacity_bytes else ""
    return format_bytes(status.used_bytes) + of


_name = click.argument("name", shell_complete=complete_names("volumes"))
_on_host_loss = click.option(
    "--on-host-loss",
    type=click.Choice(list(ON_HOST_LOSS)),
    help="When its host is lost: wait for it (the default), replace it by an empty one elsewhere, or fail.",
)
_removal = click.option(
    "--removal",
    type=click.Choice(list(REMOVAL)),
    help="Whether a volume that a group made stays without the group (the default) or is deleted with it.",
)


@click.group("volume")
def volume() -> None:
    """Volumes: files that outlive the instances that use them.

    A volume is a folder of one host: that of the first instance that uses it (moor run -v NAME:/PATH), to which all others then go. One
    instance at a time may have it, unless it is made with --sharing shared.
    """


@volume.command("create")
@click.argument("name")
@click.option("--host", default="", metavar="HOST", help="Make its files there; default: with its first instance.")
@click.option("--from", "source", default="", metavar="VOLUME[/SNAPSHOT]", help="Begin with a copy of what that has.")
@click.option("--size", default="", metavar="BYTES", help="Room that it has, such as 10Gi; default what the disk has.")
@click.option("--sharing", type=click.Choice(list(SHARING)), help="Whether one instance at a time may have it.")
@_on_host_loss
@_removal
@add_options(PROTECTION)
@click.option("--owner", "owner_word", default="", metavar="UID[:GID]", help="Owner of its top folder; default root.")
@click.option("--mode", "mode_word", default="", metavar="BITS", help="Permissions of its top folder; default 0755.")
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the volume.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@no_wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    name: str,
    host: str,
    source: str,
    size: str,
    sharing: str | None,
    on_host_loss: str | None,
    removal: str | None,
    delete_protection: bool | None,
    owner_word: str,
    mode_word: str,
    label: tuple[str, ...],
    validate_only: bool,
    no_wait: bool,
    timeout: str,
    output: str,
) -> None:
    """Make a volume, whose files are made when an instance first uses it; or a copy of another one, at once."""
    seconds = parse_duration(timeout, field="timeout")
    spec = volumes_pb2.VolumeSpec(host=in_fleet("hosts", host) if host else "")
    if source:
        volume_name, slash, snapshot_name = source.partition("/")
        spec.source = f"{volume_name}/snapshots/{snapshot_name}" if slash else volume_name
    if size:
        spec.size_bytes = parse_bytes(size, field="size")
    if sharing:
        spec.sharing = SHARING[sharing]
    if on_host_loss:
        spec.on_host_loss = ON_HOST_LOSS[on_host_loss]
    if removal:
        spec.removal = REMOVAL[removal]
    if delete_protection:
        spec.delete_protection = True
    if owner_word:
        spec.owner_uid, spec.owner_gid = owner(owner_word)
    if mode_word:
        spec.mode = mode(mode_word)

    async def work(client: Client) -> volumes_pb2.Volume:
        request = volumes_pb2.CreateVolumeRequest(
            parent=session.project,
            volume_id=short(name),
            volume=volumes_pb2.Volume(spec=spec, labels=key_values("label", label)),
            request_id=new_id(),
            validate_only=validate_only,
        )
        made = await client.volumes.CreateVolume(request)
        return made if no_wait or validate_only else await client.wait_volume_copied(made.name, seconds)

    print_one(session.run(work), COLUMNS, output)


@volume.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'state=LOST host=hosts/a'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List volumes."""

    async def work(client: Client) -> list[Any]:
        request = volumes_pb2.ListVolumesRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.volumes.ListVolumes, request, lambda page: page.volumes)]

    print_list(session.run(work), COLUMNS, output)


@volume.command("get")
@_name
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one volume."""

    async def work(client: Client) -> volumes_pb2.Volume:
        return await client.volumes.GetVolume(
            volumes_pb2.GetVolumeRequest(name=session.name_in_project("volumes", name))
        )

    print_one(session.run(work), COLUMNS, output)


@volume.command("update")
@_name
@_on_host_loss
@_removal
@add_options(PROTECTION)
@project_option
@output_option("name")
@pass_session
def update(
    session: Session,
    name: str,
    on_host_loss: str | None,
    removal: str | None,
    delete_protection: bool | None,
    output: str,
) -> None:
    """Change what happens to a volume."""
    changed = volumes_pb2.Volume(name=session.name_in_project("volumes", name))
    paths = []
    if on_host_loss:
        changed.spec.on_host_loss = ON_HOST_LOSS[on_host_loss]
        paths.append("spec.on_host_loss")
    if removal:
        changed.spec.removal = REMOVAL[removal]
        paths.append("spec.removal")
    if delete_protection is not None:
        changed.spec.delete_protection = delete_protection
        paths.append("spec.delete_protection")
    if not paths:
        raise click.UsageError("nothing to change: give an option")

    async def work(client: Client) -> volumes_pb2.Volume:
        mask = field_mask_pb2.FieldMask(paths=paths)
        return await client.volumes.UpdateVolume(volumes_pb2.UpdateVolumeRequest(volume=changed, update_mask=mask))

    print_one(session.run(work), COLUMNS, output)


@volume.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names("volumes"))
@now_option
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...], now: bool) -> None:
    """Delete volumes that no instance uses, with their files.

    In a project with an undelete window the files are kept until it is over.
    """

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("volumes", name)
            await client.volumes.DeleteVolume(volumes_pb2.DeleteVolumeRequest(name=full_name, now=now))
            click.echo(f"Deleting {short(full_name)}.")
            if (note := await _kept(client, full_name)) is not None:
                click.echo(note, err=True)

    session.run(work)


async def _kept(client: Client, name: str) -> str | None:
    try:
        found = await client.volumes.GetVolume(volumes_pb2.GetVolumeRequest(name=name))
    except NotFound:
        return None
    return kept_note("volume", name, found.status)


@volume.command("undelete")
@_name
@project_option
@output_option("name")
@pass_session
def undelete(session: Session, name: str, output: str) -> None:
    """Bring a deleted volume back, with its files, while it is kept."""
    full_name = session.name_in_project("volumes", name)

    async def work(client: Client) -> volumes_pb2.Volume:
        return await client.volumes.UndeleteVolume(volumes_pb2.UndeleteVolumeRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)


@volume.command("backup")
@_name
@click.option(
    "--no-pause", is_flag=True, help="Let instances that use it run meanwhile; files that change may be torn."
)
@project_option
@pass_session
def backup(session: Session, name: str, no_pause: bool) -> None:
    """Write all files of a volume as a tar to standard output; instances that use it stand still meanwhile."""
    if sys.stdout.isatty():
        raise click.UsageError(
            "a tar is not for a terminal: write it to a file, such as moor volume backup NAME > x.tar"
        )
    full_name = session.name_in_project("volumes", name)

    async def work(client: Client) -> None:
        request = volumes_pb2.BackupVolumeRequest(name=full_name, no_pause=no_pause)
        async for response in client.volumes.BackupVolume(request):
            sys.stdout.buffer.write(response.chunk)
        sys.stdout.buffer.flush()

    session.run(work)


@volume.command("restore")
@_name
@click.argument("file", default="-", type=click.File("rb"))
@project_option
@pass_session
def restore(session: Session, name: str, file: BinaryIO) -> None:
    """Put the files of a tar, from FILE or standard input, in place of all that a volume has; its instances must be stopped."""
    full_name = session.name_in_project("volumes", name)

    async def messages() -> AsyncIterator[volumes_pb2.RestoreVolumeRequest]:
        yield volumes_pb2.RestoreVolumeRequest(start=volumes_pb2.RestoreVolumeStart(name=full_name))
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield volumes_pb2.RestoreVolumeRequest(chunk=chunk)

    async def work(client: Client) -> None:
        await client.volumes.RestoreVolume(messages())
        click.echo(f"Restored {short(full_name)}.")

    session.run(work)


volume.add_command(snapshot)

"""host: machines with an agent."""

import click
from google.protobuf import field_mask_pb2

from cli.host_add.commands import add
from cli.host_columns import COLUMNS
from cli.host_drain import drain, maintenance
from cli.host_rebalance import rebalance
from cli.host_settings import update
from cli.names import in_fleet, short
from cli.output import output_option, print_list, print_one
from cli.session import Session, pass_session
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec
from moorage.v1 import hosts_pb2


def parse_label_changes(changes: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """`K=V` sets, `K-` removes.

    Raises:
        InvalidSpec: neither form.
    """
    wanted: dict[str, str] = {}
    removed: list[str] = []
    for change in changes:
        key, equals, value = change.partition("=")
        if equals and key:
            wanted[key] = value
        elif not equals and change.endswith("-") and len(change) > 1:
            removed.append(change[:-1])
        else:
            raise InvalidSpec.of("labels", f"{change!r}: write KEY=VALUE to set a label, KEY- to remove it")
    return wanted, removed


@click.group("host")
def host() -> None:
    """Hosts: machines with an agent. They join with `moor host add`, or `moor join-token create` and `moorage-hostagent`."""


@host.command("ls")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'link_state=UP labels.disk=ssd'.")
@output_option()
@pass_session
def ls(session: Session, filter_text: str, output: str) -> None:
    """List hosts."""

    async def work(client: Client) -> list[hosts_pb2.Host]:
        request = hosts_pb2.ListHostsRequest(filter=filter_text)
        return [found async for found in paginate(client.hosts.ListHosts, request, lambda page: page.hosts)]

    print_list(session.run(work), COLUMNS, output)


@host.command("get")
@click.argument("name")
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one host with its facts and conditions."""

    async def work(client: Client) -> hosts_pb2.Host:
        return await client.hosts.GetHost(hosts_pb2.GetHostRequest(name=in_fleet("hosts", name)))

    print_one(session.run(work), COLUMNS, output)


@host.command("label")
@click.argument("name")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE | KEY-]...")
@click.option("--zone", metavar="ZONE", help="Move the host to this zone.")
@output_option()
@pass_session
def label(session: Session, name: str, changes: tuple[str, ...], zone: str | None, output: str) -> None:
    """Set or remove labels of a host, or move it to another zone."""

    wanted, removed = parse_label_changes(changes)
    paths = [*(["labels"] if changes else []), *(["zone"] if zone is not None else [])]
    if not paths:
        raise click.UsageError("nothing to change: give KEY=VALUE, KEY- or --zone")

    async def work(client: Client) -> hosts_pb2.Host:
        found = await client.hosts.GetHost(hosts_pb2.GetHostRequest(name=in_fleet("hosts", name)))
        # The etag makes read, change and write one: a change by someone else in between is refused, not lost.
        changed = hosts_pb2.Host(name=found.name, etag=found.etag, labels=found.labels)
        changed.labels.update(wanted)
        for key in removed:
            changed.labels.pop(key, None)
        if zone is not None:
            changed.zone = in_fleet("zones", zone)
        mask = field_mask_pb2.FieldMask(paths=paths)
        return await client.hosts.UpdateHost(hosts_pb2.UpdateHostRequest(host=changed, update_mask=mask))

    print_one(session.run(work), COLUMNS, output)


@host.command("cordon")
@click.argument("names", nargs=-1, required=True)
@pass_session
def cordon(session: Session, names: tuple[str, ...]) -> None:
    """Let hosts take no more instances; those that they have stay."""

    async def work(client: Client) -> None:
        for name in names:
            await client.hosts.CordonHost(hosts_pb2.CordonHostRequest(name=in_fleet("hosts", name)))
            click.echo(f"{short(name)} takes no more instances.")

    session.run(work)


@host.command("uncordon")
@click.argument("names", nargs=-1, required=True)
@pass_session
def uncordon(session: Session, names: tuple[str, ...]) -> None:
    """Let hosts take instances again, those in maintenance too. A drain that goes on ends."""

    async def work(client: Client) -> None:
        for name in names:
            await client.hosts.UncordonHost(hosts_pb2.UncordonHostRequest(name=in_fleet("hosts", name)))
            click.echo(f"{short(name)} takes instances.")

    session.run(work)


@host.command("rm")
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--force", is_flag=True, help="The machine is gone for good: give up its instances, free their addresses."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_session
def rm(session: Session, names: tuple[str, ...], force: bool, yes: bool) -> None:
    """Remove hosts that carry nothing. Their certificates are refused from then on."""

    if force and not yes:
        machines = ", ".join(short(name) for name in names)
        question = f"Is {machines} gone for good? If it still runs, its instances will exist twice"
        click.confirm(question, abort=True, err=True)

    async def work(client: Client) -> None:
        for name in names:
            await client.hosts.DeleteHost(hosts_pb2.DeleteHostRequest(name=in_fleet("hosts", name), force=force))
            click.echo(f"Removed {short(name)}.")

    session.run(work)


@host.command("lost")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Check only.")
@output_option()
@pass_session
def lost(session: Session, name: str, yes: bool, dry_run: bool, output: str) -> None:
    """Give your word that a host that is away runs nothing any more: members of groups are made anew elsewhere.

    The control plane does this by itself when the host's neighbours do not reach it either; `moor host get` shows why it has not. The host
    stays in the fleet: when it is back, it first removes what was replaced. Its other instances, and all addresses, are kept for it until
    then (`moor host rm --force` gives them up too).
    """

    if not (yes or dry_run):
        question = f"Is {short(name)} off, or cut off from everybody? If not, some instances will run twice"
        click.confirm(question, abort=True, err=True)

    async def work(client: Client) -> hosts_pb2.Host:
        request = hosts_pb2.DeclareHostLostRequest(name=in_fleet("hosts", name), validate_only=dry_run)
        return await client.hosts.DeclareHostLost(request)

    print_one(session.run(work), COLUMNS, output)


@host.command("release-brake")
@click.argument("name")
@pass_session
def release_brake(session: Session, name: str) -> None:
    """Let a sweep that was held back go on, once. `moor host get` shows what it would remove."""

    async def work(client: Client) -> None:
        await client.hosts.ReleaseSweepBrake(hosts_pb2.ReleaseSweepBrakeRequest(name=in_fleet("hosts", name)))
        click.echo(f"The sweep of {short(name)} goes on.")

    session.run(work)


for command in (add, drain, maintenance, rebalance, update):
    host.add_command(command)

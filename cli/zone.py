"""zone: failure domains of hosts."""

import click

from cli.names import in_fleet, short
from cli.output import Column, age, output_option, print_list, print_one
from cli.session import Session, pass_session
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.v1 import zones_pb2

COLUMNS = (
    Column("NAME", lambda zone: short(zone.name)),
    Column("DESCRIPTION", lambda zone: zone.description),
    Column("AGE", lambda zone: age(zone.create_time)),
)


@click.group("zone")
def zone() -> None:
    """Zones: failure domains that hosts belong to."""


@zone.command("ls")
@output_option()
@pass_session
def ls(session: Session, output: str) -> None:
    """List zones."""

    async def work(client: Client) -> list[zones_pb2.Zone]:
        request = zones_pb2.ListZonesRequest()
        return [found async for found in paginate(client.zones.ListZones, request, lambda page: page.zones)]

    print_list(session.run(work), COLUMNS, output)


@zone.command("create")
@click.argument("name")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@output_option("name")
@pass_session
def create(session: Session, name: str, description: str, output: str) -> None:
    """Make a zone."""

    async def work(client: Client) -> zones_pb2.Zone:
        request = zones_pb2.CreateZoneRequest(
            zone_id=short(name), zone=zones_pb2.Zone(description=description), request_id=new_id()
        )
        return await client.zones.CreateZone(request)

    print_one(session.run(work), COLUMNS, output)


@zone.command("rm")
@click.argument("names", nargs=-1, required=True)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Delete zones without hosts."""

    async def work(client: Client) -> None:
        for name in names:
            await client.zones.DeleteZone(zones_pb2.DeleteZoneRequest(name=in_fleet("zones", name)))
            click.echo(f"Deleted {short(name)}.")

    session.run(work)

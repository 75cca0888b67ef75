"""public-address: addresses of an outside network's pool, for rules of routers."""

import click

from cli.completion import complete_names
from cli.names import short
from cli.output import Column, age, output_option, pairs, print_list, print_one
from cli.session import Session, pass_session, project_option
from cli.spec import key_values
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.v1 import public_addresses_pb2

COLUMNS = (
    Column("NAME", lambda public: short(public.name)),
    Column("ADDRESS", lambda public: public.status.address),
    Column("NETWORK", lambda public: short(public.spec.network)),
    Column("ROUTER", lambda public: short(public.status.router)),
    Column("USED BY", lambda public: ",".join(short(name) for name in public.status.used_by)),
    Column("AGE", lambda public: age(public.create_time)),
    Column("LABELS", lambda public: pairs(public.labels.items()), wide=True),
)


@click.group("public-address")
def public_address() -> None:
    """Public addresses, for rules and balancers of routers."""


@public_address.command("allocate")
@click.argument("name")
@click.option("--network", default="outside", show_default=True, metavar="NETWORK", help="Whose pool it comes from.")
@click.option("--address", default="", metavar="ADDRESS", help="A wanted one; default a free one.")
@click.option("--ipv6", is_flag=True, help="An IPv6 address.")
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the address.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@project_option
@output_option("wide")
@pass_session
def allocate(
    session: Session,
    name: str,
    network: str,
    address: str,
    ipv6: bool,
    label: tuple[str, ...],
    validate_only: bool,
    output: str,
) -> None:
    """Take an address from a pool."""
    spec = public_addresses_pb2.PublicAddressSpec(network=network, address=address, ipv6=ipv6)

    async def work(client: Client) -> public_addresses_pb2.PublicAddress:
        request = public_addresses_pb2.CreatePublicAddressRequest(
            parent=session.project,
            address_id=short(name),
            public_address=public_addresses_pb2.PublicAddress(spec=spec, labels=key_values("label", label)),
            request_id=new_id(),
            validate_only=validate_only,
        )
        return await client.public_addresses.CreatePublicAddress(request)

    print_one(session.run(work), COLUMNS, output)


@public_address.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List public addresses, and what uses them."""

    async def work(client: Client) -> list[public_addresses_pb2.PublicAddress]:
        parent = session.parent(all_projects)
        request = public_addresses_pb2.ListPublicAddressesRequest(parent=parent, filter=filter_text)
        pages = paginate(client.public_addresses.ListPublicAddresses, request, lambda page: page.public_addresses)
        return [found async for found in pages]

    print_list(session.run(work), COLUMNS, output)


@public_address.command("get")
@click.argument("name", shell_complete=complete_names("public_addresses"))
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one public address."""

    async def work(client: Client) -> public_addresses_pb2.PublicAddress:
        full_name = session.name_in_project("publicAddresses", name)
        request = public_addresses_pb2.GetPublicAddressRequest(name=full_name)
        return await client.public_addresses.GetPublicAddress(request)

    print_one(session.run(work), COLUMNS, output)


@public_address.command("release")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names("public_addresses"))
@project_option
@pass_session
def release(session: Session, names: tuple[str, ...]) -> None:
    """Give addresses back that nothing uses."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("publicAddresses", name)
            request = public_addresses_pb2.DeletePublicAddressRequest(name=full_name)
            await client.public_addresses.DeletePublicAddress(request)
            click.echo(f"Released {short(full_name)}.")

    session.run(work)

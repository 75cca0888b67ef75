"""key: API keys."""

import json
import time
from typing import Any

import click

from cli.names import in_fleet, short
from cli.output import Column, age, clock_time, output_option, print_list, to_dict
from cli.session import Session, pass_session
from moorage.client import Client, paginate
from moorage.units import parse_duration
from moorage.v1 import access_pb2

COLUMNS = (
    Column("KEY", lambda key: short(key.name)),
    Column("USER", lambda key: key.user),
    Column("FLEET-ADMIN", lambda key: "yes" if key.fleet_admin else "no"),
    Column("EXPIRES", lambda key: clock_time(key.expire_time) or "never"),
    Column("AGE", lambda key: age(key.create_time)),
    Column("DESCRIPTION", lambda key: key.description),
)


def print_secret(made: Any, secret: str, output: str, told: str) -> None:
    """Something whose secret is shown once: alone on standard output, so that it can be piped into a file."""
    if output == "json":
        click.echo(json.dumps({**to_dict(made), "secret": secret}, indent=2))
    else:
        click.echo(told, err=True)
        click.echo(secret)


@click.group("key")
def key() -> None:
    """API keys: how people and programs prove who they are."""


@key.command("create")
@click.option("--user", default="", metavar="USER", help="User that it speaks for; default yourself.")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@click.option("--expires", metavar="TIME", help="How long it is good, such as 30d; default for ever.")
@click.option("--fleet-admin", is_flag=True, help="It may do everything, in all projects.")
@click.option(
    "-o", "--output", type=click.Choice(["secret", "json"]), default="secret", show_default=True, help="How to print."
)
@pass_session
def create(session: Session, user: str, description: str, expires: str | None, fleet_admin: bool, output: str) -> None:
    """Make a key, and print it: it cannot be read again."""
    wanted = access_pb2.ApiKey(user=user, description=description, fleet_admin=fleet_admin)
    if expires:
        wanted.expire_time.FromSeconds(int(time.time() + parse_duration(expires, field="expires")))

    async def work(client: Client) -> access_pb2.CreateApiKeyResponse:
        if not wanted.user:
            wanted.user = (await client.access.GetCaller(access_pb2.GetCallerRequest())).user
        return await client.access.CreateApiKey(access_pb2.CreateApiKeyRequest(api_key=wanted))

    made = session.run(work)
    told = f"Key {short(made.api_key.name)} of {made.api_key.user}; it is shown this once:"
    print_secret(made.api_key, made.secret, output, told)


@key.command("ls")
@output_option()
@pass_session
def ls(session: Session, output: str) -> None:
    """List keys, without their secrets: your own, or as a fleet admin all."""

    async def work(client: Client) -> list[access_pb2.ApiKey]:
        request = access_pb2.ListApiKeysRequest()
        return [found async for found in paginate(client.access.ListApiKeys, request, lambda page: page.api_keys)]

    print_list(session.run(work), COLUMNS, output)


@key.command("rm")
@click.argument("names", nargs=-1, required=True)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """End keys at once."""

    async def work(client: Client) -> None:
        for name in names:
            await client.access.DeleteApiKey(access_pb2.DeleteApiKeyRequest(name=in_fleet("apiKeys", name)))
            click.echo(f"Ended {short(name)}.")

    session.run(work)

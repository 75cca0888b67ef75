"""join-token: what a machine needs to become a host."""

import click

from cli.key import print_secret
from cli.names import in_fleet, short
from cli.output import Column, clock_time, output_option, print_list
from cli.session import Session, pass_session
from cli.spec import duration
from moorage.client import Client, paginate
from moorage.v1 import enrollment_pb2

COLUMNS = (
    Column("TOKEN", lambda token: short(token.name)),
    Column("USED", lambda token: f"{token.used}/{token.max_uses}"),
    Column("EXPIRES", lambda token: clock_time(token.expire_time)),
    Column("REVOKED", lambda token: "yes" if token.revoked else "no"),
    Column("ZONE", lambda token: short(token.zone)),
    Column("BY", lambda token: token.created_by),
)


@click.group("join-token")
def join_token() -> None:
    """Tokens with which machines become hosts."""


@join_token.command("create")
@click.option("--ttl", metavar="TIME", help="How long it is good, such as 2h; default 1h.")
@click.option("--uses", type=click.IntRange(min=1), default=1, show_default=True, help="How many hosts may use it.")
@click.option("--zone", default="", metavar="ZONE", help="Zone of its hosts; default the host's own wish.")
@click.option(
    "-o", "--output", type=click.Choice(["secret", "json"]), default="secret", show_default=True, help="How to print."
)
@pass_session
def create(session: Session, ttl: str | None, uses: int, zone: str, output: str) -> None:
    """Make a token, and print it: it cannot be read again. Give it to `moorage-hostagent` on the new host."""
    request = enrollment_pb2.CreateJoinTokenRequest(max_uses=uses, zone=in_fleet("zones", zone) if zone else "")
    if ttl:
        request.time_to_live.CopyFrom(duration("ttl", ttl))

    async def work(client: Client) -> enrollment_pb2.CreateJoinTokenResponse:
        return await client.enrollment.CreateJoinToken(request)

    made = session.run(work)
    until = clock_time(made.join_token.expire_time)
    told = f"Token {short(made.join_token.name)}, good until {until}; it is shown this once:"
    print_secret(made.join_token, made.secret, output, told)


@join_token.command("ls")
@output_option()
@pass_session
def ls(session: Session, output: str) -> None:
    """List tokens, without their secrets."""

    async def work(client: Client) -> list[enrollment_pb2.JoinToken]:
        call = client.enrollment.ListJoinTokens
        request = enrollment_pb2.ListJoinTokensRequest()
        return [found async for found in paginate(call, request, lambda page: page.join_tokens)]

    print_list(session.run(work), COLUMNS, output)


@join_token.command("revoke")
@click.argument("names", nargs=-1, required=True)
@pass_session
def revoke(session: Session, names: tuple[str, ...]) -> None:
    """End tokens at once; hosts that used them stay."""

    async def work(client: Client) -> None:
        for name in names:
            request = enrollment_pb2.RevokeJoinTokenRequest(name=in_fleet("joinTokens", name))
            await client.enrollment.RevokeJoinToken(request)
            click.echo(f"Revoked {short(name)}.")

    session.run(work)

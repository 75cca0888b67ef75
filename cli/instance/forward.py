"""forward: a port of this machine leads to one of an instance, over the control plane: no host needs an open port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import click

from cli.completion import complete_names
from cli.failures import render
from cli.names import short
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.errors import InvalidSpec, MoorageError, NotReady
from moorage.v1 import instance_streams_pb2 as streams_pb2
from moorage.v1 import instances_pb2

_READ_BYTES = 64 * 1024


def parse_ports(word: str) -> tuple[int, int]:
    """`LOCAL[:REMOTE]`; LOCAL 0 takes a free one.

    Raises:
        InvalidSpec: not of this form.
    """
    local, _, remote = word.partition(":")
    numbers = [int(text) if text.isdecimal() else -1 for text in (local, remote or local)]
    if not 0 <= numbers[0] <= 65535 or not 1 <= numbers[1] <= 65535:
        raise InvalidSpec.of("ports", f"{word!r}: write LOCAL:REMOTE, such as 8080:80")
    return numbers[0], numbers[1]


async def carry(
    client: Client, name: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection, on a stream of its own. Each direction ends by itself, as TCP has it.

    Raises:
        MoorageError: the instance cannot be reached, or refuses.
    """

    async def requests() -> AsyncIterator[streams_pb2.ForwardPortRequest]:
        yield streams_pb2.ForwardPortRequest(start=streams_pb2.ForwardStart(name=name, port=port))
        while data := await reader.read(_READ_BYTES):
            yield streams_pb2.ForwardPortRequest(data=data)
        yield streams_pb2.ForwardPortRequest(closed=True)

    async for response in client.streams.ForwardPort(requests()):
        if response.WhichOneof("part") == "data":
            writer.write(response.data)
            await writer.drain()


@click.command("forward")
@click.argument("name", metavar="INSTANCE", shell_complete=complete_names("instances"))
@click.argument("ports", nargs=-1, required=True, metavar="LOCAL[:REMOTE]...")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address of this machine to listen on.")
@project_option
@pass_session
def forward(session: Session, name: str, ports: tuple[str, ...], address: str) -> None:
    """Lead ports of this machine to ports of an instance, until Ctrl-C."""
    full_name = session.name_in_project("instances", name)
    wanted = [parse_ports(word) for word in ports]

    async def work(client: Client) -> None:
        # Said now rather than with the first connection.
        await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))
        async with AsyncExitStack() as stack:
            for local, remote in wanted:
                server = await _listen(client, full_name, address, local, remote)
                await stack.enter_async_context(server)
                bound = server.sockets[0].getsockname()[1]
                click.echo(f"{address}:{bound} -> {short(full_name)}:{remote}")
            await asyncio.Event().wait()

    session.run(work)


async def _listen(client: Client, name: str, address: str, local: int, remote: int) -> asyncio.Server:
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await carry(client, name, remote, reader, writer)
        except MoorageError as error:
            click.echo(render(error), err=True)
        except ConnectionError:
            pass  # the local program went away
        finally:
            writer.close()

    try:
        return await asyncio.start_server(accepted, address, local)
    except OSError as exc:
        raise NotReady(f"cannot listen on {address}:{local}: {exc.strerror}", reason="LOCAL_PORT_TAKEN") from exc

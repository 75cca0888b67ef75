"""Streams with two directions: exec, attach, and TCP connections."""

import asyncio

from hostagent.streams.call import SideCall
from hostagent.streams.namespace_socket import connect
from hostagent.streams.ports import Instances, StreamEngine, Terminal
from hostagent.streams.readers import CHUNK_BYTES, pieces
from moorage.errors import InvalidSpec, NotReady
from moorage.ids import ContainerId, InstanceId
from moorage.tasks import TaskOwner
from moorage.v1 import instance_streams_pb2 as pb


async def run_command(call: SideCall, engine: StreamEngine, container_id: ContainerId, start: pb.ExecStart) -> None:
    """Run a command in the instance, or join its own process, and send how it ends."""
    rows, columns = start.size.rows, start.size.columns
    if start.attach:
        terminal = await engine.attach(container_id, rows=rows, cols=columns)
    elif not start.command:
        raise InvalidSpec.of("start.command", "is needed unless attach is set", "REQUIRED")
    else:
        terminal = await engine.exec(
            container_id,
            list(start.command),
            tty=start.tty,
            stdin=start.stdin,
            env=dict(start.env),
            workdir=start.workdir,
            user=start.user,
            rows=rows,
            cols=columns,
        )
    try:
        await call.send(exec=pb.ExecInstanceResponse(started=True))
        async with TaskOwner("exec input") as tasks:
            tasks.spawn(_input(call, terminal), name="exec input")
            await _output(call, terminal)
            code = await terminal.exit_code()
        await call.send(exec=pb.ExecInstanceResponse(exit_code=code))
    finally:
        await terminal.close()


async def _output(call: SideCall, terminal: Terminal) -> None:
    while (chunk := await terminal.read()) is not None:
        for piece in pieces(chunk.data):
            if chunk.stream == "stderr":
                await call.send(exec=pb.ExecInstanceResponse(stderr=piece))
            else:
                await call.send(exec=pb.ExecInstanceResponse(stdout=piece))


async def _input(call: SideCall, terminal: Terminal) -> None:
    try:
        while (message := await call.read()) is not None:
            request = message.exec
            match request.WhichOneof("part"):
                case "stdin":
                    await terminal.write(request.stdin)
                case "stdin_closed":
                    await terminal.close_stdin()
                case "resize":
                    await terminal.resize(request.resize.rows, request.resize.columns)
        await terminal.close_stdin()
    except NotReady:
        return  # the program has ended, and its output says how


async def forward(call: SideCall, instances: Instances, instance_id: InstanceId, start: pb.ForwardStart) -> None:
    """Carry one TCP connection to a port of the instance, opened from within its namespace."""
    if not 0 < start.port < 65536:
        raise InvalidSpec.of("start.port", "must be 1-65535")
    namespace, addresses = instances.namespace_of(instance_id)
    # Loopback first: what listens only there is what `forward` is for.
    connection = await connect(namespace, ["127.0.0.1", *addresses], start.port)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        await call.send(forward=pb.ForwardPortResponse(connected=True))
        async with TaskOwner("forward input") as tasks:
            tasks.spawn(_to_instance(call, writer), name="forward input")
            try:
                while data := await reader.read(CHUNK_BYTES):
                    await call.send(forward=pb.ForwardPortResponse(data=data))
            except ConnectionError:
                return  # the instance's end of the connection broke: the caller sees the stream end
    finally:
        writer.close()


async def _to_instance(call: SideCall, writer: asyncio.StreamWriter) -> None:
    try:
        while (message := await call.read()) is not None and not message.forward.closed:
            writer.write(message.forward.data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        return  # broken on the instance's side, which the reader sees as well

"""Side streams: what is asked for over the session is answered on a stream of its own, and each end is told."""

import io
import tarfile

import pytest

from moorage.errors import NotFound, NotReady
from moorage.status import error_from_status
from moorage.v1 import agent_pb2, instance_streams_pb2
from moorage.v1 import instances_pb2 as pb
from tests.fakes.engine import FakeProgram
from tests.unit.hostagent.conftest import Host, instance, network


@pytest.fixture
async def running(host: Host) -> Host:
    host.control_plane.set_complete([instance()], [network()])
    await host.start_agent()
    await host.control_plane.until_state("i1", pb.INSTANCE_STATE_RUNNING)
    return host


def name_of(host: Host) -> str:
    (container,) = host.engine.containers.values()
    return container.spec.name


async def test_logs(running: Host) -> None:
    running.engine.write_log(name_of(running), b"hello\n")
    running.engine.write_log(name_of(running), b"oh\n", "stderr")
    stream = running.control_plane.ask("s1", logs=instance_streams_pb2.StreamLogsRequest())
    end = await running.control_plane.until_end(stream)
    assert not end.HasField("error")
    pieces = [(m.logs.stream, m.logs.data) for m in stream.seen if m.WhichOneof("part") == "logs"]
    assert pieces == [
        (instance_streams_pb2.OUTPUT_STREAM_STDOUT, b"hello\n"),
        (instance_streams_pb2.OUTPUT_STREAM_STDERR, b"oh\n"),
    ]


async def test_a_follower_that_goes_frees_its_stream(running: Host) -> None:
    stream = running.control_plane.ask("s1", logs=instance_streams_pb2.StreamLogsRequest(follow=True))
    running.engine.write_log(name_of(running), b"one\n")
    await running.control_plane.until(lambda: any(m.WhichOneof("part") == "logs" for m in stream.seen))
    stream.to_agent.put_nowait(None)
    assert running.agent is not None
    streams = running.agent.streams
    await running.control_plane.until(lambda: not streams.running)


async def test_exec_carries_input_output_and_exit_code(running: Host) -> None:
    running.engine.programs[("cat",)] = FakeProgram(echoes_stdin=True, exit_code=3)
    start = instance_streams_pb2.ExecStart(command=["cat"], stdin=True)
    stream = running.control_plane.ask("s1", exec=start)
    await running.control_plane.until(lambda: any(m.exec.started for m in stream.seen))
    for request in (
        instance_streams_pb2.ExecInstanceRequest(stdin=b"abc"),
        instance_streams_pb2.ExecInstanceRequest(stdin_closed=True),
    ):
        stream.to_agent.put_nowait(agent_pb2.OpenStreamResponse(exec=request))
    end = await running.control_plane.until_end(stream)
    assert not end.HasField("error")
    assert b"".join(m.exec.stdout for m in stream.seen) == b"abc"
    assert stream.seen[-2].exec.exit_code == 3
    assert stream.seen[-2].exec.WhichOneof("part") == "exit_code"


async def test_files_go_in_and_out(running: Host) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("note")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"hi"))
    stream = running.control_plane.ask("s1", copy_in=instance_streams_pb2.CopyTarget(path="/"))
    stream.to_agent.put_nowait(agent_pb2.OpenStreamResponse(chunk=buffer.getvalue()))
    stream.to_agent.put_nowait(agent_pb2.OpenStreamResponse(closed=True))
    end = await running.control_plane.until_end(stream)
    assert not end.HasField("error"), end
    stream = running.control_plane.ask("s2", copy_out=instance_streams_pb2.CopyOutRequest(path="/note"))
    await running.control_plane.until_end(stream)
    data = b"".join(m.chunk for m in stream.seen)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["note"]


async def test_stats_have_the_interfaces_of_the_namespace(running: Host) -> None:
    stream = running.control_plane.ask("s1", stats=instance_streams_pb2.StreamStatsRequest())
    await running.control_plane.until_end(stream)
    (usage,) = [m.stats for m in stream.seen if m.WhichOneof("part") == "stats"]
    assert usage.interfaces["eth0"].rx_bytes == 10


async def test_an_instance_of_another_host_is_not_found(running: Host) -> None:
    stream = running.control_plane.ask("s1", "elsewhere", logs=instance_streams_pb2.StreamLogsRequest())
    end = await running.control_plane.until_end(stream)
    assert isinstance(error_from_status(end.error), NotFound)


async def test_a_program_in_a_stopped_instance_is_refused(running: Host) -> None:
    running.control_plane.change(instance(generation=2, desired=pb.DESIRED_STATE_STOPPED))
    await running.control_plane.until_state("i1", pb.INSTANCE_STATE_STOPPED)
    stream = running.control_plane.ask("s1", exec=instance_streams_pb2.ExecStart(command=["true"]))
    end = await running.control_plane.until_end(stream)
    assert isinstance(error_from_status(end.error), NotReady)

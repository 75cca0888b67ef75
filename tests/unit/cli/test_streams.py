"""exec, logs, stats, cp and forward."""

import asyncio
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import pytest

from cli.instance.copy import parse_place
from cli.instance.forward import carry, parse_ports
from cli.instance.interact import without_overlap
from cli.instance.logs import parse_since
from cli.terminal import DetachKeys
from moorage.client import Client
from moorage.errors import InvalidSpec, NotReady
from moorage.v1 import instances_pb2
from tests.unit.cli.conftest import Moor, Served
from tests.unit.cli.plane import KEY, Plane

WEB = "projects/default/instances/web"


@pytest.fixture(autouse=True)
def web(plane: Plane) -> None:
    status = instances_pb2.InstanceStatus(state=instances_pb2.INSTANCE_STATE_RUNNING)
    plane.put(instances_pb2.Instance(name=WEB, status=status))


def test_exec_prints_both_outputs(moor: Moor, plane: Plane) -> None:
    result = moor("exec", "-e", "A=1", "-w", "/srv", "-u", "1", "web", "echo", "-n", "hi")
    assert (result.stdout, result.stderr) == ("-n hi\n", "said\n")
    (start,) = plane.requests("ExecInstance")
    assert (dict(start.env), start.workdir, start.user, start.tty, start.stdin) == (
        {"A": "1"},
        "/srv",
        "1",
        False,
        False,
    )


def test_exec_exits_as_the_command_did(moor: Moor) -> None:
    moor("exec", "web", "exit", "42", code=42)


def test_exec_takes_piped_input(moor: Moor) -> None:
    data = "line\n" * 50_000
    assert moor("exec", "-i", "web", "cat", input=data).stdout == data


def test_exec_of_what_is_not_there(moor: Moor) -> None:
    moor("exec", "absent", "echo", code=3)
    assert "not a terminal" in moor("exec", "-it", "web", "sh", code=2).stderr


def test_logs(moor: Moor, plane: Plane) -> None:
    result = moor("logs", "-f", "--since", "10m", "--tail", "5", "-t", "web")
    assert (result.stdout, result.stderr) == ("hello\n", "careful\n")
    (asked,) = plane.requests("StreamLogs")
    assert (asked.name, asked.follow, asked.tail, asked.timestamps) == (WEB, True, 5, True)
    assert asked.since.seconds > 0
    plane.failures["StreamLogs"] = NotReady("there is no container yet; wait until it runs")
    moor("logs", "web", code=6)


def test_since() -> None:
    assert parse_since("90s", 1000.5).ToMilliseconds() == 910_500
    assert parse_since("2026-01-31T12:00:00Z", 0).ToJsonString() == "2026-01-31T12:00:00Z"
    assert parse_since("2026-01-31T12:00:00+02:00", 0).ToJsonString() == "2026-01-31T10:00:00Z"
    for bad in ("2026-13-01", "yesterday"):
        with pytest.raises(InvalidSpec):
            parse_since(bad, 0)


def test_stats(moor: Moor) -> None:
    expected = [
        "NAME   CPU     MEMORY   LIMIT   PIDS   RECEIVED   SENT   READ   WRITTEN",
        "web    25.0%   5Mi      64Mi    3      2Ki        0      0      0",
    ]
    assert moor("stats", "web").stdout.splitlines() == expected
    assert moor("stats").stdout.splitlines() == expected
    found = json.loads(moor("stats", "-o", "json", "web").stdout)
    assert (found["cpu_percent"], found["memory_bytes"]) == (25.0, str(5 * 1024**2))


def test_stats_without_instances(moor: Moor, plane: Plane) -> None:
    plane.remove(WEB)
    moor("stats", code=6)


def test_copy_a_file_in(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text("content")
    moor("cp", str(file), "web:/etc/b.conf")
    assert plane.files == {"/etc/b.conf": b"content"}
    moor("cp", str(file), "web:/etc")  # a directory, as it has a file
    assert plane.files["/etc/a.conf"] == b"content"
    assert "no directory" in moor("cp", str(file), "web:/absent/", code=3).stderr
    moor("cp", str(file), "absent:/etc", code=0)  # the fake has no such rule; the path was sent as it is


def test_copy_a_directory_in(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "f").write_text("deep")
    (tmp_path / "d" / "link").symlink_to("/etc/passwd")
    moor("cp", str(tmp_path / "d"), "web:/new")
    assert plane.files == {"/new": b"", "/new/sub": b"", "/new/sub/f": b"deep", "/new/link": b""}
    plane.files = {"/etc/x": b""}
    moor("cp", f"{tmp_path / 'd'}/.", "web:/etc")
    assert "/etc/./sub/f" in plane.files


def test_copy_out(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    plane.files = {"/data/a": b"A" * 5000, "/data/b": b"B"}
    moor("cp", "web:/data/b", str(tmp_path / "renamed"))
    assert (tmp_path / "renamed").read_bytes() == b"B"
    moor("cp", "web:/data", str(tmp_path))
    assert (tmp_path / "data" / "a").read_bytes() == b"A" * 5000
    moor("cp", "web:/data", str(tmp_path / "other"))
    assert (tmp_path / "other" / "b").read_bytes() == b"B"
    moor("cp", "web:/absent", str(tmp_path), code=3)
    moor("cp", "web:/data", str(tmp_path / "no" / "where"), code=2)


def test_copy_as_a_tar(moor: Moor, plane: Plane) -> None:
    plane.files = {"/data/a": b"A"}
    data = moor("cp", "web:/data", "-").stdout_bytes
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["data", "data/a"]
    moor("cp", "-", "web:/into", input=data)
    assert plane.files["/into/data/a"] == b"A"


def test_what_would_land_outside_is_refused(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    plane.files = {"/data/../../evil": b"E"}
    target = tmp_path / "in" / "deep"
    target.mkdir(parents=True)
    result = moor("cp", "web:/data", str(target), code=2)
    assert "cannot unpack" in result.stderr
    assert not list(tmp_path.rglob("evil"))


def test_copy_needs_one_instance(moor: Moor) -> None:
    moor("cp", "a", "b", code=2)
    moor("cp", "web:/a", "db:/b", code=2)
    assert parse_place("web:/a:b") == ("web", "/a:b")
    assert parse_place("./web:/a") == ("", "./web:/a")
    assert parse_place("/web:/a") == ("", "/web:/a")
    assert parse_place("projects/p/instances/web:/a") == ("projects/p/instances/web", "/a")


def test_forward_ports() -> None:
    assert parse_ports("8080:80") == (8080, 80)
    assert parse_ports("80") == (80, 80)
    assert parse_ports("0:80") == (0, 80)
    for bad in ("", "a", "0", "80:0", "70000:1"):
        with pytest.raises(InvalidSpec):
            parse_ports(bad)


async def test_forward_is_a_stream_per_connection(served: Served) -> None:
    async with Client.connect(served.address, api_key=KEY, ca_file=served.ca_file) as client:

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await carry(client, WEB, 80, reader, writer)
            writer.close()

        async with await asyncio.start_server(accepted, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            async def talk(word: bytes) -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(word)
                writer.write_eof()
                answer = await reader.read()
                writer.close()
                return answer

            assert await asyncio.gather(talk(b"one"), talk(b"two" * 100_000)) == [b"ONE", b"TWO" * 100_000]
    assert [start.port for start in served.plane.requests("ForwardPort")] == [80, 80]


async def test_forward_until_interrupted(environment: dict[str, str]) -> None:
    """The whole program: it says where it listens, carries a connection, and ends on SIGINT as shells expect."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", "from cli.main import main; main()", "forward", "web", "0:80"],
        env={**environment, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            said = (await process.stdout.readline()).decode()
            found = re.fullmatch(r"127\.0\.0\.1:(\d+) -> web:80\n", said)
            assert found
            reader, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"HELLO"
            writer.close()
            process.send_signal(2)
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, errors) == (130, b"")


def test_detach_keys() -> None:
    keys = DetachKeys()
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c") == (b"\x10c", False)
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"\x11x") == (b"", True)
    assert keys.feed(b"ls\x10\x11") == (b"ls", True)


@pytest.mark.parametrize(
    ("past", "present", "shown"),
    [
        (b"", b"", b""),
        (b"$ ", b"", b"$ "),
        (b"", b"new", b"new"),
        (b"one two", b"two three", b"one two three"),
        (b"one", b"two", b"onetwo"),
        (b"one", b"one", b"one"),
    ],
)
def test_what_is_in_the_log_and_on_the_wire_is_shown_once(past: bytes, present: bytes, shown: bytes) -> None:
    assert without_overlap(past, present) == shown

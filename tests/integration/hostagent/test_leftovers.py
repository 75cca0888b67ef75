"""Processes that an engine forgot are found by their namespace, and nobody else is touched."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hostagent.executor.leftovers import kill_leftovers
from hostagent.streams.namespace_socket import connect
from moorage.errors import NotReady, Unavailable

pytestmark = pytest.mark.root


@pytest.fixture
def needs_namespaces() -> None:
    if os.geteuid() == 0 and shutil.which("unshare"):
        return
    if "netns" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
        pytest.fail("network namespaces need root and unshare")
    pytest.skip("network namespaces need root and unshare")


@pytest.mark.usefixtures("needs_namespaces")
def test_only_processes_of_that_namespace_are_killed() -> None:
    inside = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    outside = subprocess.Popen(["sleep", "60"])
    try:
        assert inside.stdout is not None
        inside.stdout.readline()
        assert kill_leftovers(Path(f"/proc/{inside.pid}/ns/net")) == [inside.pid]
        assert inside.wait(5) == -9
        assert kill_leftovers(Path("/proc/self/ns/net")) == []
        assert kill_leftovers(Path("/run/moorage-no-such-namespace")) == []
        assert outside.poll() is None
    finally:
        for process in (inside, outside):
            process.kill()
            process.wait()
        inside.stdout.close() if inside.stdout else None


@pytest.mark.usefixtures("needs_namespaces")
async def test_a_connection_is_made_within_the_namespace() -> None:
    script = "ip link set lo up && echo && exec busybox nc -ll -p 4711 -e echo hello"
    inside = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE)
    try:
        assert inside.stdout is not None
        inside.stdout.readline()
        namespace = Path(f"/proc/{inside.pid}/ns/net")
        before = os.stat("/proc/self/ns/net").st_ino
        found = None
        for _ in range(500):  # until it listens
            try:
                found = await connect(namespace, ["127.0.0.1"], 4711)
                break
            except Unavailable:
                continue
        assert found is not None
        found.setblocking(True)
        assert found.recv(10) == b"hello\n"
        found.close()
        with pytest.raises(Unavailable):
            await connect(namespace, ["127.0.0.1"], 9)
        with pytest.raises(NotReady):
            await connect(Path("/run/moorage-no-such-namespace"), ["127.0.0.1"], 9)
        assert os.stat("/proc/self/ns/net").st_ino == before
    finally:
        inside.kill()
        inside.wait()
        inside.stdout.close() if inside.stdout else None

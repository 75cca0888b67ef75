"""The agent with a real engine and a real network."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.engine_bed import BASE_IMAGE, REGISTRY, EngineBed, require_engine

pytestmark = [pytest.mark.root, pytest.mark.docker]


@dataclass
class RealHost:
    """An engine with our runtime registered, and the image in a registry beside it."""

    bed: EngineBed
    folder: Path
    image: str

    async def drive(self, scenario: str, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Run a scenario of drive.py in the engine's namespaces, and something beside it."""
        settings = {
            "folder": str(self.folder),
            "engine": self.bed.url,
            "runtime": str(self.folder / "runtime"),
            "image": self.image,
            "registry_port": int(REGISTRY.rpartition(":")[2]),
        }
        log = f"{scenario}.log"
        root = Path(__file__).parents[3]
        argv = [
            "env",
            f"PYTHONPATH={root}",
            sys.executable,
            "-m",
            "tests.integration.hostagent.drive",
            scenario,
            json.dumps(settings),
        ]
        process = self.bed.popen(argv, log)
        await asyncio.to_thread(meanwhile)
        code = await asyncio.to_thread(process.wait, 180)
        text = (self.bed.folder / log).read_text()
        assert code == 0, text
        print(text)
        # gRPC has words of its own for stderr, also after the last line of ours.
        return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


@pytest.fixture
async def real_host() -> AsyncIterator[RealHost]:
    require_engine()
    with tempfile.TemporaryDirectory(prefix="mt-agent-") as folder:
        runtime = Path(folder) / "runtime"
        async with EngineBed(runtimes={"moorage": {"path": str(runtime)}}, config={"live-restore": True}) as bed:
            bed.start_registry()
            name = f"{REGISTRY}/p/busybox:1"
            bed.docker("tag", BASE_IMAGE, name)
            bed.docker("push", name)
            digest = bed.docker("inspect", "--format", "{{index .RepoDigests 0}}", name).strip()
            bed.docker("rmi", name)
            yield RealHost(bed, Path(folder), digest.removeprefix(f"{REGISTRY}/"))


async def test_an_instance_comes_up_with_its_network_and_goes(real_host: RealHost) -> None:
    seen = await real_host.drive("one")
    assert "inet 10.1.0.10/24" in seen["output"]
    assert "default via 10.1.0.1" in seen["output"]
    assert "10.1.0.10\tweb-a10" in seen["output"]
    assert seen["same_container"]
    assert seen["exit_code"] == 0
    assert seen["left"] == {"containers": 0, "namespaces": 0, "strays": 0, "keys": 0}


async def test_an_agent_that_comes_back_adopts_what_runs(real_host: RealHost) -> None:
    seen = await real_host.drive("adopt")
    assert seen["kept"]
    assert seen["containers"] == 8
    assert seen["runs"] == [1]


async def test_an_engine_killed_in_the_middle_costs_nothing_and_doubles_nothing(real_host: RealHost) -> None:
    def kill_and_start() -> None:
        deadline = time.monotonic() + 40
        while not (real_host.folder / "now").exists():
            assert time.monotonic() < deadline, "the first instances did not come up"
            time.sleep(0.01)
        real_host.bed.kill_dockerd()
        real_host.bed.start_dockerd()
        (real_host.folder / "again").touch()

    seen = await real_host.drive("crash", kill_and_start)
    assert (seen["containers"], seen["running"]) == (30, 30)
    assert seen["processes"] == [1] * 30

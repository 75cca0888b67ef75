"""Setup with a real engine: what it registers is there after a reload, containers run through it, and removal leaves
no trace.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.engine_bed import EngineBed, require_engine

pytestmark = [pytest.mark.root, pytest.mark.docker]


@dataclass
class Bed:
    """An engine that knows nothing of us, and a configuration for it."""

    engine: EngineBed
    folder: Path

    async def setup(self, *options: str) -> tuple[int, str]:
        root = Path(__file__).parents[3]
        config = self.folder / "agent.yaml"
        argv = ["env", f"PYTHONPATH={root}", sys.executable, "-m", "hostagent.main", "setup", "--config", str(config)]
        log = f"setup-{len(list(self.engine.folder.glob('setup-*')))}.log"
        process = self.engine.popen([*argv, *options], log)
        code = await asyncio.to_thread(process.wait, 60)
        return code, (self.engine.folder / log).read_text()

    @property
    def daemon_json(self) -> Path:
        return self.engine.folder / "etc/daemon.json"


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    require_engine()
    with tempfile.TemporaryDirectory(prefix="mt-setup-") as folder:
        async with EngineBed(base_image=False) as engine:
            config = {
                "name": "h1",
                "control_plane": "127.0.0.1:1",
                "underlay_address": "127.0.0.1",
                "data_dir": f"{folder}/data",
                "run_dir": f"{folder}/run",
                "docker_host": engine.url,
                "daemon_json": str(engine.folder / "etc/daemon.json"),
                "runtime_path": f"{folder}/libexec/runtime",
            }
            (Path(folder) / "agent.yaml").write_text(json.dumps(config))
            yield Bed(engine, Path(folder))


async def test_setup_and_removal(bed: Bed) -> None:
    before = json.loads(bed.daemon_json.read_text())
    code, text = await bed.setup("--check")
    assert code == 0, text
    assert "would register the runtime" in text
    assert json.loads(bed.daemon_json.read_text()) == before
    code, text = await bed.setup()
    assert code == 0, text
    info = bed.engine.docker("info", "--format", "{{json .Runtimes}} {{.LiveRestoreEnabled}}")
    assert "moorage" in info
    assert info.strip().endswith("true")
    code, text = await bed.setup()
    assert "nothing to change" in text
    code, text = await bed.setup("--remove")
    assert code == 0, text
    after = json.loads(bed.daemon_json.read_text())
    assert {**after, "runtimes": {}} == {**before, "runtimes": {}}
    assert "moorage" not in after.get("runtimes", {})
    assert not (bed.folder / "libexec/runtime").exists()
    assert not (bed.folder / "data/setup.json").exists()


async def test_a_damaged_file_is_refused(bed: Bed) -> None:
    bed.daemon_json.write_text("{ oh")
    code, text = await bed.setup()
    assert code == 1
    assert "daemon.json: NOT OK" in text
    assert bed.daemon_json.read_text() == "{ oh"

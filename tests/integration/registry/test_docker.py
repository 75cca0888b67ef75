"""A real Docker Engine pulls and pushes through the agent's proxy."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.engine_bed import BASE_IMAGE, EngineBed, busybox_rootfs, require_engine
from tests.integration.registry.bed import require_registry
from tests.integration.registry.door_program import BUILT

pytestmark = [pytest.mark.docker, pytest.mark.root]


def prepare(bed: EngineBed, folder: Path) -> dict[str, str]:
    """Archives for the door program, and the program itself."""
    bed.docker("save", "-o", str(folder / "saved.tar"), BASE_IMAGE)
    root = busybox_rootfs(folder)
    subprocess.run(["tar", "-C", str(root), "-cf", str(folder / "root.tar"), "."], check=True)
    argv = [sys.executable, "-m", "tests.integration.registry.door_program", str(folder)]
    program = bed.popen(["env", f"PYTHONPATH={Path.cwd()}", *argv], "door.log")  # nsenter changes to another folder
    deadline = time.monotonic() + 30
    while not (folder / "ready.json").exists():
        if program.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((bed.folder / "door.log").read_text()[-3000:])
        time.sleep(0.05)
    return {name: str(value) for name, value in json.loads((folder / "ready.json").read_text()).items()}


async def test_an_engine_pulls_runs_and_pushes(tmp_path: Path) -> None:
    require_engine()
    require_registry()
    async with EngineBed() as bed:
        door = await asyncio.to_thread(prepare, bed, tmp_path)
        await asyncio.to_thread(pull_run_push, bed, door)
    shutil.rmtree(tmp_path / "registry")


def pull_run_push(bed: EngineBed, door: dict[str, str]) -> None:
    """What engines do all day."""
    address = f"127.0.0.1:{door['port']}"
    original = bed.docker("image", "inspect", "-f", "{{.Id}}", BASE_IMAGE).strip()
    bed.docker("rmi", BASE_IMAGE)
    for name in ("saved", "root"):
        image = f"{address}/p1/{name}@{door[name]}"
        began = time.monotonic()
        bed.docker("pull", image)
        print(f"pull of {name}: {time.monotonic() - began:.2f} s")
        said = bed.docker("run", "--rm", "--network", "none", image, "/bin/echo", "it runs")
        assert said.strip() == "it runs"
    # `docker save`, import and pull give the very image back, down to its id.
    saved = f"{address}/p1/saved@{door['saved']}"
    assert bed.docker("image", "inspect", "-f", "{{.Id}}", saved).strip() == original

    bed.docker("run", "--name", "changed", "--network", "none", saved, "/bin/sh", "-c", "echo new > /new")
    built = f"{address}/{BUILT}:1"
    bed.docker("commit", "changed", built)
    began = time.monotonic()
    bed.docker("push", built)
    print(f"push of a changed image: {time.monotonic() - began:.2f} s")
    bed.docker("rm", "changed")
    bed.docker("rmi", built)
    bed.docker("pull", built)
    assert bed.docker("run", "--rm", "--network", "none", built, "/bin/cat", "/new").strip() == "new"

    with pytest.raises(RuntimeError, match="not assigned to this host"):
        bed.docker("pull", f"{address}/p1/saved:latest")
    bed.docker("tag", built, f"{address}/p1/other:1")
    with pytest.raises(RuntimeError, match="denied"):
        bed.docker("push", f"{address}/p1/other:1")

"""Devices on a real engine: seen inside the container that has them, and clear words where the engine cannot."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hostagent.devices.handing import handed
from hostagent.devices.inventory import DeviceInventory
from hostagent.domain import ContainerSpec, DeviceRequest, DeviceWay, FoundDevice
from hostagent.engine.docker_engine import DockerEngine
from moorage.errors import NotReady
from tests.integration.engine.test_spec_effects import said
from tests.integration.engine_bed import BASE_IMAGE, EngineBed, require_engine

pytestmark = pytest.mark.docker

_KIND = "moorage.test/null"
_SCRIPT = "env | grep ^HAS_; ls /dev | grep -e ^moorage -e ^fuse; true"


def knows_cdi() -> bool:
    """Whether this machine's engine is one that can be told of CDI."""
    program = shutil.which("dockerd")
    assert program is not None
    return "--cdi-spec-dir" in subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


def specification() -> str:
    devices = [
        {
            "name": name,
            "containerEdits": {
                "env": [f"HAS_{name.upper()}=yes"],
                "deviceNodes": [{"path": f"/dev/moorage-{name}", "hostPath": path}],
            },
        }
        for name, path in (("one", "/dev/null"), ("two", "/dev/zero"))
    ]
    return json.dumps({"cdiVersion": "0.5.0", "kind": _KIND, "devices": devices})


async def test_by_cdi(tmp_path: Path) -> None:
    require_engine()
    if not knows_cdi():
        pytest.skip("this engine is older than CDI (25.0)")
    (tmp_path / "devices.json").write_text(specification())
    async with EngineBed(config={"features": {"cdi": True}, "cdi-spec-dirs": [str(tmp_path)]}) as bed:
        engine = await DockerEngine.connect(bed.url)
        found = await DeviceInventory((), engine.info).current()
        assert [(device.kind, device.names) for device in found] == [(_KIND, ("one",)), (_KIND, ("two",))]
        spec = handed(ContainerSpec(device_requests=(DeviceRequest(_KIND, 1, ("two",), "cdi"),)), found)
        inside = await said(engine, _SCRIPT, device_requests=spec.device_requests)
        assert inside.split() == ["HAS_TWO=yes", "moorage-two"]
        await engine.close()


async def test_by_path_and_what_no_driver_answers_for() -> None:
    require_engine()
    async with EngineBed() as bed:
        engine = await DockerEngine.connect(bed.url)
        configured = FoundDevice(_KIND, ("a",), (DeviceWay("path", ("/dev/fuse",)),))
        found = await DeviceInventory((configured,), engine.info).current()
        assert found[0] == configured
        spec = handed(ContainerSpec(device_requests=(DeviceRequest(_KIND, 1, ("a",), "path"),)), found)
        assert await said(engine, _SCRIPT, devices=spec.devices) == "fuse"
        # Behind our back: what the engine itself says of a driver that it has not.
        asked = (DeviceRequest("nvidia.com/gpu", 1, ("GPU-0",), "nvidia"),)
        container = await engine.create(
            ContainerSpec(name="gpu", image=BASE_IMAGE, command=("true",), device_requests=asked), runtime=""
        )
        with pytest.raises(NotReady, match='could not select device driver "nvidia"') as caught:
            await engine.start(container)
        assert caught.value.reason == "START_FAILED"
        await engine.remove(container)
        await engine.close()

"""Devices of a host: found once however often they are named, and handed through as the engine wants them."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.devices.cdi import cdi_devices
from hostagent.devices.handing import combined, handed, told
from hostagent.devices.inventory import DeviceInventory
from hostagent.devices.nvidia import nvidia_devices
from hostagent.domain import ContainerSpec, Device, DeviceRequest, DeviceWay, FoundDevice, HostDevice
from hostagent.engine.spec import create_body
from moorage.errors import NotReady
from tests.fakes.engine import FakeEngine

SMI = "0, GPU-aaaa\n1, GPU-bbbb\n"


def document(kind: str = "nvidia.com/gpu", **devices: list[str]) -> dict[str, Any]:
    """A specification; each device with its nodes."""
    return {
        "cdiVersion": "0.5.0",
        "kind": kind,
        "devices": [
            {
                "name": name.replace("_", ":"),
                "containerEdits": {"deviceNodes": [{"path": f"/dev/{node}"} for node in nodes]},
            }
            for name, nodes in devices.items()
        ],
    }


def serial(name: str = "a", *paths: str) -> FoundDevice:
    return FoundDevice("example.com/serial", (name,), (DeviceWay("path", paths or (f"/dev/tty{name}",)),))


def test_several_names_are_one_device_and_groups_are_none() -> None:
    spec = document(
        **{"0": ["gpu0"], "GPU-aaaa": ["gpu0"], "1": ["gpu1"], "all": ["gpu0", "gpu1"], "both": ["gpu0", "gpu1"]}
    )
    assert [device.names for device in cdi_devices([spec])] == [("GPU-aaaa", "0"), ("1",)]


def test_devices_without_nodes_are_told_apart_by_name() -> None:
    assert [device.names for device in cdi_devices([document("example.com/net", a=[], b=[])])] == [("a",), ("b",)]


def test_parts_of_one_gpu_are_devices_beside_each_other() -> None:
    found = cdi_devices([document(**{"0_0": ["gpu0", "cap1"], "0_1": ["gpu0", "cap2"]})])
    assert [device.names for device in found] == [("0:0",), ("0:1",)]
    assert combined((), found, nvidia_devices(SMI)) == found, "the whole of it is not offered beside its parts"


def test_a_later_specification_wins() -> None:
    first, second = document(**{"0": ["old"]}), document(**{"0": ["new"], "one": ["new"]})
    assert [device.names for device in cdi_devices([first, second])] == [("one", "0")]


@pytest.mark.parametrize(
    "bad", [[], "x", {}, {"kind": "gpu"}, {"kind": "a/b", "devices": {}}, {"kind": "a/b", "devices": [1]}]
)
def test_what_is_no_specification_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"CDI|kind|name"):
        cdi_devices([bad])


def test_a_gpu_that_is_found_twice_is_offered_once_in_both_ways() -> None:
    (first, second) = combined((), cdi_devices([document(**{"0": ["gpu0"], "1": ["gpu1"]})]), nvidia_devices(SMI))
    assert first == FoundDevice(
        "nvidia.com/gpu",
        ("GPU-aaaa", "0"),
        (DeviceWay("nvidia", ("GPU-aaaa",)), DeviceWay("cdi", ("nvidia.com/gpu=0",))),
    )
    assert told([first, second])[1] == HostDevice("nvidia.com/gpu", ("GPU-bbbb", "1"), ("nvidia", "cdi"))


names = st.sampled_from(["0", "1", "GPU-aaaa", "GPU-bbbb", "all", "x"])
nodes = st.lists(st.sampled_from(["gpu0", "gpu1", "cap"]), unique=True, max_size=3)


@given(st.dictionaries(names, nodes), st.booleans(), st.lists(st.sampled_from(["0", "x"]), unique=True))
def test_nothing_is_offered_twice(devices: dict[str, list[str]], has_smi: bool, configured: list[str]) -> None:
    mine = [replace(serial(name), kind="nvidia.com/gpu") for name in configured]
    found = combined(mine, cdi_devices([document(**devices)]), nvidia_devices(SMI if has_smi else ""))
    offered = [name for device in found for name in device.names]
    assert len(offered) == len(set(offered))
    by_cdi = [handle for device in found for way in device.ways if way.driver == "cdi" for handle in way.handles]
    sets = [frozenset(devices[handle.partition("=")[2]]) for handle in by_cdi]
    assert len([one for one in sets if one]) == len({one for one in sets if one}), "the same nodes are one device"


def test_each_way_has_its_form() -> None:
    found = combined(
        (serial("a", "/dev/ttyS0", "/dev/ttyS1"),), cdi_devices([document(**{"0": ["g"]})]), nvidia_devices(SMI)
    )
    asked = (
        DeviceRequest("nvidia.com/gpu", 1, ("GPU-aaaa",), "nvidia", ("compute", "gpu")),
        DeviceRequest("nvidia.com/gpu", 1, ("0",), "cdi"),
        DeviceRequest("example.com/serial", 1, ("a",), "path"),
    )
    spec = handed(ContainerSpec(devices=(Device("/dev/fuse", "/dev/fuse"),), device_requests=asked), found)
    body = create_body(spec, "")["HostConfig"]
    assert body["DeviceRequests"] == [
        {"Driver": "nvidia", "Count": 0, "DeviceIDs": ["GPU-aaaa"], "Capabilities": [["gpu", "compute"]]},
        {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=0"]},
    ]
    assert [device["PathOnHost"] for device in body["Devices"]] == ["/dev/fuse", "/dev/ttyS0", "/dev/ttyS1"]
    assert "DeviceRequests" not in create_body(ContainerSpec(), "")["HostConfig"]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (
            DeviceRequest("nvidia.com/gpu", 1, ("GPU-gone",), "nvidia"),
            "nvidia.com/gpu=GPU-gone is not on this host now",
        ),
        (DeviceRequest("nvidia.com/gpu", 1, ("GPU-aaaa",), "cdi"), "cannot hand .* through by cdi now, only by nvidia"),
    ],
)
def test_what_is_not_there_is_refused(request_: DeviceRequest, problem: str) -> None:
    with pytest.raises(NotReady, match=problem) as caught:
        handed(ContainerSpec(device_requests=(request_,)), nvidia_devices(SMI))
    assert caught.value.reason == "DEVICE_MISSING"


@pytest.fixture
def look() -> Callable[..., Awaitable[tuple[FoundDevice, ...]]]:
    async def look(**info: Any) -> tuple[FoundDevice, ...]:
        engine = FakeEngine()
        inventory = DeviceInventory((serial(),), engine.info)
        return await inventory.look(replace(await engine.info(), **info))

    return look


async def test_only_what_the_engine_reads_is_offered(
    tmp_path: Path, look: Callable[..., Awaitable[tuple[FoundDevice, ...]]], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document("example.com/a", one=["x"])))
    (tmp_path / "b.yaml").write_text("kind: example.com/b\ndevices: [{name: two}]\n")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.yaml").write_text("kind: nothing\n")
    (tmp_path / "e.txt").write_text("not read")
    assert await look() == (serial(),), "an engine without CDI"
    found = await look(cdi_folders=(str(tmp_path / "nowhere"), str(tmp_path)))
    assert [(device.kind, device.names) for device in found] == [
        ("example.com/a", ("one",)),
        ("example.com/b", ("two",)),
        ("example.com/serial", ("a",)),
    ]
    problems = " ".join(str(record.__dict__["problem"]) for record in caplog.records)
    assert "c.json cannot be read" in problems
    assert "d.yaml: its kind 'nothing' is not VENDOR/CLASS" in problems


async def test_gpus_are_asked_of_their_driver(
    tmp_path: Path, look: Callable[..., Awaitable[tuple[FoundDevice, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{SMI}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert await look() == (serial(),), "the engine could not hand them through"
    found = await look(runtimes={"nvidia": ""})
    assert [device.names for device in found] == [("GPU-aaaa", "0"), ("GPU-bbbb", "1"), ("a",)]

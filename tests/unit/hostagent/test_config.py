"""The configuration file: every bad field is named at once."""

import pytest

from hostagent.config import parse
from moorage.errors import InvalidSpec

GOOD = {"name": "h1", "control_plane": "cp.example:7443", "underlay_address": "192.0.2.1"}


def test_defaults() -> None:
    config = parse(GOOD)
    assert config.vxlan_port == 4789
    assert config.docker_host == "unix:///var/run/docker.sock"


def test_every_bad_field_is_named() -> None:
    raw = {
        "name": "H_1",
        "control_plane": "nowhere",
        "underlay_address": "0.0.0.0",
        "vxlan_port": 0,
        "run_dir": "here",
        "labels": {"a": 1},
        "docker_host": "tcp://1.2.3.4",
        "colour": "red",
        "log_level": "loud",
        "devices": [{"kind": "serial", "name": "a", "paths": ["/dev/a"]}],
    }
    with pytest.raises(InvalidSpec) as caught:
        parse(raw)
    assert {violation.field for violation in caught.value.violations} == set(raw)


@pytest.mark.parametrize("raw", [None, [], "x"])
def test_what_is_no_mapping_is_refused(raw: object) -> None:
    with pytest.raises(InvalidSpec):
        parse(raw)


def test_missing_fields_are_named() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse({})
    assert [violation.field for violation in caught.value.violations] == ["name", "control_plane", "underlay_address"]


def test_devices() -> None:
    item = {"kind": "example.com/serial", "name": "a", "paths": ["/dev/ttyS0"]}
    (device,) = parse({**GOOD, "devices": [item]}).devices
    assert (device.kind, device.names, device.ways[0].handles) == ("example.com/serial", ("a",), ("/dev/ttyS0",))


@pytest.mark.parametrize(
    "devices",
    [
        "x",
        [{}],
        [{"kind": "example.com/serial", "name": "a", "paths": []}],
        [{"kind": "example.com/serial", "name": "a", "paths": ["/etc/passwd"]}],
        [{"kind": "example.com/serial", "name": "a b", "paths": ["/dev/a"]}],
        [{"kind": "example.com/serial", "name": "a", "paths": ["/dev/a"]}] * 2,
    ],
)
def test_devices_that_are_none_are_refused(devices: object) -> None:
    with pytest.raises(InvalidSpec):
        parse({**GOOD, "devices": devices})

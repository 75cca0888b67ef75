"""Names, addresses and bounds of a fleet in a box."""

import os
import tarfile
from pathlib import Path

import pytest

from cli.dev import processes, programs, state
from cli.dev.commands import parse_settings
from cli.dev.config import FleetConfig
from cli.dev.rootfs import demo_rootfs
from controlplane.config import load as load_controlplane
from hostagent import config as agent_config
from moorage.errors import InvalidSpec, NotSupported

IF_NAME_SIZE = 15


def test_names_and_addresses() -> None:
    config = FleetConfig(hosts=3)
    assert config.machine_address == "172.31.250.1"
    assert [host.address for host in config.all_hosts()] == ["172.31.250.11", "172.31.250.12", "172.31.250.13"]
    assert config.api_address == "172.31.250.1:7460"
    assert config.agent_address == "172.31.250.1:7461"
    assert config.registry_address == "172.31.250.1:7462"
    assert config.host(1).cgroup == "moordev-h1"


def test_the_longest_prefix_still_gives_link_names() -> None:
    assert len(FleetConfig(prefix="a" * 13).machine_link) <= IF_NAME_SIZE


def test_zones_go_round() -> None:
    config = FleetConfig(hosts=3, zones=("a", "b"), vxlan_ports=(4789, 14789))
    assert [config.zone_of(host.number) for host in config.all_hosts()] == ["a", "b", "a"]
    assert [config.vxlan_port_of(host.number) for host in config.all_hosts()] == [4789, 14789, 4789]


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        FleetConfig(
            prefix="Bad-Prefix", subnet="8.8.8.0/24", directory=Path("/run/fleet"), hosts=0, zones=(), vxlan_ports=(0,)
        )
    bad = {v.field for v in caught.value.violations}
    assert bad == {"prefix", "subnet", "directory", "hosts", "zones", "vxlan_ports"}


def test_a_subnet_without_room_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="too small"):
        FleetConfig(subnet="172.31.250.0/28", hosts=6)


def test_state_is_read_as_written(tmp_path: Path) -> None:
    config = FleetConfig(
        directory=tmp_path,
        hosts=2,
        zones=("a", "b"),
        labels={"disk": "ssd"},
        vxlan_ports=(4789, 14789),
        engine_settings={"debug": True},
        controlplane_settings={"lost_after_seconds": 10},
    )
    made = state.create(config)
    assert state.load(tmp_path) == made
    assert made.config(tmp_path) == config
    assert made.machine_mac.startswith("02:")
    assert len(made.machine_mac) == 17


def test_settings_of_the_control_plane(tmp_path: Path) -> None:
    settings = parse_settings(("lost_after_seconds=10", "advertise=[a, b]", "log_level=debug"))
    assert settings == {"lost_after_seconds": 10, "advertise": ["a", "b"], "log_level": "debug"}
    written = programs.write_controlplane_config(FleetConfig(directory=tmp_path, controlplane_settings=settings))
    assert load_controlplane(written).lost_after_seconds == 10
    for bad in ("lost_after_seconds", "=1", "x=[1"):
        with pytest.raises(InvalidSpec):
            parse_settings((bad,))


def test_a_process_without_our_token_is_not_ours(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text(f"{os.getpid()} {processes.start_time(os.getpid())}\n")
    assert processes.recorded(record, "moordev-0123") is None
    assert processes.recorded(tmp_path / "missing", "moordev-0123") is None


def test_the_agent_understands_its_configuration_file(tmp_path: Path) -> None:
    config = FleetConfig(
        directory=tmp_path, hosts=2, zones=("a", "b"), labels={"disk": "ssd"}, vxlan_ports=(4789, 14789)
    )
    host = config.host(2)
    host.folder.mkdir(parents=True)
    path = programs.write_agent_config(config, host, "the-token")
    read = agent_config.load(path)
    assert (read.name, read.zone, read.control_plane) == ("h2", "b", "172.31.250.1:7460")
    assert (read.underlay_address, read.join_token, read.labels) == (host.address, "the-token", {"disk": "ssd"})
    assert read.runtime_path == host.runtime_path
    assert read.vxlan_port == 14789
    assert path.stat().st_mode & 0o777 == 0o600


def test_rootfs_is_reproducible_and_has_a_page(tmp_path: Path) -> None:
    try:
        first = demo_rootfs(tmp_path / "a.tar")
    except NotSupported as missing:
        pytest.skip(str(missing))
    assert first.read_bytes() == demo_rootfs(tmp_path / "b.tar").read_bytes()
    with tarfile.open(first) as tar:
        names = tar.getnames()
        assert {"bin/busybox", "bin/sh", "bin/httpd", "www/index.html", "tmp"} <= set(names)
        assert not [name for name in names if name.startswith(("/", ".."))]

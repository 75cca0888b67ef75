"""Routers of an agent: what it is told is in force, or refused in the tool's own words; with and without a control plane."""

from collections.abc import Sequence
from typing import Any

from moorage.errors import Internal, NotReady
from moorage.router_bundle import RouterBundle
from moorage.v1 import router_bundles_pb2, routers_pb2
from tests.unit.hostagent.conftest import Host, instance, network


def bundle(version: int, **fields: Any) -> router_bundles_pb2.RouterBundle:
    leg = router_bundles_pb2.LegBundle(network_id="n1", interface="eth0", cidrs=["10.1.0.0/24"], addresses=["10.1.0.5"])
    return router_bundles_pb2.RouterBundle(instance_id="i1", version=version, legs=[leg], **fields)


def forward(port: int) -> router_bundles_pb2.PortForwardBundle:
    return router_bundles_pb2.PortForwardBundle(
        rule_id=f"p{port}",
        public_address="192.0.2.1",
        protocol="tcp",
        first_port=port,
        last_port=port,
        address="10.1.0.6",
        target_port=80,
    )


def set_router(host: Host, *routers: router_bundles_pb2.RouterBundle) -> None:
    complete = host.control_plane.set_complete([instance(is_router=True)], [network()])
    complete.routers.extend(routers)


async def test_figures_are_told_over_a_side_stream(host: Host) -> None:
    set_router(host, bundle(5))
    await host.start_agent()
    await until_report(host, running_version=5)
    wanted = router_bundles_pb2.RouterFiguresRequest(rules=True, balancers=True)
    stream = host.control_plane.ask("s1", router_figures=wanted)
    assert not (await host.control_plane.until_end(stream)).HasField("error")
    (figure,) = stream.seen[0].router_figures.rules
    assert (figure.rule_id, figure.packets, figure.bytes) == ("web", 3, 180)
    other = host.control_plane.ask("s2", "i9", router_figures=wanted)
    assert "no router" in (await host.control_plane.until_end(other)).error.message


async def until_report(host: Host, **wanted: Any) -> router_bundles_pb2.RouterReport:
    def has_come() -> bool:
        report = host.control_plane.routers.get("i1")
        return report is not None and all(getattr(report, name) == value for name, value in wanted.items())

    await host.control_plane.until(has_come)
    return host.control_plane.routers["i1"]


def versions(found: Sequence[RouterBundle]) -> list[int]:
    return [one.version for one in found]


async def test_a_configuration_is_put_in_force_and_reported(host: Host) -> None:
    set_router(host, bundle(5))
    await host.start_agent()
    report = await until_report(host, running_version=5)
    assert (report.failed_version, report.error, report.role) == (0, "", routers_pb2.ROUTER_ROLE_ACTIVE)
    host.control_plane.change(routers=[bundle(6, port_forwards=[forward(80)])])
    await until_report(host, running_version=6)
    assert versions(host.fabric.routers) == [5, 6]
    # the same under another version is in force already
    host.control_plane.change(routers=[bundle(7, port_forwards=[forward(80)])])
    await until_report(host, running_version=7)
    assert versions(host.fabric.routers) == [5, 6]
    (container,) = host.engine.containers.values()
    mounts = {mount.target: mount.source for mount in container.spec.mounts}
    assert mounts["/run/moorage-router"] == str(host.data_dir / "instances/i1/router")


async def test_a_refused_configuration_leaves_the_last_good_one_and_is_tried_once(host: Host) -> None:
    set_router(host, bundle(5))
    await host.start_agent()
    await until_report(host, running_version=5)
    host.fabric.faults["apply_router"] = [Internal("nftables refused a batch: syntax error", reason="NFT_REFUSED")]
    host.control_plane.change(routers=[bundle(6, port_forwards=[forward(80)])])
    report = await until_report(host, failed_version=6)
    assert report.running_version == 5
    assert "syntax error" in report.error
    assert versions(host.fabric.routers) == [5, 5]  # put back
    host.control_plane.change(routers=[bundle(7, port_forwards=[forward(81)])])
    report = await until_report(host, running_version=7)
    assert (report.failed_version, report.error) == (0, "")
    assert versions(host.fabric.routers) == [5, 5, 7]


async def test_what_an_agent_cannot_read_is_reported_and_changes_nothing(host: Host) -> None:
    set_router(host, bundle(5))
    await host.start_agent()
    await until_report(host, running_version=5)
    unknown = router_bundles_pb2.FirewallBundle(rule_id="r1")
    unknown.direction = 77  # type: ignore[assignment]
    host.control_plane.change(routers=[bundle(6, firewall=[unknown])])
    report = await until_report(host, failed_version=6)
    assert report.running_version == 5
    assert "does not understand" in report.error


async def test_trouble_that_passes_is_tried_again(host: Host) -> None:
    host.fabric.faults["apply_router"] = [NotReady("busy"), NotReady("busy")]
    set_router(host, bundle(5))
    await host.start_agent()
    await until_report(host, running_version=5)


async def test_after_a_reboot_without_a_control_plane_the_last_good_one_is_in_force_again(host: Host) -> None:
    set_router(host, bundle(5))
    await host.start_agent()
    await until_report(host, running_version=5)
    refused = Internal("nftables refused a batch: no", reason="NFT_REFUSED")
    host.fabric.faults["apply_router"] = [refused]
    host.control_plane.change(routers=[bundle(6, port_forwards=[forward(80)])])
    await until_report(host, failed_version=6)
    await host.stop_agent()
    await host.control_plane.stop()
    await host.reboot()
    host.fabric.routers.clear()
    host.fabric.faults["apply_router"] = [refused]
    await host.start_agent()
    await host.control_plane.until(lambda: versions(host.fabric.routers) == [5])
    await host.control_plane.start()


async def test_a_member_of_a_pair_is_what_its_keepalived_says(host: Host) -> None:
    pair = router_bundles_pb2.PairBundle(virtual_id=7, priority=100, own_address="10.1.0.5", peer_address="10.1.0.6")
    set_router(host, bundle(5, pair=pair))
    await host.start_agent()
    await until_report(host, running_version=5, role=routers_pb2.ROUTER_ROLE_UNSPECIFIED)
    folder = host.data_dir / "instances/i1/router/keepalived"
    folder.mkdir(parents=True, exist_ok=True)
    for word, role in (("BACKUP", routers_pb2.ROUTER_ROLE_STANDBY), ("MASTER", routers_pb2.ROUTER_ROLE_ACTIVE)):
        (folder / "role").write_text(f"{word}\n")
        await until_report(host, role=role)


async def test_what_runs_is_told_again_to_a_new_session(host: Host) -> None:
    set_router(host, bundle(5))
    await host.start_agent()
    await until_report(host, running_version=5)
    host.control_plane.routers.clear()
    host.control_plane.end_session()
    await until_report(host, running_version=5)
    assert versions(host.fabric.routers) == [5]

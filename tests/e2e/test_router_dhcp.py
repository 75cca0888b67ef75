"""DHCP of a router on the box: whoever asks behind it is told, on whatever host, and what changes is told at once."""

import shutil

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from cli.dev.host import Host
from moorage.v1 import networks_pb2
from tests.support import onhost
from tests.support.plane import Plane, until
from tests.support.routers import Routers

NTP = 42


def spec(ntp: str) -> networks_pb2.NetworkSpec:
    """A network whose instances have .2 to .99."""
    dhcp = networks_pb2.DhcpSpec(
        enabled=True,
        ranges=["10.75.0.200-10.75.0.220"],
        options=[networks_pb2.DhcpOption(code=NTP, value=ntp)],
        hosts=[networks_pb2.DhcpHost(mac="02:00:00:00:75:09", address="10.75.0.150", hostname="printer")],
    )
    subnet = networks_pb2.Subnet(cidr="10.75.0.0/24", ranges=["10.75.0.2-10.75.0.99"])
    return networks_pb2.NetworkSpec(subnets=[subnet], dhcp=dhcp)


async def test_instances_are_told_what_they_have(plane: Plane, router_image: None, hosts: list[Host]) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("asking needs busybox")
    routers = Routers(plane)
    await plane.client.networks.CreateNetwork(
        networks_pb2.CreateNetworkRequest(
            parent=plane.project, network_id="leased", network=networks_pb2.Network(spec=spec("192.0.2.42"))
        )
    )
    made = await plane.run({"asker": plane.spec("sleep 1000000", host=2, networks=["leased"])})
    asker = made["asker"]
    own = asker.status.nics[0].addresses[0].partition("/")[0]
    try:
        await routers.create("edge", "leased", host=1)

        async def told() -> dict[str, str]:
            udhcpc = "udhcpc -i eth0 -n -q -f -t 5 -T 1 -O ntpsrv -O mtu -s /tmp/told >/dev/null 2>&1; cat /tmp/answer"
            script = "printf '#!/bin/sh\\n[ $1 = bound ] && set >/tmp/answer\\n' >/tmp/told; chmod +x /tmp/told; rm -f /tmp/answer"
            words = await onhost.inside(hosts[1], asker.uid, "sh", "-c", f"{script}; busybox {udhcpc}", check=False)
            return {name: value.strip("'") for name, _, value in (line.partition("=") for line in words.splitlines())}

        first = await told()
        assert first["ip"] == own
        assert (first["router"], first["dns"], first["ntpsrv"]) == ("10.75.0.1", "10.75.0.1", "192.0.2.42")
        assert first["mtu"] == "1450"

        async def resolved(name: str) -> str:
            words = ["busybox", "nslookup", "-type=a", name, "10.75.0.1"]
            return (await onhost.inside(hosts[1], asker.uid, *words, check=False)).split()[-1]

        assert await resolved("asker.leased.internal") == own
        assert await resolved("printer.leased.internal") == "10.75.0.150"

        name = plane.name("networks", "leased")
        network = networks_pb2.Network(name=name, spec=spec("192.0.2.43"))
        await plane.client.networks.UpdateNetwork(
            networks_pb2.UpdateNetworkRequest(network=network, update_mask=FieldMask(paths=["spec.dhcp"]))
        )

        async def is_told() -> bool:
            return (await told()).get("ntpsrv") == "192.0.2.43"

        await until(is_told, what="the new option is told")
    finally:
        await routers.clean()

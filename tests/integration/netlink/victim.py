"""An agent's fabric that makes and removes the same things until it is killed: `python -m ... NAMESPACE RUN_DIR ADDRESS`."""

import asyncio
import os
import sys
from pathlib import Path

from hostagent.domain import PublishedPort
from hostagent.netlink import namespaces
from hostagent.netlink.fabric import LinuxFabric
from moorage.ids import InstanceId, NetworkId
from tests.integration.netlink.bed import net, nic

NETWORKS = [NetworkId("naaaaaaaaa"), NetworkId("nbbbbbbbbb")]


async def main(namespace: str, run_dir: str, address: str) -> None:
    """Round and round; says `ready` once."""
    root, fd = namespaces.HostNamespace.capture(), os.open(namespace, os.O_RDONLY)
    fabric = LinuxFabric(run_dir=Path(run_dir), underlay_address=address)
    with namespaces.entered(root, fd):
        await fabric.start()
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(_round(fabric, number, network_id) for number, network_id in enumerate(NETWORKS)))


async def _round(fabric: LinuxFabric, number: int, network_id: NetworkId) -> None:
    network = net(network_id, vni=50 + number, egress=bool(number))
    instance_id = InstanceId(f"i{network_id[1:]}")
    await fabric.ensure_network(network)
    await fabric.ensure_instance(instance_id, [nic(network_id, 5)], {network_id: network})
    await fabric.publish_ports(instance_id, [PublishedPort(8080 + number, 80)], [nic(network_id, 5)])
    await fabric.remove_instance(instance_id)
    await fabric.remove_network(network_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

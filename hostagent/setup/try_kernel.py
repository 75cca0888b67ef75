"""Tries the kernel's features by using them: run by setup in throw-away namespaces, with a folder for the agent's
run files.

Says what failed as the last line on stderr.
"""

import asyncio
import sys
from pathlib import Path

from hostagent.domain import NetworkAssignment, NetworkKind, NicAssignment, PublishedPort, Subnet
from hostagent.netlink.fabric import LinuxFabric
from moorage.errors import MoorageError
from moorage.ids import InstanceId, NetworkId


async def try_all(folder: Path) -> None:
    """Make an isolated network with egress, an instance on it and a published port, and remove everything."""
    fabric = LinuxFabric(run_dir=folder, underlay_address="127.0.0.1")
    await fabric.start()
    try:
        network_id, instance_id = NetworkId("setuptestn"), InstanceId("setuptesti")
        network = NetworkAssignment(
            network_id,
            "setup",
            NetworkKind.ISOLATED,
            (Subnet("10.255.255.0/29", "10.255.255.1"),),
            mtu=1400,
            vni=16_000_000,
            egress=True,
        )
        nics = (NicAssignment(network_id, "eth0", "02:00:00:00:00:01", ("10.255.255.2/29",), ("10.255.255.1",)),)
        await fabric.ensure_network(network)
        await fabric.ensure_instance(instance_id, nics, {network_id: network})
        await fabric.publish_ports(instance_id, (PublishedPort(65000, 80),), nics)
    finally:
        await fabric.destroy_all()
        await fabric.close()


def main() -> int:
    """Exit code 0: all is there."""
    try:
        asyncio.run(try_all(Path(sys.argv[1])))
    except (MoorageError, OSError) as exc:
        print(f"the kernel or its tools lack something: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

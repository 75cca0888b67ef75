"""An agent killed at any moment leaves something that the next one repairs by the same calls, and can remove."""

import asyncio
import contextlib
import json
import subprocess
import sys

import pytest

from hostagent.domain import PublishedPort
from moorage.ids import InstanceId
from tests.integration.netlink.bed import Bed, Host, net, nic
from tests.integration.netlink.victim import NETWORKS

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("delay_ms", [1, 9, 23, 45, 120])
async def test_next_agent_repairs(bed: Bed, host: Host, delay_ms: int) -> None:
    await host.fabric.close()
    module = [sys.executable, "-m", "tests.integration.netlink.victim", str(host.path), str(host.run_dir), host.address]
    victim = subprocess.Popen(module, stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout is not None
        assert await asyncio.to_thread(victim.stdout.readline) == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(timeout=delay_ms / 1000)
    finally:
        victim.kill()
        victim.communicate()
    restarted = host.new_fabric()
    await host.start(restarted)
    try:
        for number, network_id in enumerate(NETWORKS):
            network = net(network_id, vni=50 + number, egress=bool(number))
            instance_id = InstanceId(f"i{network_id[1:]}")
            await restarted.ensure_network(network)
            path = await restarted.ensure_instance(instance_id, [nic(network_id, 5)], {network_id: network})
            await restarted.publish_ports(instance_id, [PublishedPort(8080 + number, 80)], [nic(network_id, 5)])
            bed.serve(path, 80, greeting=str(number))
        for number in range(2):
            assert bed.ask(bed.outside.path, host.address, 8080 + number) == f"{number} 192.168.77.200"
        inventory = await restarted.inventory()
        assert inventory.networks == set(NETWORKS)
        assert inventory.strays == ()
        await restarted.destroy_all()
    finally:
        await restarted.close()
    links = {link["ifname"] for link in json.loads(bed.run(host.path, "ip -j link"))}
    assert links == {"lo", "up0"}
    assert list(host.run_dir.iterdir()) == []

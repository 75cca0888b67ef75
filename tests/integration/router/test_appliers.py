"""Balancers of a bundle through the image's first process: HAProxy starts, takes a change, refuses one, and ends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.domain import Resources
from hostagent.router.balancers import BalancersApplier
from moorage.errors import Unavailable
from moorage.router_bundle import BackendBundle, BalancerBundle, BalancerMode, Certificate, ListenerBundle, PoolBundle
from moorage.tasks import TaskOwner
from tests.integration.netlink import router_bed
from tests.integration.netlink.bed import Bed, require_namespaces
from tests.integration.router.router_process import RouterProcess, require_programs

pytestmark = pytest.mark.root
PATIENCE_SECONDS = 20.0


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    require_namespaces()
    require_programs()
    made = Bed()
    try:
        yield made
    finally:
        await made.close()


async def test_balancers_of_a_bundle(bed: Bed, tmp_path: Path) -> None:
    plugged = await router_bed.make(bed, serving=False)
    bed.serve(plugged.a5, 80, greeting="a5")
    folder = tmp_path / "router"
    folder.mkdir()
    tmp_path.chmod(0o755)
    tasks = TaskOwner("test")
    applier = BalancersApplier(folder_of=lambda _: folder, resources_of=lambda _: Resources(), tasks=tasks)
    listener = ListenerBundle(router_bed.PUBLIC, 8000, interface="eth0")
    pool = PoolBundle("p", (BackendBundle("ia5", "10.1.0.5", 80),))
    balancer = BalancerBundle("b", BalancerMode.TCP, (listener,), (pool,))
    bundle = replace(router_bed.bundle(), balancers=(balancer,))
    await plugged.host.fabric.apply_router(bundle)
    process = RouterProcess(plugged.router, folder)
    try:
        assert await applier.apply(router_bed.bundle()) is None  # nothing to do, so no container is needed
        with pytest.raises(Unavailable):
            await applier.apply(bundle)
        process.start()
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                assert await applier.apply(bundle) is None
                break
            except Unavailable:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(bed.ask, plugged.client, router_bed.PUBLIC, 8000) == "a5 10.1.0.1"
        (figure,) = await applier.figures(bundle)
        assert figure.total == 1
        taken = replace(
            balancer, listeners=(listener, replace(listener, port=8001, certificates=(Certificate("no", "key"),)))
        )
        refused = await applier.apply(replace(bundle, balancers=(taken,)))
        assert refused is not None
        assert "certificate" in refused
        assert await asyncio.to_thread(bed.ask, plugged.client, router_bed.PUBLIC, 8000) == "a5 10.1.0.1"
        assert await applier.apply(router_bed.bundle()) is None
        assert not (folder / "haproxy/haproxy.cfg").exists()
    finally:
        process.kill()
        await tasks.close()

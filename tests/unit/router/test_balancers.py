"""The part of a bundle that is balancers, where no container runs."""

from pathlib import Path

import pytest

from hostagent.domain import Resources
from hostagent.router.balancers import BalancersApplier, limits_of
from hostagent.router.haproxy_config import DEFAULT_LIMITS, HaproxyLimits
from moorage.errors import Unavailable
from moorage.ids import InstanceId
from moorage.router_bundle import BackendBundle, BalancerBundle, BalancerMode, ListenerBundle, PoolBundle, RouterBundle
from moorage.tasks import TaskOwner

MIB = 1024 * 1024
LB = BalancerBundle(
    "lb",
    BalancerMode.TCP,
    (ListenerBundle("192.0.2.1", 80),),
    (PoolBundle("web", (BackendBundle("ia", "10.1.0.4", 8080),)),),
)


def test_limits_are_those_of_the_container() -> None:
    assert limits_of(Resources()) == DEFAULT_LIMITS
    assert limits_of(Resources(cpu_millis=1500, memory_bytes=256 * MIB)) == HaproxyLimits(2, 2048)
    assert limits_of(Resources(memory_bytes=16 * MIB)).max_connections == 1000
    assert limits_of(Resources(memory_bytes=64 * 1024 * MIB)).max_connections == DEFAULT_LIMITS.max_connections


async def test_balancers_wait_for_the_container_and_no_balancers_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "router"
    applier = BalancersApplier(folder_of=lambda _: folder, resources_of=lambda _: Resources(), tasks=TaskOwner("test"))
    none, some = RouterBundle(InstanceId("i1"), 1), RouterBundle(InstanceId("i1"), 2, balancers=(LB,))
    assert await applier.apply(none) is None
    with pytest.raises(Unavailable):
        await applier.apply(some)
    folder.mkdir()
    with pytest.raises(Unavailable):
        await applier.apply(some)
    assert await applier.apply(none) is None
    assert [path.name for path in folder.rglob("*") if path.is_file()] == []
    assert await applier.figures(none) == ()
    with pytest.raises(Unavailable):
        await applier.figures(some)
    applier.forget(InstanceId("i1"))


async def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    applier = BalancersApplier(
        folder_of=lambda _: tmp_path, resources_of=lambda _: Resources(), tasks=TaskOwner("test")
    )
    bad = BalancerBundle("a b", BalancerMode.TCP, LB.listeners, LB.pools)
    problem = await applier.apply(RouterBundle(InstanceId("i1"), 1, balancers=(bad,)))
    assert problem is not None
    assert "a b" in problem

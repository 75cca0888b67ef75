"""Figures of a router's containers, summed."""

from controlplane.api.router_figures import sum_pools, sum_rules
from moorage.v1.router_bundles_pb2 import BackendFigure, PoolFigure, RouterFigures, RuleFigure


def test_rules_are_summed_over_containers() -> None:
    one = [
        RouterFigures(
            rules=[RuleFigure(rule_id="b", packets=1, bytes=10), RuleFigure(rule_id="a", packets=2, bytes=20)]
        )
    ]
    two = [RouterFigures(rules=[RuleFigure(rule_id="b", packets=3, bytes=30)]), RouterFigures()]
    assert [(f.rule_id, f.packets, f.bytes) for f in sum_rules([one, two])] == [("a", 2, 20), ("b", 4, 40)]
    assert sum_rules([]) == []


def test_pools_are_summed_and_the_first_container_says_how_back_ends_are() -> None:
    def pool(*backends: BackendFigure, balancer_id: str = "lb") -> list[RouterFigures]:
        found = PoolFigure(
            balancer_id=balancer_id,
            pool_id="web",
            in_flight=1,
            queued=2,
            total=3,
            bytes_in=4,
            bytes_out=5,
            backends=backends,
        )
        return [RouterFigures(pools=[found])]

    one = pool(BackendFigure(instance_id="i", state="up", check="ok", in_flight=1, total=3))
    two = pool(
        BackendFigure(instance_id="i", state="down", check="refused", in_flight=2, total=4),
        BackendFigure(instance_id="new", state="up", total=1),
    )
    other = pool(balancer_id="other")
    summed = sum_pools([one, two, other], "lb")["web"]
    assert (summed.in_flight, summed.queued, summed.total, summed.bytes_in, summed.bytes_out) == (2, 4, 6, 8, 10)
    assert [(b.instance_id, b.state, b.check, b.in_flight, b.total) for b in summed.backends] == [
        ("i", "up", "ok", 3, 7),
        ("new", "up", "", 0, 1),
    ]
    assert one[0].pools[0].total == 3, "what was answered is not changed"
    assert sum_pools([other], "lb") == {}

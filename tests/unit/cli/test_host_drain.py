"""host drain, maintenance and rebalance: what is asked for, what is told meanwhile, and how a wait ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from moorage.client import Client
from moorage.errors import DeadlineExceeded, NotFound, NotReady
from moorage.v1 import hosts_pb2
from tests.unit.cli.conftest import Moor, Served
from tests.unit.cli.plane import KEY, Plane

DRAINING, MAINTENANCE = hosts_pb2.HOST_ADMIN_STATE_DRAINING, hosts_pb2.HOST_ADMIN_STATE_MAINTENANCE
ENABLED = hosts_pb2.HOST_ADMIN_STATE_ENABLED


def host(state: Any = ENABLED, *waits: str, name: str = "hosts/h1", **drain: Any) -> hosts_pb2.Host:
    """A host, with these instances in the way."""
    made = hosts_pb2.Host(name=name, admin_state=state)
    if state != ENABLED:
        made.status.drain.MergeFrom(hosts_pb2.HostDrain(left=len(waits), **drain))
    for wait in waits:
        made.status.drain.waits.add(instance=wait, reason="MOVING", message="its group makes another one elsewhere")
    return made


def test_what_is_asked_for(moor: Moor, plane: Plane) -> None:
    plane.put(host())
    moor("host", "drain", "h1", "--deadline", "1m30s", "--force", "--delete-unmanaged", "--dry-run")
    moor("host", "drain", "h1")
    first, second = plane.requests("DrainHost")
    assert (first.deadline.seconds, first.force, first.delete_unmanaged, first.validate_only) == (90, True, True, True)
    assert (second.HasField("deadline"), second.force, second.delete_unmanaged) == (False, False, False)
    moor("host", "drain", "h1", "--deadline", "soon", code=2)
    moor("host", "drain", "none", code=3)


def test_how_far_it_is(moor: Moor, plane: Plane) -> None:
    plane.put(host())
    names = [f"projects/p/instances/i{n}" for n in range(7)]
    plane.script.extend(
        [
            lambda: plane.put(host(DRAINING, *names)),
            lambda: plane.put(host(DRAINING, names[0], overdue=True)),
            lambda: plane.put(host(MAINTENANCE)),
        ]
    )
    told = moor("host", "drain", "h1", "--wait", "--timeout", "20s").output
    assert "h1: 7 left\n  projects/p/instances/i0: its group makes another one elsewhere\n" in told
    assert "  and 2 more\n" in told
    assert "h1: 1 left, the deadline is over\n" in told
    assert "h1: empty, in maintenance\n" in told


def test_maintenance_takes_one_after_the_other(moor: Moor, plane: Plane) -> None:
    for name in ("hosts/h1", "hosts/h2"):
        plane.put(host(name=name))
    seen: list[int] = []

    def first() -> None:
        seen.append(len(plane.requests("DrainHost")))
        plane.put(host(MAINTENANCE))

    def second() -> None:  # whichever watch comes here, that of the first host may not have ended yet
        with plane.changed:
            assert plane.changed.wait_for(lambda: plane.objects["hosts/h2"].admin_state == DRAINING, timeout=20)
        plane.put(host(MAINTENANCE, name="hosts/h2"))

    plane.script.extend([first, second])
    assert "MAINTENANCE" in moor("host", "maintenance", "h1", "h2", "--timeout", "20s").output
    assert seen == [1]


def waited(served: Served, work: Callable[[Client], Any]) -> Any:
    async def connected() -> Any:
        async with Client.connect(served.address, api_key=KEY, ca_file=served.ca_file) as client:
            return await work(client)

    return asyncio.run(connected())


def test_a_drain_that_is_taken_back_ends_the_wait(served: Served) -> None:
    plane = served.plane
    plane.put(host(DRAINING, "projects/p/instances/i"))
    plane.script.append(lambda: plane.put(host()))
    with pytest.raises(NotReady) as ended:
        waited(served, lambda client: client.wait_host_emptied("hosts/h1", 20))
    assert ended.value.reason == "DRAIN_ENDED"
    plane.put(host(DRAINING))
    plane.script.append(lambda: plane.remove("hosts/h1"))
    with pytest.raises(NotFound):
        waited(served, lambda client: client.wait_host_emptied("hosts/h1", 20))


def test_a_wait_that_is_over_says_for_whom(served: Served) -> None:
    served.plane.put(host(DRAINING, "projects/p/instances/i"))
    with pytest.raises(DeadlineExceeded) as late:
        waited(served, lambda client: client.wait_host_emptied("hosts/h1", 0.5))
    assert "projects/p/instances/i: its group makes another one elsewhere" in late.value.message


def test_a_host_that_is_still_to_come_is_waited_for(served: Served) -> None:
    plane = served.plane
    up = host()
    up.status.link_state = hosts_pb2.HOST_LINK_STATE_UP
    other = host(name="hosts/h0")
    plane.script.extend([lambda: plane.put(other), lambda: plane.put(host()), lambda: plane.put(up)])
    assert waited(served, lambda client: client.wait_host_up("hosts/h1", 20)) == up


def test_moves(moor: Moor, plane: Plane) -> None:
    assert "Nothing would stand better elsewhere." in moor("host", "rebalance", "--dry-run").output
    plane.put(host(name="hosts/full"))
    told = moor("host", "rebalance", "--moves", "3").output
    assert told.splitlines()[1].split(maxsplit=3) == ["web-0", "full", "h2", "2 members are there"]
    assert [(asked.max_moves, asked.validate_only) for asked in plane.requests("RebalanceHosts")] == [
        (10, True),
        (3, False),
    ]
    moor("host", "rebalance", "--moves", "0", code=2)

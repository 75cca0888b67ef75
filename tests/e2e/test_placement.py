"""Who matters more gets the place of who matters less, and hosts keep what they were told to keep."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf import field_mask_pb2

from moorage.client import paginate
from moorage.v1 import events_pb2, hosts_pb2, instances_pb2, projects_pb2
from tests.support.plane import PROJECT, RUNNING, Plane, until

_CPU = 1000


async def _policy(plane: Plane, priority: int) -> None:
    project = await plane.client.projects.GetProject(projects_pb2.GetProjectRequest(name=PROJECT))
    project.policy.max_priority = priority
    await plane.client.projects.UpdateProject(
        projects_pb2.UpdateProjectRequest(project=project, update_mask=field_mask_pb2.FieldMask(paths=["policy"]))
    )


async def _settings(plane: Plane, host: str, settings: hosts_pb2.HostSettings) -> hosts_pb2.Host:
    return await plane.client.hosts.UpdateHost(
        hosts_pb2.UpdateHostRequest(
            host=hosts_pb2.Host(name=host, settings=settings),
            update_mask=field_mask_pb2.FieldMask(paths=["settings"]),
        )
    )


@pytest.fixture
async def small(plane: Plane) -> AsyncIterator[str]:
    """A host that gives one core, and only to those that tolerate it."""
    await _policy(plane, 9)
    host = await plane.client.hosts.GetHost(hosts_pb2.GetHostRequest(name="hosts/h2"))
    kept = host.status.facts.cpu_millis - _CPU
    changed = await _settings(plane, host.name, hosts_pb2.HostSettings(reserved_cpu_millis=kept, taints=["small=yes"]))
    assert changed.capacity.cpu_millis == _CPU
    yield host.name
    await _settings(plane, host.name, hosts_pb2.HostSettings())
    await _policy(plane, 0)


async def test_a_place_is_made_kept_and_taken(plane: Plane, small: str) -> None:
    def wish(priority: int) -> instances_pb2.InstanceSpec:
        spec = plane.spec(host=2)
        spec.resources.cpu_millis = 600
        spec.placement.tolerations.append("small")
        spec.placement.priority, spec.placement.preempts = priority, priority > 0
        return spec

    await plane.run({"low": wish(0)})
    await plane.start_all({"equal": wish(0), "high": wish(9)})
    high, equal = (await plane.reach(["high"], RUNNING))["high"], await plane.get("equal")
    assert high.status.host == small
    assert f"{PROJECT}/instances/low" not in await plane.instances()
    assert (equal.status.state, equal.status.reason) == (instances_pb2.INSTANCE_STATE_PENDING, "UNPLACEABLE")
    request = events_pb2.ListEventsRequest(parent=PROJECT, page_size=1000)
    listed = [event async for event in paginate(plane.client.events.ListEvents, request, lambda page: page.events)]
    (why,) = [event.message for event in listed if event.reason == "PREEMPTED"]
    assert why == f"pushed out by {PROJECT}/instances/high: priority 9 over 0, on {small}"
    await plane.delete(["high"])
    await plane.reach(["equal"], RUNNING)


async def test_a_tainted_host_is_passed_over(plane: Plane, small: str) -> None:
    await plane.start_all({"shy": plane.spec(host=2)})

    async def is_refused() -> bool:
        return "taint took 1" in (await plane.get("shy")).status.message

    await until(is_refused, what="the taint is named")

"""What bad input gets: a code, a reason, a sentence, and nothing changed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.dev.fleet import Fleet
from moorage.client import Client
from moorage.errors import (
    AlreadyExists,
    Exhausted,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    VersionConflict,
)
from moorage.tls import Authority
from moorage.v1 import common_pb2, networks_pb2, projects_pb2, templates_pb2
from moorage.v1 import instances_pb2 as pb
from tests.e2e.conftest import connect
from tests.support.plane import PROJECT, Plane, pieces_of

Call = Callable[[Plane], Awaitable[Any]]


@dataclass(frozen=True)
class Bad:
    """A call that must be refused: with what class of error, which reason, and at which fields."""

    call: Call
    error: type[MoorageError]
    reason: str
    fields: tuple[str, ...] = ()


def create(spec: Callable[[Plane], pb.InstanceSpec], **fields: Any) -> Call:
    """A call that makes the instance `bad`."""

    async def call(plane: Plane) -> None:
        request = pb.CreateInstanceRequest(parent=plane.project, instance_id="bad", **fields)
        request.instance.spec.CopyFrom(spec(plane))
        await plane.client.instances.CreateInstance(request)

    return call


def nic(plane: Plane, *addresses: str, mac: str = "") -> pb.InstanceSpec:
    """A spec with these addresses on the network that every test here has."""
    spec = plane.spec()
    spec.nics.add(network=plane.name("networks", "lan"), addresses=addresses, mac=mac)
    return spec


def network(*cidrs: str, network_id: str = "bad", **subnet: Any) -> Call:
    """A call that makes a network."""

    async def call(plane: Plane) -> None:
        subnets = [networks_pb2.Subnet(cidr=cidr, **subnet) for cidr in cidrs]
        spec = networks_pb2.NetworkSpec(subnets=subnets)
        await plane.client.networks.CreateNetwork(
            networks_pb2.CreateNetworkRequest(
                parent=plane.project, network_id=network_id, network=networks_pb2.Network(spec=spec)
            )
        )

    return call


async def stale_delete(plane: Plane) -> None:
    name = plane.name("networks", "lan")
    await plane.client.networks.DeleteNetwork(networks_pb2.DeleteNetworkRequest(name=name, etag="stale"))


async def foreign_page(plane: Plane) -> None:
    await plane.client.instances.ListInstances(pb.ListInstancesRequest(parent=plane.project, page_token="bm9uc2Vuc2U"))


async def other_querys_page(plane: Plane) -> None:
    page = await plane.client.networks.ListNetworks(networks_pb2.ListNetworksRequest(parent=plane.project, page_size=1))
    assert page.next_page_token
    await plane.client.networks.ListNetworks(
        networks_pb2.ListNetworksRequest(parent=plane.project, page_token=page.next_page_token, filter="kind=SHARED")
    )


async def oversized(plane: Plane) -> None:
    await plane.client.instances.CreateInstance(
        pb.CreateInstanceRequest(
            parent=plane.project, instance=pb.Instance(spec=plane.spec(env={"BIG": "x" * (15 << 20)}))
        )
    )


async def used_network(plane: Plane) -> None:
    name = plane.name("networks", "lan")
    await plane.client.networks.DeleteNetwork(networks_pb2.DeleteNetworkRequest(name=name))


async def used_template(plane: Plane) -> None:
    await plane.client.templates.DeleteTemplate(
        templates_pb2.DeleteTemplateRequest(name=plane.name("templates", plane.template))
    )


async def pause_nothing(plane: Plane) -> None:
    await plane.client.instances.UnpauseInstance(pb.UnpauseInstanceRequest(name=plane.name("instances", "there")))


def many_mistakes(plane: Plane) -> pb.InstanceSpec:
    spec = plane.spec(ports={0: 80}, memory_bytes=-1)
    spec.mounts.add(target="relative", kind="tmpfs")
    return spec


_PORT = common_pb2.PublishedPort(host_port=8500, container_port=80)
_BIND = common_pb2.Mount(target="/x", kind="bind", source="/etc")

CASES = {
    "unknown template": Bad(create(lambda p: p.spec(template="no-such")), NotFound, "NOT_FOUND"),
    "mistyped template": Bad(
        create(lambda p: p.spec(template="projects/default/template/web")), InvalidSpec, "NAME_INVALID"
    ),
    "another project's template": Bad(
        create(lambda p: p.spec(template="projects/other/templates/web")), InvalidSpec, "OTHER_PROJECT"
    ),
    "bad name": Bad(
        lambda p: p.start_all({"Not_A-Name": p.spec()}), InvalidSpec, "NAME_INVALID", ("requests[0].instance_id",)
    ),
    "duplicate name": Bad(lambda p: p.start_all({"there": p.spec()}), AlreadyExists, "ALREADY_EXISTS"),
    "all mistakes at once": Bad(
        create(many_mistakes),
        InvalidSpec,
        "",
        (
            "instance.spec.mounts[0].target",
            "instance.spec.published_ports[0].host_port",
            "instance.spec.resources.memory_bytes",
        ),
    ),
    "host port published twice": Bad(
        create(lambda p: pb.InstanceSpec(template=p.template, published_ports=[_PORT, _PORT])),
        InvalidSpec,
        "HOST_PORT_TAKEN",
    ),
    "unknown network": Bad(create(lambda p: p.spec(networks=["nowhere"])), NotFound, "NOT_FOUND"),
    "address outside": Bad(create(lambda p: nic(p, "10.8.1.9")), InvalidSpec, "ADDRESS_OUTSIDE_SUBNET"),
    "address taken": Bad(create(lambda p: nic(p, "10.8.0.9")), InvalidSpec, "ADDRESS_TAKEN"),
    "address of the gateway": Bad(create(lambda p: nic(p, "10.8.0.1")), InvalidSpec, "ADDRESS_RESERVED"),
    "broadcast address": Bad(create(lambda p: nic(p, "10.8.0.255")), InvalidSpec, "ADDRESS_RESERVED"),
    "no address": Bad(create(lambda p: nic(p, "10.8.0.300")), InvalidSpec, "ADDRESS_INVALID"),
    "MAC taken": Bad(create(lambda p: nic(p, mac="02:00:00:00:00:09")), InvalidSpec, "MAC_TAKEN"),
    "no MAC": Bad(create(lambda p: nic(p, mac="ff:ff:ff:ff:ff:ff")), InvalidSpec, "MAC_INVALID"),
    "privileged against the policy": Bad(
        create(lambda p: p.spec(privileged=True)), InvalidSpec, "", ("instance.spec.privileged",)
    ),
    "host mount against the policy": Bad(
        create(lambda p: pb.InstanceSpec(template=p.template, mounts=[_BIND])),
        InvalidSpec,
        "",
        ("instance.spec.mounts[0].source",),
    ),
    "no subnet": Bad(network("10.300.0.0/24"), InvalidSpec, "SUBNET_INVALID"),
    "host bits set": Bad(network("10.7.0.1/24"), InvalidSpec, "SUBNET_INVALID"),
    "subnets that overlap": Bad(network("10.7.0.0/24", "10.7.0.0/25"), InvalidSpec, "SUBNET_OVERLAPS"),
    "gateway outside": Bad(network("10.7.0.0/24", gateway="10.7.1.1"), InvalidSpec, "ADDRESS_INVALID"),
    "duplicate network": Bad(network("10.7.0.0/24", network_id="lan"), AlreadyExists, "ALREADY_EXISTS"),
    "network in use": Bad(used_network, NotReady, "NETWORK_IN_USE"),
    "template in use": Bad(used_template, NotReady, "TEMPLATE_IN_USE"),
    "unpause what is not paused": Bad(pause_nothing, NotReady, "INSTANCE_NOT_PAUSED"),
    "stale etag": Bad(stale_delete, VersionConflict, "ETAG_MISMATCH"),
    "page token of nobody": Bad(foreign_page, InvalidSpec, "PAGE_TOKEN_INVALID"),
    "page token of another query": Bad(other_querys_page, InvalidSpec, "PAGE_TOKEN_INVALID"),
    "oversized message": Bad(oversized, Exhausted, ""),
}


async def everything(plane: Plane) -> Any:
    """All that a refused call might have changed, without what changes by itself."""
    projects = await plane.client.projects.GetProject(projects_pb2.GetProjectRequest(name=plane.project))
    instances = await plane.instances()
    return (
        projects,
        await plane.networks(),
        await plane.templates(),
        {name: (instance.etag, instance.spec, instance.desired_state) for name, instance in instances.items()},
        await plane.leases("lan"),
    )


async def test_the_table(plane: Plane) -> None:
    """Every case of CASES; all that fail are named at once."""
    await plane.network("lan", "10.8.0.0/24")
    await plane.network("other", "10.9.0.0/24")
    await plane.run({"there": nic(plane, "10.8.0.9", mac="02:00:00:00:00:09")})
    before = await everything(plane)
    problems = []
    for title, case in CASES.items():
        try:
            await case.call(plane)
        except MoorageError as error:
            found = (type(error), error.reason if case.reason else "")
            fields = {v.field for v in error.violations} if isinstance(error, InvalidSpec) else set()
            if found != (case.error, case.reason) or not set(case.fields) <= fields:
                problems.append(f"{title}: {type(error).__name__} {error.reason} {sorted(fields)}: {error.message}")
            if not error.message:
                problems.append(f"{title}: no sentence")
        else:
            problems.append(f"{title}: it was accepted")
        if await everything(plane) != before:
            problems.append(f"{title}: something changed")
            before = await everything(plane)
    assert not problems, "\n".join(problems)


async def test_a_request_id_with_another_body(plane: Plane) -> None:
    """The same request again is the same create; another one under its id is refused."""
    first = await plane.start_all({"one": plane.spec()}, request_id="e2e-body")
    again = await plane.start_all({"one": plane.spec()}, request_id="e2e-body")
    assert [i.uid for i in again] == [i.uid for i in first]
    with pytest.raises(AlreadyExists) as refused:
        await plane.start_all({"two": plane.spec()}, request_id="e2e-body")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert list(await plane.instances()) == [plane.name("instances", "one")]


async def test_more_than_the_quota(plane: Plane, rootfs: Path) -> None:
    """Nothing of a batch is made when all of it is too much."""
    name = "projects/small"
    quota = projects_pb2.Quota(instances=2)
    await plane.client.projects.CreateProject(
        projects_pb2.CreateProjectRequest(project_id="small", project=projects_pb2.Project(quota=quota))
    )
    small = Plane(plane.client, project=name)
    try:
        await small.finish(await small.upload(small.template, pieces_of(rootfs)))
        with pytest.raises(QuotaExceeded) as refused:
            await small.start_all({f"i{n}": small.spec() for n in range(3)})
        assert refused.value.reason == "QUOTA_EXCEEDED"
        usage = (await plane.client.projects.GetProject(projects_pb2.GetProjectRequest(name=name))).usage
        assert (usage.instances, usage.addresses, usage.networks, usage.templates) == (0, 0, 0, 1)
        assert not await small.networks()
        await small.run({f"i{n}": small.spec() for n in range(2)})
        await small.delete(["i0", "i1"])
        await small.start_all({f"j{n}": small.spec() for n in range(2)})
    finally:
        await small.clean(keep=[])
        await plane.client.projects.DeleteProject(projects_pb2.DeleteProjectRequest(name=name))


async def test_nothing_fits_and_a_port_that_is_taken(plane: Plane) -> None:
    """These wait with their reasons, filter by filter, and go on once there is room."""
    await plane.run({"first": plane.spec(host=1, ports={8700: 80})})
    await plane.start_all({"second": plane.spec(host=1, ports={8700: 80})})
    second = await plane.see("second", lambda i: i.status.placement.filters, what="an explanation")
    taken = {f.filter: f.hosts_removed for f in second.status.placement.filters if f.hosts_removed}
    assert taken.pop("host-port") == 1
    assert sum(taken.values()) == 2
    await plane.delete(["first"])
    await plane.see("second", lambda i: i.status.state == pb.INSTANCE_STATE_RUNNING, what="to run")


async def test_who_calls(fleet: Fleet, plane: Plane) -> None:
    """No key and keys that are none; and a caller that trusts another authority is told why it does not get through."""
    request = pb.ListInstancesRequest(parent=PROJECT)
    for key in ("", "moork_wrong_key", "nonsense"):
        async with connect(fleet, api_key=key) as stranger:
            with pytest.raises(Unauthenticated):
                await stranger.instances.ListInstances(request)
    access = fleet.access()
    other = Authority.create("somebody else").cert_pem
    async with Client.connect(access.address, api_key=access.api_key, ca_pem=other) as client:
        with pytest.raises(Unavailable, match="not signed by the authority"):
            await client.instances.ListInstances(request, timeout=5)

"""Interfaces that come and go on running instances of a fleet, and networks on NICs of the hosts."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf import field_mask_pb2

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import InvalidSpec, NotReady
from moorage.v1 import hosts_pb2, networks_pb2, projects_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support import onhost
from tests.support.plane import Plane, until

BACK, FRONT = "10.71.0.0/24", "10.72.0.0/24"
FACTS_SECONDS = 30.0  # NICs are looked for every 15 s


async def plug(plane: Plane, name: str, *nics: pb.Nic) -> pb.Instance:
    """Give an instance these interfaces, and wait until its host has them."""
    changed = pb.Instance(name=plane.name("instances", name), spec=pb.InstanceSpec(nics=nics))
    mask = field_mask_pb2.FieldMask(paths=["spec.nics"])
    made = await plane.client.instances.UpdateInstance(pb.UpdateInstanceRequest(instance=changed, update_mask=mask))
    return await plane.client.wait_nics(made.name, 30.0)


async def pings(host: Host, instance: pb.Instance, address: str) -> bool:
    """Whether an instance reaches an address."""
    said = await onhost.inside(host, instance.uid, "ping", "-c", "1", "-W", "1", address, check=False)
    return " 0% packet loss" in said


async def reaches(host: Host, instance: pb.Instance, address: str) -> None:
    """Wait until an instance reaches an address: other hosts learn of a change a moment later."""

    async def does() -> bool:
        return await pings(host, instance, address)

    await until(does, what=f"an answer from {address}", within_seconds=10.0)


async def test_interfaces_and_addresses_of_a_running_instance(plane: Plane, hosts: list[Host]) -> None:
    await plane.network("front", FRONT)
    await plane.network("back", BACK)
    made = await plane.run(
        {
            "one": plane.spec(host=1, networks=["front"]),
            "two": plane.spec(host=2, networks=["front", "back"]),
        }
    )
    one, two = made["one"], made["two"]
    two_front, two_back = (nic.addresses[0].partition("/")[0] for nic in two.status.nics)
    before = await onhost.all_containers(hosts)

    one = await plug(plane, "one", pb.Nic(network="front"), pb.Nic(network="back", addresses=["10.71.0.50"]))
    assert [nic.interface for nic in one.status.nics] == ["eth0", "eth1"]
    await reaches(hosts[0], one, two_back)
    await reaches(hosts[1], two, "10.71.0.50")
    await reaches(hosts[0], one, two_front)
    _, listed = await plane.exec("one", ["cat", "/etc/hosts"])
    assert "10.71.0.50" in listed
    assert two_back in listed

    one = await plug(plane, "one", pb.Nic(network="back", addresses=["10.71.0.51", "10.71.0.52"]))
    assert [(nic.interface, list(nic.addresses)) for nic in one.status.nics] == [
        ("eth1", ["10.71.0.51/24", "10.71.0.52/24"])
    ]
    await reaches(hosts[1], two, "10.71.0.52")
    assert not await pings(hosts[1], two, "10.71.0.50")
    assert set(await plane.leases("front")) == {two_front}
    assert set(await plane.leases("back")) == {"10.71.0.51", "10.71.0.52", two_back}
    assert sorted((await onhost.namespaces(hosts[0]))[one.uid]) == ["10.71.0.51", "10.71.0.52"]
    assert await onhost.all_containers(hosts) == before, "nobody was started again"
    # the address has another owner, whom everybody reaches at once
    three = (await plane.run({"three": plane.spec(host=3, networks=["back"])}))["three"]
    await plug(plane, "three", pb.Nic(network="back", addresses=["10.71.0.50"]))
    await reaches(hosts[1], two, "10.71.0.50")
    await reaches(hosts[0], one, "10.71.0.50")
    assert (await plane.get("three")).status.run == three.status.run


@pytest.fixture
async def nic(plane: Plane, hosts: list[Host]) -> AsyncIterator[Host]:
    """The first host, with a NIC plug0 whose other end is 192.0.2.1, and which the project may use."""
    host = hosts[0]
    for command in (
        "ip link add plug0 type veth peer name far0",
        "ip addr add 192.0.2.1/24 dev far0",
        "ip link set dev far0 up",
    ):
        await host.run(command.split())
    project = projects_pb2.Project(name=plane.project, policy=projects_pb2.ProjectPolicy(allowed_nics=["plug0"]))
    mask = field_mask_pb2.FieldMask(paths=["policy"])

    async def allow(changed: projects_pb2.Project) -> None:
        request = projects_pb2.UpdateProjectRequest(project=changed, update_mask=mask)
        await plane.client.projects.UpdateProject(request)

    async def is_known() -> bool:
        return "plug0" in (await plane.host(1)).status.facts.links

    await allow(project)
    await until(is_known, what="the NIC among the facts of its host", within_seconds=FACTS_SECONDS)
    yield host
    await host.run(["ip", "link", "del", "far0"], check=False)
    await allow(projects_pb2.Project(name=plane.project))


async def on_nic(plane: Plane, network_id: str, attachment: "networks_pb2.SharedAttachment.ValueType") -> None:
    """Make a network on plug0."""
    spec = networks_pb2.NetworkSpec(
        kind=networks_pb2.NETWORK_KIND_SHARED,
        parent="plug0",
        attachment=attachment,
        subnets=[networks_pb2.Subnet(cidr="192.0.2.0/24", ranges=["192.0.2.100-192.0.2.199"])],
    )
    request = networks_pb2.CreateNetworkRequest(
        parent=plane.project, network_id=network_id, network=networks_pb2.Network(spec=spec)
    )
    await plane.client.networks.CreateNetwork(request)


async def test_an_address_from_a_dhcp_server_outside(plane: Plane, nic: Host, fleet: Fleet) -> None:
    server = "dnsmasq --conf-file=/dev/null --port=0 --interface=far0 --bind-interfaces --dhcp-range=192.0.2.50,192.0.2.60,2m"
    pid_file, leases = "/run/moorage-test-dhcp.pid", "/run/moorage-test-dhcp.leases"
    await nic.run([*server.split(), f"--pid-file={pid_file}", f"--dhcp-leasefile={leases}", "--user=root"])
    try:
        spec = networks_pb2.NetworkSpec(
            kind=networks_pb2.NETWORK_KIND_SHARED,
            parent="plug0",
            attachment=networks_pb2.SHARED_ATTACHMENT_MACVLAN,
            dhcp_client=True,
        )
        network = networks_pb2.Network(spec=spec)
        await plane.client.networks.CreateNetwork(
            networks_pb2.CreateNetworkRequest(parent=plane.project, network_id="lan", network=network)
        )
        made = await plane.run({"one": plane.spec("ip -4 addr show eth0; sleep 1000", networks=["lan"])})
        assert "inet 192.0.2." in await plane.logs("one"), "it was there before the process"

        async def address() -> str:
            (found,) = (await plane.get("one")).status.nics
            return found.addresses[0] if found.leased and found.addresses else ""

        given = await until(address, what="the address in the instance's status")
        assert given.endswith("/24")
        await reaches(nic, made["one"], "192.0.2.1")
        # a new agent keeps it
        await fleet.kill("h1", "agent")
        await fleet.start("h1", "agent")
        await plane.link(1, hosts_pb2.HOST_LINK_STATE_UP)
        assert await until(address, what="the address after a restart of the agent") == given
        assert (await plane.get("one")).status.run == 1
        await plane.delete(["one"])

        async def is_back() -> bool:
            return given.partition("/")[0] not in await nic.run(["cat", leases])

        await until(is_back, what="the server's word that it has the address again")
    finally:
        await nic.run(["sh", "-c", f"kill $(cat {pid_file}); rm -f {pid_file} {leases}"], check=False)


@pytest.mark.parametrize(
    "attachment",
    [
        networks_pb2.SHARED_ATTACHMENT_MACVLAN,
        networks_pb2.SHARED_ATTACHMENT_BRIDGE,
        networks_pb2.SHARED_ATTACHMENT_WHOLE_NIC,
    ],
)
async def test_a_network_on_a_nic(
    plane: Plane, nic: Host, hosts: list[Host], attachment: "networks_pb2.SharedAttachment.ValueType"
) -> None:
    async def links() -> str:
        return await nic.run(["ip", "-o", "link", "show", "plug0"], check=False)

    before = (await links()).split("link/ether")[1]
    await on_nic(plane, "lan", attachment)
    await plane.network("front", FRONT)
    made = await plane.run(
        {"one": plane.spec(networks=["lan"]), "two": plane.spec(host=1, networks=["front"])}, within_seconds=60
    )
    one = made["one"]
    assert one.status.host.endswith("1"), "only that host has the NIC"
    assert one.status.nics[0].addresses == ["192.0.2.100/24"]
    await reaches(nic, one, "192.0.2.1")
    # beside what a running instance has, if the NIC is not taken
    both = pb.Nic(network="front"), pb.Nic(network="lan")
    if attachment == networks_pb2.SHARED_ATTACHMENT_WHOLE_NIC:
        with pytest.raises(NotReady):
            await plug(plane, "two", *both)
    else:
        await reaches(nic, await plug(plane, "two", *both), "192.0.2.1")
    with pytest.raises((NotReady, InvalidSpec)):
        await on_nic(plane, "clash", attachment)
    await plane.delete(["one", "two"], force=True)

    async def is_as_before() -> bool:
        found = await links()
        return before in found and "master" not in found and "DOWN" in found

    await until(is_as_before, what="the NIC as it was", within_seconds=30.0)
    assert not await onhost.all_namespaces(hosts)

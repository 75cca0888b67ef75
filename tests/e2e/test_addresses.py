"""Random histories: whatever was asked for and whatever died, in the end the leases are the addresses of the live
instances, at the control plane and on the hosts."""

import contextlib
import ipaddress
import random

import pytest
from google.protobuf import field_mask_pb2

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import AlreadyExists, NotFound, NotReady
from moorage.v1 import instances_pb2 as pb
from moorage.v1 import networks_pb2
from tests.support import onhost
from tests.support.plane import RUNNING, STOPPED, Plane, until

STEPS = 30
NAMES = [f"r{n}" for n in range(8)]
NETWORKS = ["lan", "dmz"]
_AT_REST = {pb.DESIRED_STATE_RUNNING: RUNNING, pb.DESIRED_STATE_STOPPED: STOPPED}


async def step(plane: Plane, fleet: Fleet, dice: random.Random) -> str:
    """One random thing; what it was. Refusals are fine: the instance may be anywhere on its way."""
    last, client = dice.choice(NAMES), plane.client.instances
    name = plane.name("instances", last)
    what = dice.choices(
        ("create", "delete", "stop", "start", "reboot", "replace", "replug", "kill agent"),
        weights=(10, 6, 3, 3, 2, 4, 5, 1),
    )[0]
    wanted = dice.sample(NETWORKS, dice.randint(1, 2))
    with contextlib.suppress(AlreadyExists, NotFound, NotReady):
        match what:
            case "create":
                await plane.start_all({last: plane.spec(networks=wanted)})
            case "delete":
                await client.DeleteInstance(pb.DeleteInstanceRequest(name=name, force=dice.random() < 0.5))
            case "stop":
                await client.StopInstance(pb.StopInstanceRequest(name=name))
            case "start":
                await client.StartInstance(pb.StartInstanceRequest(name=name))
            case "reboot":
                await client.RebootInstance(pb.RebootInstanceRequest(name=name))
            case "replace":
                await client.ReplaceInstance(pb.ReplaceInstanceRequest(name=name, spec=plane.spec(networks=wanted)))
            case "replug":
                changed = pb.Instance(name=name, spec=plane.spec(networks=wanted))
                mask = field_mask_pb2.FieldMask(paths=["spec.nics"])
                await client.UpdateInstance(pb.UpdateInstanceRequest(instance=changed, update_mask=mask))
            case "kill agent":
                host = f"h{dice.randint(1, 3)}"
                await fleet.kill(host, "agent")
                await fleet.start(host, "agent")
    return f"{what} {last}"


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_random_history(plane: Plane, fleet: Fleet, hosts: list[Host], seed: int) -> None:
    dice = random.Random(seed)
    for network in NETWORKS:
        await plane.network(network)
    history = [await step(plane, fleet, dice) for _ in range(STEPS)]

    async def are_at_rest() -> dict[str, pb.Instance]:
        found = await plane.instances()
        moving = [
            i
            for i in found.values()
            if i.status.state != _AT_REST.get(i.desired_state) or not i.status.run or not i.status.nics_ready
        ]
        return {} if moving else found or {"": pb.Instance()}

    instances = await until(are_at_rest, what=f"rest after {history}", within_seconds=60)
    instances.pop("", None)
    by_api = {i.uid: addresses(i) for i in instances.values()}
    plugged = {uid: sorted(found) for uid, found in (await onhost.all_namespaces(hosts)).items()}
    for instance in instances.values():
        # One that was stopped before its first process may have no namespace yet; it must have no other addresses.
        if instance.uid in plugged or instance.status.state == RUNNING:
            assert plugged.pop(instance.uid, []) == by_api[instance.uid], history
    assert not plugged, f"addresses of nobody are left on the hosts after {history}"
    leased = sorted([address for network in NETWORKS for address in await plane.leases(network)])
    assert leased == sorted(address for some in by_api.values() for address in some), history
    running = {c.instance for c in await onhost.all_containers(hosts) if c.is_running}
    assert running == {i.uid for i in instances.values() if i.status.state == RUNNING}, history
    assert not [item for n in (1, 2, 3) for item in (await plane.host(n)).status.quarantined]

    await plane.delete(list(instances), force=True)
    for network in NETWORKS:
        assert not await plane.leases(network)
        await plane.client.networks.DeleteNetwork(
            networks_pb2.DeleteNetworkRequest(name=plane.name("networks", network))
        )
    assert not await onhost.all_namespaces(hosts)
    assert not await onhost.all_containers(hosts)


def addresses(instance: pb.Instance) -> list[str]:
    """All addresses of an instance, without prefix length, sorted."""
    return sorted(str(ipaddress.ip_interface(text).ip) for nic in instance.status.nics for text in nic.addresses)

"""Networks, made and destroyed in random order with instances and what else belongs to them, leave every host as it
was.

    make test-leaks                       200 networks
    MOORAGE_LEAK_SEED=7 make test-leaks   the same history once more

`make test` does it with some.
"""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import DeadlineExceeded, NotFound
from moorage.v1 import (
    dns_pb2,
    networks_pb2,
    public_addresses_pb2,
    router_rules_pb2,
    routers_pb2,
    security_groups_pb2,
)
from moorage.v1 import instances_pb2 as pb
from tests.support import snapshot
from tests.support.plane import Plane, until
from tests.support.routers import IN, TCP, Routers

NETWORKS = int(os.environ.get("MOORAGE_LEAK_NETWORKS", "20"))
SEED = int(os.environ.get("MOORAGE_LEAK_SEED", "0")) or random.randrange(1, 10**6)
_ALIVE = 12  # networks at a time, at most
_AT_ONCE = 6
_SETTLED_SECONDS = 30.0
_SPARE_FILES = 12  # that an agent may hold more than before: connections come and go


@dataclass(frozen=True)
class Made:
    """A network with the instances that were made with it."""

    name: str
    instances: tuple[str, ...]


#: Something to do with a network that has its instances: what a user may change or add. It goes with the network.
Furnish = Callable[[Plane, random.Random, Made], Awaitable[None]]


async def _toggle_egress(plane: Plane, lot: random.Random, made: Made) -> None:
    name = plane.name("networks", made.name)
    network = networks_pb2.Network(name=name, spec=networks_pb2.NetworkSpec(egress=lot.random() < 0.5))
    request = networks_pb2.UpdateNetworkRequest(network=network)
    request.update_mask.paths.append("spec.egress")
    await plane.client.networks.UpdateNetwork(request)


async def _reboot_one(plane: Plane, lot: random.Random, made: Made) -> None:
    await plane.client.instances.RebootInstance(
        pb.RebootInstanceRequest(name=plane.name("instances", lot.choice(made.instances)))
    )


async def _stop_one(plane: Plane, lot: random.Random, made: Made) -> None:
    await plane.client.instances.StopInstance(
        pb.StopInstanceRequest(name=plane.name("instances", lot.choice(made.instances)))
    )


async def _guard(plane: Plane, lot: random.Random, made: Made) -> None:
    """A security group whose rules name itself and another one, on some interfaces; one of the two comes and goes."""
    first, second = (f"{made.name}-{name}" for name in ("in", "all"))
    groups = plane.client.security_groups
    way = security_groups_pb2.SECURITY_DIRECTION_IN
    for name, rule in (
        (second, security_groups_pb2.SecurityRule(direction=way, cidrs=["10.0.0.0/8", "fd00::/8"])),
        (first, security_groups_pb2.SecurityRule(direction=way, group=second)),
    ):
        spec = security_groups_pb2.SecurityGroupSpec(rules=[rule], deny_out=lot.random() < 0.3)
        await groups.CreateSecurityGroup(
            security_groups_pb2.CreateSecurityGroupRequest(
                parent=plane.project,
                security_group_id=name,
                security_group=security_groups_pb2.SecurityGroup(spec=spec),
            )
        )
    for last in made.instances:
        await _change_nics(plane, last, [first, second] if lot.random() < 0.5 else [first])
    if lot.random() < 0.5:
        await _change_nics(plane, lot.choice(made.instances), [])


async def _change_nics(plane: Plane, last: str, groups: Sequence[str]) -> None:
    instance = await plane.get(last)
    del instance.spec.nics[0].security_groups[:]
    instance.spec.nics[0].security_groups.extend(groups)
    request = pb.UpdateInstanceRequest(instance=pb.Instance(name=instance.name, spec=instance.spec))
    request.update_mask.paths.append("spec.nics")
    await plane.client.instances.UpdateInstance(request)


async def _plug(plane: Plane, lot: random.Random, made: Made) -> None:
    """Another interface on the network of all comes, and perhaps goes."""
    last = lot.choice(made.instances)
    instance = await plane.get(last)
    before = pb.InstanceSpec()
    before.CopyFrom(instance.spec)
    instance.spec.nics.add(network=plane.name("networks", "default"))
    for spec in (instance.spec, before) if lot.random() < 0.5 else (instance.spec,):
        request = pb.UpdateInstanceRequest(instance=pb.Instance(name=instance.name, spec=spec))
        request.update_mask.paths.append("spec.nics")
        await plane.client.instances.UpdateInstance(request)
        await plane.client.wait_nics(instance.name, 30)


async def _name(plane: Plane, lot: random.Random, made: Made) -> None:
    spec = dns_pb2.DnsRecordSpec(name="www", type=dns_pb2.DNS_RECORD_TYPE_CNAME, values=[made.instances[0]])
    await plane.client.dns.CreateDnsRecord(
        dns_pb2.CreateDnsRecordRequest(
            parent=plane.name("networks", made.name), dns_record=dns_pb2.DnsRecord(spec=spec)
        )
    )


async def _route(plane: Plane, lot: random.Random, made: Made) -> None:
    """A router with rules of its own and a public address, a balancer among them; one or a pair."""
    routers, router, outside = Routers(plane), made.name, f"{made.name}-out"
    await plane.network(outside, egress=True)
    await routers.create(router, made.name, outside_network=outside, redundant=lot.random() < 0.5)
    public = f"{made.name}-public"
    await routers.public_address(public, outside)
    web = lot.choice(made.instances)
    await routers.rule(router, "one", static_nat=router_rules_pb2.StaticNat(public_address=public, instance=web))
    forward = router_rules_pb2.PortForward(first_port=8080, instance=web, target_port=80)
    await routers.rule(router, "in", port_forward=forward)
    await routers.firewall(router, "http", IN, protocol=TCP, ports=["80"])
    await routers.balancer(router, "web", dict.fromkeys(made.instances, 80), port=80)
    if lot.random() < 0.5:
        await routers.delete_rule(router, "one")


async def _nothing(plane: Plane, lot: random.Random, made: Made) -> None:
    return


FURNISH: Sequence[Furnish] = (_nothing, _toggle_egress, _reboot_one, _stop_one, _guard, _plug, _name)
_ROUTED = 0.1  # of the networks: a router takes seconds


@dataclass(frozen=True)
class _Plan:
    """A network to make."""

    made: Made
    cidrs: tuple[str, ...]
    egress: bool
    is_awaited: bool  # else it may be destroyed before its instances run
    specs: Mapping[str, pb.InstanceSpec]
    furnish: Furnish
    lot: random.Random


class History:
    """What happens, drawn from one seed; what runs side by side may still end in any order."""

    def __init__(self, plane: Plane, seed: int, count: int, *, has_routers: bool) -> None:
        self._plane = plane
        self._routed = _ROUTED if has_routers else 0.0
        self._lot = random.Random(seed)
        self._left = count
        self._number = 0
        self._alive: list[Made] = []
        self._networks: dict[str, set[str]] = {}  # of each instance
        self.behind: set[str] = set()  # networks that have or had a router

    async def run(self) -> None:
        """Until every network was made and destroyed."""
        lot = self._lot
        while self._left or self._alive:
            making = min(self._left, _ALIVE - len(self._alive), lot.randint(0, _AT_ONCE))
            going = lot.sample(self._alive, min(len(self._alive), lot.randint(0, _AT_ONCE)))
            self._left -= making
            self._alive = [one for one in self._alive if one not in going]
            plans = [self._plan() for _ in range(making)]
            await asyncio.gather(self._destroy(going), *(self._make(plan) for plan in plans))
            self._alive += [plan.made for plan in plans]

    def _plan(self) -> _Plan:
        lot = self._lot
        self._number += 1
        made = Made(f"leak{self._number}", tuple(f"leak{self._number}-{n}" for n in range(lot.randint(1, 3))))
        furnish = lot.choice(FURNISH)
        cidrs = lot.choice(((), (), ("10.77.0.0/24",), ("10.77.0.0/24", "fd77:7::/64"), ("fd77:7::/64",)))
        is_awaited = lot.random() < 0.8
        if is_routed := is_awaited and lot.random() < self._routed:
            furnish, cidrs = _route, lot.choice(((), ("10.77.0.0/24",)))  # its public address is one of IPv4
            self.behind.add(made.name)
        specs = {}
        for number, name in enumerate(made.instances):
            networks = [made.name]
            ports = {9000 + (4 * self._number + number) % 1000: 80} if lot.random() < 0.4 else {}
            others = [one.name for one in self._alive if one.name not in self.behind]  # those take no published ports
            if others and not cidrs and not is_routed and lot.random() < 0.3:
                networks.append(lot.choice(others))
            if is_routed:
                ports = {}
            specs[name] = self._plane.spec(host=lot.randint(1, 3), networks=networks, ports=ports)
            self._networks[name] = set(networks)
        return _Plan(made, cidrs, lot.random() < 0.5, is_awaited, specs, furnish, random.Random(lot.random()))

    async def _make(self, plan: _Plan) -> None:
        await self._plane.network(plan.made.name, *plan.cidrs, egress=plan.egress)
        if plan.is_awaited:
            await self._plane.run(plan.specs)
            await plan.furnish(self._plane, plan.lot, plan.made)
        else:
            await self._plane.start_all(plan.specs)

    async def _destroy(self, going: Sequence[Made]) -> None:
        """What each network has of a router, its instances, and those of others that are on it too, then the networks."""
        groups: dict[str, list[str]] = {}
        names = {one.name for one in going}
        behind = sorted(names & self.behind)
        await asyncio.gather(*(self._delete_router(name) for name in behind))
        for instance, networks in list(self._networks.items()):
            if doomed := sorted(networks & names):
                groups.setdefault(doomed[0], []).append(instance)
                del self._networks[instance]
        await asyncio.gather(*(self._plane.delete(some, force=True, within_seconds=60) for some in groups.values()))
        names |= {f"{name}-out" for name in behind}
        requests = [networks_pb2.DeleteNetworkRequest(name=self._plane.name("networks", name)) for name in names]
        await asyncio.gather(*(self._plane.client.networks.DeleteNetwork(one) for one in requests))
        await self._delete_groups(names)

    async def _delete_router(self, network: str) -> None:
        client, name = self._plane.client, self._plane.name("routers", network)
        await client.routers.DeleteRouter(routers_pb2.DeleteRouterRequest(name=name, force=True))

        async def is_gone() -> bool:
            try:
                await client.routers.GetRouter(routers_pb2.GetRouterRequest(name=name))
            except NotFound:
                return True
            return False

        await until(is_gone, what=f"the end of router {network}", within_seconds=60)
        public = self._plane.name("publicAddresses", f"{network}-public")
        await client.public_addresses.DeletePublicAddress(public_addresses_pb2.DeletePublicAddressRequest(name=public))

    async def _delete_groups(self, names: Collection[str]) -> None:
        """The security groups that were made for these networks, in an order in which none is named by another."""
        for suffix in ("in", "all"):
            for name in sorted(names):
                full = self._plane.name("securityGroups", f"{name}-{suffix}")
                with contextlib.suppress(NotFound):  # not every network has some
                    await self._plane.client.security_groups.DeleteSecurityGroup(
                        security_groups_pb2.DeleteSecurityGroupRequest(name=full)
                    )


async def _agents(fleet: Fleet) -> dict[str, int]:
    found = {host.name: host.pids["agent"] for host in (await fleet.status()).hosts}
    return {name: pid for name, pid in found.items() if pid is not None}


@pytest.mark.slow
async def test_networks_leave_every_host_as_it_was(
    plane: Plane, fleet: Fleet, hosts: list[Host], request: pytest.FixtureRequest
) -> None:
    has_routers = shutil.which("mmdebstrap") is not None
    if has_routers:
        request.getfixturevalue("router_image")
    print(f"seed {SEED}, {NETWORKS} networks, {'some' if has_routers else 'none'} with a router")
    await plane.run({f"first{n}": plane.spec(host=n) for n in (1, 2, 3)})  # image, and what a first use leaves
    await plane.delete([f"first{n}" for n in (1, 2, 3)], force=True)
    agents = await _agents(fleet)
    before = {host.name: await _settled(host) for host in hosts}
    held = {name: snapshot.open_files(pid) for name, pid in agents.items()}

    history = History(plane, SEED, NETWORKS, has_routers=has_routers)
    await history.run()
    print(f"{len(history.behind)} networks had a router")

    left: list[str] = []

    async def is_as_it_was() -> bool:
        found = await asyncio.gather(*(snapshot.take(host) for host in hosts))
        left[:] = [
            f"{host.name} {line}"
            for host, after in zip(hosts, found, strict=True)
            for line in snapshot.difference(before[host.name], after)
        ]
        return not left

    with contextlib.suppress(DeadlineExceeded):  # what is left is told below
        await until(is_as_it_was, what="hosts as they were", within_seconds=_SETTLED_SECONDS)
    assert not left, f"seed {SEED}:\n" + "\n".join(left)
    assert await _agents(fleet) == agents
    now = {name: snapshot.open_files(pid) for name, pid in agents.items()}
    grown = {name: (held[name], now[name]) for name in agents if now[name] > held[name] + _SPARE_FILES}
    assert not grown, f"seed {SEED}: open files of agents {grown}"


async def _settled(host: Host) -> snapshot.Snapshot:
    """A host's snapshot once nothing changes any more."""
    last = await snapshot.take(host)

    async def is_still() -> snapshot.Snapshot | None:
        nonlocal last
        previous, last = last, await snapshot.take(host)
        return last if not snapshot.difference(previous, last) else None

    found = await until(is_still, what=f"rest on {host.name}")
    assert found is not None
    return found

"""Sessions: whatever changes in the store, an agent that applies what it is sent knows exactly what it would be told anew."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from controlplane.dispatch.assignments import InstanceAssignment, NetworkAssignment, Peer
from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.security import SecurityGroupAssignment
from controlplane.dispatch.sessions import AssignmentSet, HostSession
from controlplane.dispatch.streams import StreamBroker, StreamRequest
from controlplane.dispatch.tasks import BuildTask, HostTasks, SentTask, SnapshotTask, TaskReport
from controlplane.domain.dns import DnsRecordSpec, DnsRecordType
from controlplane.domain.instances import InstanceState, Nic
from controlplane.domain.kinds import HOST, INSTANCE
from controlplane.domain.security_groups import SecurityDirection, SecurityRule
from moorage.errors import Forbidden, MoorageError, NotFound, Unavailable
from tests.unit.controlplane.world import P, World


class Agent:
    """What an agent knows after applying what it was sent."""

    def __init__(self) -> None:
        self.sequence = 0
        self.instances: dict[str, InstanceAssignment] = {}
        self.networks: dict[str, NetworkAssignment] = {}
        self.peers: dict[str, dict[str, Peer]] = {}
        self.groups: dict[str, SecurityGroupAssignment] = {}
        self.members: dict[tuple[str, str], set[str]] = {}

    def apply(self, sent: AssignmentSet) -> None:
        if sent.is_empty:
            return  # is not sent
        if sent.is_complete:
            self.__init__()  # type: ignore[misc]
        else:
            assert sent.applies_to == self.sequence, "a gap"
        self.sequence = sent.results_in
        self.instances.update({a.instance_id: a for a in sent.instances})
        for uid in sent.forgotten_instances:
            del self.instances[uid]
        for network, peers in sent.networks:
            self.networks[network.network_id] = network
            known = self.peers.setdefault(network.network_id, {})
            known.update({peer.mac: peer for peer in peers})
        for uid in sent.removed_networks:
            del self.networks[uid]
            del self.peers[uid]
        for change in sent.peer_changes:
            self.peers[change.network_id].update({peer.mac: peer for peer in change.upserted})
            for mac in change.removed:
                del self.peers[change.network_id][mac]

        self.groups.update({group.group_id: group for group in sent.security.groups})
        for uid in sent.security.removed_groups:
            del self.groups[uid]
        for update in sent.security.members:
            pair = (update.group_id, update.network_id)
            if update.dropped:
                del self.members[pair]
                continue
            known = self.members.setdefault(pair, set())
            assert known.isdisjoint(update.added)
            assert known.issuperset(update.removed)
            known.difference_update(update.removed)
            known.update(update.added)

    def knows(self) -> tuple[Any, ...]:
        return self.instances, self.networks, self.peers, self.groups, self.members


_NAMES = ("a", "b", "c", "d")
_HOSTS = ("h1", "h2", "h3")
_NICS = st.lists(st.sampled_from(["n", "m", "o"]), max_size=2, unique=True)
_GROUPS = st.lists(st.sampled_from(["g", "k"]), max_size=2, unique=True)
_TO_G = SecurityRule(SecurityDirection.IN, group="g")
_TO_K = SecurityRule(SecurityDirection.OUT, group="k")


class Histories(RuleBasedStateMachine):
    """Three hosts, three networks, four names of instances, and agents that come back when their host does."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        self.dispatcher = Dispatcher(self.world.store, self.world.clock)
        self.agents: dict[str, tuple[HostSession, Agent]] = {}
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        await self.world.begin()
        for number, name in enumerate(("n", "m", "o"), 1):
            await self.world.network(name, f"10.{number}.0.0/28")
        await self.world.security_group("g")
        await self.world.security_group("k", _TO_G)
        for name in _HOSTS:
            await self.world.host(name)
        self.running = asyncio.create_task(self.dispatcher.run())
        await self.world.clock.settle()

    def run(self, call: Any) -> None:
        async def guarded() -> None:
            try:
                await call
            except MoorageError as error:
                assert type(error).__name__ != "Internal", error

        self.runner.run(guarded())

    @rule(name=st.sampled_from(_NAMES), nics=_NICS, groups=_GROUPS, host=st.sampled_from(("", *_HOSTS)))
    def create(self, name: str, nics: list[str], groups: list[str], host: str) -> None:
        wanted = [Nic(network, security_groups=tuple(groups)) for network in nics]
        self.run(self.world.create(name, *wanted, no_network=not nics))
        if host:
            self.place(name, host)

    @rule(name=st.sampled_from(_NAMES), host=st.sampled_from(_HOSTS))
    def place(self, name: str, host: str) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None and not found.value.host and self.world.store.view().get(HOST, host) is not None:
            self.run(self.world.place(name, host))

    @rule(name=st.sampled_from(_NAMES), nics=_NICS, hostname=st.sampled_from(["", "x"]))
    def replace(self, name: str, nics: list[str], hostname: str) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None:
            spec = replace(found.value.spec, nics=tuple(map(Nic, nics)), no_network=not nics, hostname=hostname)
            self.run(self.world.changes.replace(P, name, spec=spec))

    @rule(name=st.sampled_from(_NAMES))
    def stop(self, name: str) -> None:
        self.run(self.world.instances.stop(P, name))

    @rule(name=st.sampled_from(_NAMES))
    def delete(self, name: str) -> None:
        self.run(self.world.instances.delete(P, [name]))

    @rule(name=st.sampled_from(_NAMES), state=st.sampled_from([InstanceState.RUNNING, InstanceState.DELETED]))
    def report(self, name: str, state: InstanceState) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None and found.value.host_uid:
            self.run(self.world.report(found.value, state, sequence=found.value.observed.sequence + 1))

    @rule(name=st.sampled_from(_NAMES), groups=_GROUPS)
    def change_groups(self, name: str, groups: list[str]) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None:
            nics = tuple(replace(nic, security_groups=tuple(groups)) for nic in found.value.spec.nics)
            self.run(self.world.changes.update(P, name, spec_fields={"nics": nics}))

    @rule(group=st.sampled_from(["g", "k"]), rules=st.lists(st.sampled_from([_TO_G, _TO_K]), max_size=2, unique=True))
    def change_rules(self, group: str, rules: list[SecurityRule]) -> None:
        self.run(self.world.security_groups.update(P, group, spec_fields={"rules": tuple(rules)}))

    @rule(network=st.sampled_from(["n", "m"]), egress=st.booleans())
    def change_network(self, network: str, egress: bool) -> None:
        self.run(self.world.networks.update(P, network, egress=egress))

    @rule(network=st.sampled_from(["n", "m"]), name=st.sampled_from(["x", "y"]))
    def make_record(self, network: str, name: str) -> None:
        self.run(self.world.dns.create(P, network, "", DnsRecordSpec(name, DnsRecordType.TXT, ("x",))))

    @rule(network=st.sampled_from(["n", "m"]), name=st.sampled_from(["x", "y"]), delete=st.booleans())
    def change_record(self, network: str, name: str, delete: bool) -> None:
        if delete:
            self.run(self.world.dns.delete(P, network, f"{name}-txt"))
        else:
            self.run(self.world.dns.update(P, network, f"{name}-txt", values=("y",)))

    @rule(host=st.sampled_from(_HOSTS), address=st.sampled_from(["", "192.0.2.7", "192.0.2.8"]))
    def move_host(self, host: str, address: str) -> None:
        found = self.world.store.view().get(HOST, host)
        if found is not None:
            facts = replace(found.value.facts, underlay_address=address)
            self.run(self.world.reports.heartbeat(found.value.uid, [], [], "", facts))

    @rule(host=st.sampled_from(_HOSTS), zone=st.sampled_from(["", "z"]))
    def move_to_zone(self, host: str, zone: str) -> None:
        found = self.world.store.view().get(HOST, host)
        if found is not None:
            moved = replace(found.value, zone=zone)
            self.run(self.world.store.update(lambda tx: tx.put(HOST, moved)))

    @rule(host=st.sampled_from(_HOSTS))
    def lose_host(self, host: str) -> None:
        self.run(self.world.hosts.delete(host, force=True))

    @rule(host=st.sampled_from(_HOSTS))
    def join_again(self, host: str) -> None:
        if self.world.store.view().get(HOST, host) is None:
            self.run(self.world.host(host))

    @rule(host=st.sampled_from(_HOSTS))
    def connect(self, host: str) -> None:
        if self.world.store.view().get(HOST, host) is not None:
            session, agent = self.dispatcher.open(f"uid-{host}", 1), Agent()
            agent.apply(session.complete(self.world.store.view()))
            self.agents[host] = (session, agent)

    @rule(host=st.sampled_from(_HOSTS))
    def send_at_once(self, host: str) -> None:
        """Before the dispatcher has seen everything: it may be told later, but not wrongly."""
        if host in self.agents:
            session, agent = self.agents[host]
            agent.apply(session.incremental(self.world.store.view()))

    @rule()
    def catch_up(self) -> None:
        self.runner.run(self.world.clock.settle())
        for host, (session, agent) in list(self.agents.items()):
            if session.is_closed:
                self.dispatcher.closed(session)
                del self.agents[host]
                continue
            view = self.world.store.view()
            agent.apply(session.incremental(view))
            anew = Agent()
            anew.apply(HostSession(session.host_uid, 1).complete(view))
            assert agent.knows() == anew.knows()
            assert session.incremental(view).is_empty
            wanted = {nic.network_id for a in agent.instances.values() for nic in a.nics}
            assert set(agent.networks) == set(agent.peers) == wanted, "networks with a member here, and no others"
            assert set(agent.groups) == {
                uid for a in agent.instances.values() for nic in a.nics for uid in nic.security_groups
            }
            own = {nic.mac for a in agent.instances.values() for nic in a.nics}
            assert not own & {mac for peers in agent.peers.values() for mac in peers}

    def teardown(self) -> None:
        try:
            self.catch_up()
        finally:
            self.runner.run(self._end())
            self.runner.close()

    async def _end(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])
        await self.world.store.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@pytest.fixture
async def dispatcher(world: World) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(world.store, world.clock)
    task = asyncio.create_task(dispatcher.run())
    await world.clock.settle()
    yield dispatcher
    task.cancel()
    await asyncio.wait([task])


async def _placed(world: World, name: str, host: str, *nics: str) -> Any:
    await world.create(name, *map(Nic, nics), no_network=not nics)
    return await world.place(name, host)


async def test_only_those_concerned_are_woken(world: World, dispatcher: Dispatcher) -> None:
    await world.network("n", "10.1.0.0/24")
    for host in _HOSTS:
        await world.host(host)
    await _placed(world, "a", "h1", "n")
    await _placed(world, "b", "h2", "n")
    await _placed(world, "c", "h3")
    await world.clock.settle()
    sessions = {host: dispatcher.open(f"uid-{host}", 1) for host in _HOSTS}
    for session in sessions.values():
        session.complete(world.store.view())

    async def woken() -> set[str]:
        await world.clock.settle()
        changed = {h: s.incremental(world.store.view()) for h, s in sessions.items()}
        return {h for h, sent in changed.items() if not sent.is_empty}

    await world.instances.stop(P, "a")
    assert await woken() == {"h1"}, "a neighbour's state is nobody else's business"
    await world.changes.replace(P, "a", spec=replace(world.get("a").spec, hostname="new"))
    assert await woken() == {"h1", "h2"}
    await world.networks.update(P, "n", egress=True)
    assert await woken() == {"h1", "h2"}
    facts = replace(world.hosts.get("h2").facts, underlay_address="192.0.2.99")
    await world.reports.heartbeat("uid-h2", [], [], "", facts)
    assert await woken() == {"h1"}
    await world.report(world.get("a"), InstanceState.RUNNING)
    assert await woken() == set()
    await _placed(world, "d", "h3", "n")
    assert await woken() == {"h1", "h2", "h3"}


async def test_peers_are_told_of_address_and_names(world: World, dispatcher: Dispatcher) -> None:
    await world.network("n", "10.1.0.0/24", "fd00:1::/64")
    await world.host("h1")
    h2 = await world.host("h2")
    await _placed(world, "a", "h1", "n")
    other = await _placed(world, "b", "h2", "n")
    sent = HostSession("uid-h1", 1).complete(world.store.view())
    ((network, peers),) = sent.networks
    assert network.vni
    assert peers == (Peer(other.nics[0].mac, ("10.1.0.3", "fd00:1::3"), h2.facts.underlay_address, 4789, ("b",)),)
    assert HostSession("uid-h3", 1).complete(world.store.view()).networks == ()


async def test_one_session_a_host(world: World, dispatcher: Dispatcher) -> None:
    await world.host("h1")
    first = dispatcher.open("uid-h1", 1)
    second = dispatcher.open("uid-h1", 2)
    assert first.is_closed
    assert not dispatcher.closed(first), "the host is not away"
    assert dispatcher.session("uid-h1") is second
    assert dispatcher.closed(second)
    with pytest.raises(Unavailable) as caught:
        dispatcher.session("uid-h1")
    assert caught.value.reason == "HOST_AWAY"
    third = dispatcher.open("uid-h1", 3)
    await world.hosts.delete("h1")
    await world.clock.settle()
    assert third.is_closed
    assert dispatcher.term == world.store.epoch
    assert dispatcher.store_id == world.store.id


async def test_side_streams(world: World, dispatcher: Dispatcher) -> None:
    numbers = iter(range(100))
    broker = StreamBroker(dispatcher, lambda: f"s{next(numbers)}")
    with pytest.raises(Unavailable):
        await broker.open("uid-h1", "i", "logs", None)
    session = dispatcher.open("uid-h1", 1)
    opening = asyncio.ensure_future(broker.open("uid-h1", "i", "logs", "wanted"))
    await asyncio.sleep(0)
    request = session.requests.popleft()
    assert isinstance(request, StreamRequest)
    with pytest.raises(NotFound):
        broker.claim("uid-h2", request.stream_id)
    claimed = broker.claim("uid-h1", request.stream_id)
    with pytest.raises(NotFound):
        broker.claim("uid-h1", request.stream_id)
    stream_id, stream = await opening
    assert stream is claimed
    for item in ("one", "two", None):
        await claimed.from_agent.put(item)
    claimed.error = NotFound("gone")
    messages = stream.messages()
    assert [await anext(messages), await anext(messages)] == ["one", "two"]
    with pytest.raises(NotFound):
        await anext(messages)
    broker.close(stream_id)
    assert stream.ended.is_set()
    broker.close(stream_id)


async def test_an_agent_that_does_not_open_the_stream(
    world: World, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.dispatch.streams._OPEN_SECONDS", 0.01)
    broker = StreamBroker(dispatcher, lambda: "s")
    session = dispatcher.open("uid-h1", 1)
    with pytest.raises(Unavailable) as caught:
        await broker.open("uid-h1", "i", "logs", None)
    assert caught.value.reason == "HOST_AWAY"
    request = session.requests.popleft()
    assert isinstance(request, StreamRequest)
    with pytest.raises(NotFound):
        broker.claim("uid-h1", request.stream_id)


async def test_tasks(world: World, dispatcher: Dispatcher) -> None:
    numbers = iter(range(100))
    tasks = HostTasks(dispatcher, lambda: f"t{next(numbers) + 1}")
    seen: list[TaskReport] = []
    with pytest.raises(Unavailable):
        await tasks.run("uid-h1", SnapshotTask("i", "r", "t"), seen.append)
    session = dispatcher.open("uid-h1", 1)
    build = BuildTask("p/r", "t", base_images={"busybox": "p/base@sha256:1"})
    running = asyncio.ensure_future(tasks.run("uid-h1", build, seen.append))
    await asyncio.sleep(0)
    sent = session.requests.popleft()
    assert sent == SentTask("t1", build)
    tasks.require_push("uid-h1", "p/r")
    for host, repository in (("uid-h2", "p/r"), ("uid-h1", "p/other")):
        with pytest.raises(Forbidden):
            tasks.require_push(host, repository)
    assert tasks.base_repositories("uid-h1") == {"p/base"}
    assert tasks.base_repositories("uid-h2") == set()
    with pytest.raises(NotFound):
        tasks.context("uid-h1", "t1")
    tasks.report("uid-h2", TaskReport("t1", done=True))
    tasks.report("uid-h1", TaskReport("unknown", done=True))
    tasks.report("uid-h1", TaskReport("t1", "build", 50))
    assert [r.percent for r in seen] == [50]
    tasks.report("uid-h1", TaskReport("t1", error=NotFound("no such base")))
    tasks.report("uid-h1", TaskReport("t1", done=True))
    with pytest.raises(NotFound, match="no such base"):
        await running
    with pytest.raises(Forbidden):
        tasks.require_push("uid-h1", "p/r")

    running = asyncio.ensure_future(tasks.run("uid-h1", build, seen.append))
    await asyncio.sleep(0)
    tasks.session_lost("uid-h2")
    assert not running.done()
    tasks.session_lost("uid-h1")
    with pytest.raises(Unavailable):
        await running
    running = asyncio.ensure_future(tasks.run("uid-h1", build, seen.append))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert session.requests.pop() == SentTask("t3", None), "the host is told to give it up"


async def test_a_groups_name_is_its_members_while_they_take_clients(world: World, dispatcher: Dispatcher) -> None:
    await world.network("n", "10.1.0.0/24")
    for host in ("h1", "h2"):
        await world.host(host)
    await _placed(world, "a", "h1", "n")
    member = await _placed(world, "web-0", "h2", "n")
    owned = replace(member, owner=f"projects/{P}/groups/web", slot=0)
    await world.store.update(lambda tx: tx.put(INSTANCE, owned))
    session, own = dispatcher.open("uid-h1", 1), dispatcher.open("uid-h2", 1)
    session.complete(world.store.view())
    own.complete(world.store.view())

    async def told() -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the neighbour and the host itself are told."""
        await world.clock.settle()
        (change,) = session.incremental(world.store.view()).peer_changes
        (peer,) = change.upserted
        (assignment,) = own.incremental(world.store.view()).instances
        return peer.shared_names, assignment.shared_names

    await world.report(member, InstanceState.RUNNING)
    assert await told() == (("web",), ("web",))
    leaves = replace(world.get("web-0"), leave_time=world.clock.now())
    await world.store.update(lambda tx: tx.put(INSTANCE, leaves))
    assert await told() == ((), ())

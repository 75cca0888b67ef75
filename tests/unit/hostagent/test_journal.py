"""The journal: what was committed survives, whatever happens to the file's end; what is damaged does not stop the
agent.
"""

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.domain import (
    ContainerSpec,
    DesiredState,
    HealthCheck,
    InstanceAssignment,
    Mount,
    NetworkAssignment,
    NetworkKind,
    NicAssignment,
    NicRoute,
    Peer,
    PublishedPort,
    Resources,
    RestartMode,
    RestartPolicy,
    RuleProtocol,
    SecurityDirection,
    SecurityGroup,
    SecurityRule,
    Subnet,
    Ulimit,
)
from hostagent.journal import codec
from hostagent.journal.journal import AssignmentChange, Journal, MembersChange, PeerChange, UnreadableRouter
from hostagent.journal.state import LocalState, RunStage
from moorage.errors import StoreUnavailable
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import (
    BalancerBundle,
    BalancerMode,
    DhcpBundle,
    FirewallBundle,
    FirewallDirection,
    LegBundle,
    ListenerBundle,
    PairBundle,
    RouterBundle,
)

FULL = InstanceAssignment(
    instance_id=InstanceId("i1"),
    name="web",
    project="p",
    generation=3,
    run_request=2,
    desired=DesiredState.PAUSED,
    container=ContainerSpec(
        image="app@sha256:1",
        labels={"a": "b"},
        entrypoint=(),
        env={"X": ""},
        resources=Resources(memory_bytes=1),
        ulimits=(Ulimit("nofile", 1, 2),),
        mounts=(Mount("/x", "tmpfs", size_bytes=5),),
        health_check=HealthCheck(("CMD", "true")),
        stop_grace_seconds=0.5,
    ),
    nics=(
        NicAssignment(
            NetworkId("n1"), "eth0", "02:00:00:00:00:01", ("10.1.0.5/24",), routes=(NicRoute("10.0.0.0/8", "10.1.0.2"),)
        ),
    ),
    published_ports=(PublishedPort(80, 80),),
    restart=RestartPolicy(RestartMode.NEVER),
    extra_hosts=(("db", "10.9.9.9"),),
)
NETWORK = NetworkAssignment(NetworkId("n1"), "default", NetworkKind.ISOLATED, (Subnet("10.1.0.0/24"),), 1450, vni=7)
PEER = Peer("02:00:00:00:00:02", ("10.1.0.6",), "192.0.2.2", names=("db",))

GROUP = SecurityGroup(
    "g1", "web", (SecurityRule(SecurityDirection.IN, RuleProtocol.TCP, ("80",), group="g2"),), deny_out=True
)


def complete(*instances: InstanceAssignment, revision: int = 5) -> AssignmentChange:
    return AssignmentChange(True, sequence=1, revision=revision, instances=instances, networks=(NETWORK,))


@pytest.mark.parametrize("value", [FULL, NETWORK, PEER, GROUP, LocalState(limits=Resources()), LocalState(exit_code=0)])
def test_values_come_back_as_they_were(value: object) -> None:
    assert codec.loads(type(value), codec.dumps(value)) == value


async def test_all_comes_back(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=1000.0)
    journal.apply(complete(FULL), now=1.0)
    journal.apply(AssignmentChange(False, 2, 6, peer_changes=(PeerChange(NetworkId("n1"), (PEER,)),)), now=1.0)
    journal.set_local(FULL.instance_id, LocalState(run=4, stage=RunStage.STARTED))
    await journal.commit()
    nonce, epoch = journal.nonce, journal.epoch
    journal.close()
    again = Journal.open(tmp_path, now=1000.0)
    assert again.assignments == {FULL.instance_id: FULL}
    assert again.networks == {NETWORK.network_id: NETWORK}
    assert again.peers(NETWORK.network_id) == {PEER.mac: PEER}
    assert again.local(FULL.instance_id).run == 4
    assert (again.link.revision, again.link.sequence) == (6, 2)
    assert again.nonce == nonce
    assert again.epoch > epoch
    again.close()


ROUTER = RouterBundle(
    FULL.instance_id,
    7,
    "eth0",
    ("192.0.2.1",),
    (LegBundle(NetworkId("n1"), "eth1", ("10.1.0.0/24",), ("10.1.0.1",), dhcp=DhcpBundle(("10.1.0.9-10.1.0.20",))),),
    firewall=(FirewallBundle("r1", FirewallDirection.IN, icmp_type=0),),
    balancers=(BalancerBundle("b1", BalancerMode.HTTP, (ListenerBundle("192.0.2.1", 80),)),),
    pair=PairBundle(5, 100, "10.1.0.2", "10.1.0.3"),
)


async def test_configurations_of_routers_come_back_and_go_with_their_instance(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=1000.0)
    journal.apply(replace(complete(FULL), routers=(ROUTER,)), now=1.0)
    journal.set_good_router(ROUTER)
    journal.apply(AssignmentChange(False, 2, 6, routers=(replace(ROUTER, version=8),)), now=1.0)
    await journal.commit()
    journal.close()
    again = Journal.open(tmp_path, now=1000.0)
    assert again.routers == {FULL.instance_id: replace(ROUTER, version=8)}
    assert again.good_router(FULL.instance_id) == ROUTER
    # one that this agent cannot read does not take away what it had
    again.apply(replace(complete(FULL), unreadable_routers=(UnreadableRouter(FULL.instance_id, 9, "?"),)), now=1.0)
    assert again.routers[FULL.instance_id].version == 8
    # an orphan keeps its own until nothing of it is left
    again.apply(complete(), now=1.0)
    assert FULL.instance_id in again.routers
    again.forget(FULL.instance_id)
    assert not again.routers
    assert again.good_router(FULL.instance_id) is None
    again.apply(replace(complete(FULL), routers=(ROUTER,)), now=1.0)
    again.apply(complete(FULL), now=1.0)
    assert not again.routers
    again.close()


async def test_what_is_missing_in_a_complete_set_becomes_an_orphan_and_can_come_back(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=0)
    journal.apply(complete(FULL), now=1.0)
    journal.apply(complete(), now=1.0)
    assert journal.orphans == {FULL.instance_id}
    assert FULL.instance_id in journal.assignments
    journal.apply(complete(FULL), now=1.0)
    assert journal.orphans == frozenset()
    journal.close()


async def test_a_complete_set_drops_peers_and_networks_that_it_does_not_name(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=0)
    journal.apply(complete(), now=1.0)
    journal.apply(AssignmentChange(False, 2, 6, peer_changes=(PeerChange(NetworkId("n1"), (PEER,)),)), now=1.0)
    _, networks = journal.apply(complete(), now=1.0)
    assert networks == {NETWORK.network_id}
    assert not journal.peers(NETWORK.network_id)
    _, networks = journal.apply(AssignmentChange(True, 3, 7), now=1.0)
    assert networks == {NETWORK.network_id}
    assert not journal.networks
    journal.close()


async def test_many_commits_share_transactions(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=0)
    await journal.commit()
    before = journal.transactions

    async def one(number: int) -> None:
        journal.set_local(InstanceId(f"i{number}"), LocalState(run=number))
        await journal.commit()

    await asyncio.gather(*(one(number) for number in range(50)))
    assert journal.transactions - before <= 5
    journal.close()


async def test_every_torn_end_of_the_log_leaves_a_prefix(tmp_path: Path) -> None:
    """A power cut in the middle of a write: for each length of the log, what is read is a state that once was."""
    live = tmp_path / "live"
    live.mkdir()
    journal = Journal.open(live, now=0)
    for run in range(1, 6):
        journal.set_local(InstanceId("i1"), LocalState(run=run))
        await journal.commit()
    for name in ("journal.db", "journal.db-wal", "nonce"):
        shutil.copy(live / name, tmp_path / name)
    journal.close()
    wal = (tmp_path / "journal.db-wal").read_bytes()
    seen = []
    for length in range(0, len(wal) + 1, 1371):
        torn = tmp_path / f"torn-{length}"
        torn.mkdir()
        shutil.copy(tmp_path / "journal.db", torn)
        (torn / "journal.db-wal").write_bytes(wal[:length])
        again = Journal.open(torn, now=0)
        assert not again.was_lost
        seen.append(again.local(InstanceId("i1")).run)
        again.close()
    assert seen == sorted(seen)
    assert {0, 5} >= {seen[0]}
    assert seen[-1] >= 4


async def test_a_damaged_file_is_kept_aside_and_the_nonce_stays(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=0)
    nonce = journal.nonce
    journal.apply(complete(FULL), now=1.0)
    journal.close()
    (tmp_path / "journal.db").write_bytes(os.urandom(8192))
    again = Journal.open(tmp_path, now=0)
    assert again.was_lost
    assert again.nonce == nonce
    assert not again.assignments
    assert (tmp_path / "journal.db.damaged-1").exists()
    again.close()


async def test_a_full_disk_is_told_and_nothing_is_lost_when_there_is_room_again(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=0)
    await journal.commit()
    connection = journal.writer.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(200):
        journal.set_local(InstanceId(f"i{number}"), LocalState(message="x" * 500))
    with pytest.raises(StoreUnavailable):
        await journal.commit()
    connection.execute("PRAGMA max_page_count = 100000")
    await journal.commit()
    journal.close()
    again = Journal.open(tmp_path, now=0)
    assert again.local(InstanceId("i199")).message
    again.close()


async def test_security_groups_and_members_come_back(tmp_path: Path) -> None:
    """An agent that starts while the control plane is away must filter as before."""
    network_id = NetworkId("n1")
    journal = Journal.open(tmp_path, now=1000.0)
    first = MembersChange("g2", network_id, ("10.1.0.9", "10.1.0.6"))
    journal.apply(AssignmentChange(True, 1, 5, security_groups=(GROUP,), members_changes=(first,)), now=1.0)
    second = MembersChange("g2", network_id, ("10.1.0.7",), ("10.1.0.9",))
    other = MembersChange("g3", network_id, ("10.1.0.8",))
    journal.apply(AssignmentChange(False, 2, 6, members_changes=(second, other)), now=1.0)
    journal.apply(
        AssignmentChange(False, 3, 7, members_changes=(MembersChange("g3", network_id, dropped=True),)), now=1.0
    )
    await journal.commit()
    journal.close()
    again = Journal.open(tmp_path, now=1000.0)
    assert again.security_groups == {"g1": GROUP}
    assert {pair: one.addresses for pair, one in again.group_members.items()} == {
        ("g2", network_id): ("10.1.0.6", "10.1.0.7")
    }
    again.apply(AssignmentChange(False, 4, 8, removed_security_groups=("g1",)), now=1.0)
    assert again.security_groups == {}
    again.apply(AssignmentChange(True, 5, 9, security_groups=(GROUP,), members_changes=(other,)), now=1.0)
    assert set(again.group_members) == {("g3", network_id)}, "a COMPLETE set names all of them"
    await again.commit()
    again.close()
    third = Journal.open(tmp_path, now=1000.0)
    assert (set(third.security_groups), set(third.group_members)) == ({"g1"}, {("g3", network_id)})
    third.close()

"""Hosts and zones, how machines join, and what their agents report."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain.hosts import HostAdminState, HostCondition, HostFacts, HostLinkState, QuarantinedItem
from controlplane.domain.instances import DesiredState, InstanceState
from controlplane.domain.kinds import HOST, INSTANCE, JOIN_TOKEN, ZONE
from controlplane.services.enrollment import EnrollmentService
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from moorage.errors import (
    AlreadyExists,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    Unauthenticated,
    VersionConflict,
)
from moorage.tls import Authority, certificate_facts, generate_request
from tests.unit.controlplane.world import P, World


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test")


@pytest.fixture
async def enrollment(world: World, authority: Authority) -> EnrollmentService:
    return EnrollmentService(world.context, authority)


async def refused(call: Any, kind: type[MoorageError], reason: str = "") -> Any:
    with pytest.raises(kind) as caught:
        await call
    assert not reason or caught.value.reason == reason
    return caught.value


_, _REQUEST = generate_request("machine")
_PEM = _REQUEST.decode()


async def test_a_token_makes_one_host(world: World, enrollment: EnrollmentService) -> None:
    _, secret = await enrollment.create_token("ann", None, 0, "")
    made = await enrollment.enroll(secret, "h1", _PEM, "", {"disk": "ssd"})
    assert (made.host.name, made.host.link_state) == ("hosts/h1", HostLinkState.CONNECTING)
    assert certificate_facts(made.certificate_pem).host_uid == made.host.uid
    assert made.authority_pem == enrollment.authority_pem
    await refused(enrollment.enroll(secret, "h2", _PEM, "", {}), Unauthenticated, "JOIN_TOKEN_USED_UP")
    assert world.store.view().count(HOST) == 1


async def test_a_token_for_several(world: World, enrollment: EnrollmentService) -> None:
    token, secret = await enrollment.create_token("ann", None, 3, "")
    calls = (enrollment.enroll(secret, f"h{n}", _PEM, "", {}) for n in range(5))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(r, Unauthenticated) for r in results] == [False] * 3 + [True] * 2
    found = world.store.view().get(JOIN_TOKEN, token.id)
    assert found is not None
    assert found.value.used == 3


async def test_tokens_that_are_no_good(world: World, enrollment: EnrollmentService) -> None:
    _, old = await enrollment.create_token("ann", timedelta(minutes=5), 1, "")
    world.clock.advance(300)
    await refused(enrollment.enroll(old, "h", _PEM, "", {}), Unauthenticated, "JOIN_TOKEN_EXPIRED")
    token, secret = await enrollment.create_token("ann", None, 1, "")
    wrong = secret[:-4] + ("aaaa" if secret[-4:] != "aaaa" else "bbbb")
    await refused(enrollment.enroll(wrong, "h", _PEM, "", {}), Unauthenticated, "JOIN_TOKEN_UNKNOWN")
    assert (await enrollment.revoke_token(token.id)).revoked
    await refused(enrollment.enroll(secret, "h", _PEM, "", {}), Unauthenticated, "JOIN_TOKEN_REVOKED")
    await refused(enrollment.revoke_token("none"), NotFound)
    await refused(enrollment.create_token("ann", timedelta(days=31), 1, ""), InvalidSpec)
    await refused(enrollment.create_token("ann", None, 1, "nowhere"), NotFound)
    assert world.store.view().count(HOST) == 0
    assert len(enrollment.list_tokens(PageRequest()).items) == 2


async def test_a_join_that_fails_uses_nothing_up(world: World, enrollment: EnrollmentService) -> None:
    """Use, host and certificate are one transaction."""
    _, secret = await enrollment.create_token("ann", None, 1, "")
    await world.host("taken")
    await refused(enrollment.enroll(secret, "taken", _PEM, "", {}), AlreadyExists)
    await refused(enrollment.enroll(secret, "UP", _PEM, "", {"moorage.x": ""}), InvalidSpec)
    await refused(enrollment.enroll(secret, "h", "no request", "new-zone", {}), InvalidSpec)
    assert world.store.view().get(ZONE, "new-zone") is None
    await enrollment.enroll(secret, "h", _PEM, "", {})


async def test_zones_of_those_who_join(world: World, enrollment: EnrollmentService) -> None:
    await world.zones.create("given", "")
    _, free = await enrollment.create_token("ann", None, 2, "")
    _, bound = await enrollment.create_token("ann", None, 2, "given")
    assert (await enrollment.enroll(free, "a", _PEM, "wished", {})).host.zone == "wished"
    assert world.zones.get("wished").name == "zones/wished"
    assert (await enrollment.enroll(bound, "b", _PEM, "wished", {})).host.zone == "given"
    await refused(enrollment.enroll(free, "c", _PEM, "No Zone", {}), InvalidSpec)
    renewed = enrollment.renew(world.hosts.get("a"), _PEM)
    assert certificate_facts(renewed).host_uid == world.hosts.get("a").uid


async def test_zones(world: World) -> None:
    made = await world.zones.create("z", "rack", request_key="k", body=b"x")
    assert await world.zones.create("z", "rack", request_key="k", body=b"x") == made
    await refused(world.zones.create("z", ""), AlreadyExists)
    await refused(world.zones.create("Z", ""), InvalidSpec)
    await world.zones.create("dry", "", validate_only=True)
    assert [z.value.id for z in world.zones.list(PageRequest()).items] == ["z"]
    assert (await world.zones.update("z", None)).description == "rack"
    await world.host("a")
    await world.hosts.update("a", zone="z")
    await refused(world.hosts.update("a", zone="none"), NotFound)
    await refused(world.zones.delete("z"), NotReady, "ZONE_IN_USE")
    await world.hosts.update("a", zone="")
    await refused(world.zones.delete("z", etag=etag_of(made)), VersionConflict)
    await world.zones.delete("z")
    await refused(world.zones.delete("z"), NotFound)
    with pytest.raises(InvalidSpec) as caught:
        world.zones.list(PageRequest(filter="labels.a=b"))
    assert caught.value.reason == "FILTER_INVALID", "zones have no labels"


async def test_labels_cordon_and_listing(world: World) -> None:
    host = await world.host("a")
    await world.host("b")
    changed = await world.hosts.update("a", labels={"disk": "ssd"}, etag=etag_of(host))
    assert changed.labels == {"disk": "ssd"}
    await refused(world.hosts.update("a", labels={"": "x"}), InvalidSpec)
    await refused(world.hosts.set_admin_state("a", HostAdminState.CORDONED, etag_of(host)), VersionConflict)
    await world.hosts.set_admin_state("a", HostAdminState.CORDONED)
    again = await world.hosts.set_admin_state("a", HostAdminState.CORDONED)
    assert again == world.hosts.get("a")
    for terms, expected in {
        "admin_state=CORDONED": ["a"],
        "labels.disk=ssd": ["a"],
        "link_state=UP": ["a", "b"],
        "link_state=UP admin_state=ENABLED": ["b"],
    }.items():
        assert [h.value.id for h in world.hosts.list(PageRequest(filter=terms)).items] == expected
    assert world.reasons() == ["CORDONED"]


async def test_a_host_with_instances_goes_only_by_force(world: World) -> None:
    host = await world.host("a")
    await world.create("i")
    await world.place("i", "a")
    error = await refused(world.hosts.delete("a"), NotReady, "HOST_IN_USE")
    assert error.metadata["instances"] == "1"
    await world.hosts.delete("a", force=True)
    assert world.store.view().count(INSTANCE) == 0
    assert world.reasons()[-2:] == ["LOST", "REMOVED"]
    await refused(world.reports.connect(host.uid, HostFacts(), "n", 1), Unauthenticated, "HOST_REMOVED")


async def test_identity(world: World) -> None:
    host = await world.host("a", is_up=False)
    facts = HostFacts(agent_version="1")
    up = await world.reports.connect(host.uid, facts, "nonce", 5)
    assert (up.link_state, up.nonce, up.epoch, up.facts) == (HostLinkState.UP, "nonce", 5, facts)
    assert etag_of(up) == etag_of(host)
    await world.reports.connect(host.uid, facts, "nonce", 5)
    await refused(world.reports.connect(host.uid, facts, "other", 6), VersionConflict, "HOST_IDENTITY_TAKEN")
    await refused(world.reports.connect(host.uid, facts, "nonce", 4), VersionConflict, "HOST_IDENTITY_TAKEN")
    assert world.reasons() == ["UP"]


async def test_facts_that_other_hosts_could_not_work_with(world: World) -> None:
    host = await world.host("a")
    for facts in (HostFacts(underlay_address="nowhere"), HostFacts(vxlan_port=70000), HostFacts(vxlan_port=-1)):
        await refused(world.reports.connect(host.uid, facts, "n", 1), InvalidSpec)
        await refused(world.reports.heartbeat(host.uid, [], [], "", facts), InvalidSpec)
    assert world.hosts.get("a") == host


async def test_heartbeats_write_only_news(world: World) -> None:
    host = await world.host("a")
    full = HostCondition("DISK_PRESSURE", "full")
    item = QuarantinedItem("container", "x", "no label")
    await world.reports.heartbeat(host.uid, [full], [item], "too much", None)
    changed = world.hosts.get("a")
    assert (changed.conditions, changed.quarantined, changed.sweep_brake) == ((full,), (item,), "too much")
    revision = world.store.view().revision
    await world.reports.heartbeat(host.uid, [full], [item], "too much", None)
    await world.reports.heartbeat("nobody", [full], [], "", None)
    assert world.store.view().revision == revision
    await world.reports.heartbeat(host.uid, [], [], "", HostFacts(kernel="6"))
    assert world.hosts.get("a").facts.kernel == "6"
    assert world.reasons() == ["DISK_PRESSURE", "SWEEP_HELD"]


async def test_reports_in_order(world: World) -> None:
    await world.host("a")
    await world.create("i")
    one = await world.place("i", "a")

    async def seen(state: InstanceState, **fields: int) -> InstanceState:
        await world.report(one, state, **fields)
        return world.get("i").observed.state

    assert await seen(InstanceState.RUNNING, run=2, sequence=7) is InstanceState.RUNNING
    assert await seen(InstanceState.FAILED, run=2, sequence=7) is InstanceState.RUNNING, "the same again"
    assert await seen(InstanceState.FAILED, run=2, sequence=6) is InstanceState.RUNNING, "an older one"
    assert await seen(InstanceState.FAILED, run=1, sequence=9) is InstanceState.RUNNING, "an older run"
    assert await seen(InstanceState.PAUSED, run=2, sequence=8) is InstanceState.PAUSED
    assert await seen(InstanceState.RUNNING, run=2, sequence=9) is InstanceState.RUNNING
    assert await seen(InstanceState.STARTING, run=3, sequence=10) is InstanceState.STARTING
    assert await seen(InstanceState.RUNNING, run=3, sequence=1, epoch=2) is InstanceState.RUNNING, "a newer agent"
    assert await seen(InstanceState.FAILED, run=9, sequence=9, epoch=1) is InstanceState.RUNNING, "an older agent"


async def test_what_people_read_about(world: World) -> None:
    await world.host("a")
    await world.create("i")
    one = await world.place("i", "a")
    await world.report(one, InstanceState.RUNNING, sequence=1, started_at=1.5, container_id="c")
    await world.report(one, InstanceState.RUNNING, sequence=2, health="unhealthy")
    await world.report(one, InstanceState.RUNNING, sequence=3, health="unhealthy")
    await world.report(one, InstanceState.FAILED, sequence=4, oom_killed=True, exit_code=137, message="killed")
    await world.report(one, InstanceState.STOPPED, sequence=5, oom_killed=True, run=2)
    assert world.reasons()[1:] == ["RUNNING", "UNHEALTHY", "OOM_KILLED", "FAILED", "STOPPED"]
    events = world.events.list(P, PageRequest(filter="severity=warning")).items
    assert {e.value.reason for e in events} == {"UNHEALTHY", "OOM_KILLED", "FAILED"}


async def test_only_its_own_host_is_heard(world: World) -> None:
    await world.host("a")
    await world.host("b")
    await world.create("i")
    one = await world.place("i", "a")
    for state in (InstanceState.RUNNING, InstanceState.DELETED):
        await world.report(replace(one, host_uid="uid-b"), state, run=5, sequence=5)
    assert world.get("i") == one


async def test_gone_counts_only_when_it_was_asked_for(world: World) -> None:
    await world.host("a")
    await world.create("i")
    one = await world.place("i", "a")
    await world.report(one, InstanceState.DELETED, sequence=1)
    assert world.get("i").desired is DesiredState.RUNNING
    await world.instances.delete(P, ["i"])
    await world.report(one, InstanceState.DELETED, sequence=2)
    with pytest.raises(NotFound):
        world.get("i")
    await world.report(one, InstanceState.DELETED, sequence=3)
    await world.report(one, InstanceState.RUNNING, sequence=4)
    assert world.store.view().count(INSTANCE) == 0


async def test_link_states(world: World) -> None:
    host = await world.host("a")
    await world.reports.set_link(host.uid, HostLinkState.DISCONNECTED, "lost")
    revision = world.store.view().revision
    await world.reports.set_link(host.uid, HostLinkState.DISCONNECTED, "lost")
    await world.reports.set_link("nobody", HostLinkState.DOWN, "x")
    assert world.store.view().revision == revision
    assert world.hosts.get("a").link_change_time == world.clock.now()
    (event,) = world.events.list("", PageRequest()).items
    assert (event.value.reason, event.value.severity, event.value.message) == ("DISCONNECTED", "warning", "lost")


async def test_a_machine_whose_answer_was_lost_asks_again(enrollment: EnrollmentService) -> None:
    _, secret = await enrollment.create_token("ann", None, 1, "")
    first = await enrollment.enroll(secret, "h1", _PEM, "", {})
    again = await enrollment.enroll(secret, "h1", _PEM, "", {})
    assert again.host.uid == first.host.uid
    _, other_request = generate_request("another machine")
    await refused(
        enrollment.enroll(secret, "h1", other_request.decode(), "", {}), Unauthenticated, "JOIN_TOKEN_USED_UP"
    )

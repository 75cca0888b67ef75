"""Projects, members, keys, history, and pages of all of it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane import history
from controlplane.access import keys
from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.access.roles import Caller, Role
from controlplane.domain.hosts import Zone
from controlplane.domain.kinds import ALL_KINDS, API_KEY, AUDIT_EVENT, EVENT, MEMBER, OPERATION, PROJECT, REQUEST, ZONE
from controlplane.domain.operations import AuditEvent, Event, Operation, OperationState
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest, label_field, list_page
from controlplane.services.projects import ProjectService
from moorage.clock import ManualClock
from moorage.errors import AlreadyExists, Forbidden, InvalidSpec, MoorageError, NotFound, NotReady, Unauthenticated
from moorage.store import MemoryStore
from moorage.store.base import Transaction
from tests.unit.controlplane.test_templates import new_template
from tests.unit.controlplane.world import P, World


async def refused(call: Any, kind: type[MoorageError], reason: str = "") -> Any:
    with pytest.raises(kind) as caught:
        await call
    assert not reason or caught.value.reason == reason
    return caught.value


async def test_the_first_project() -> None:
    store = MemoryStore(ALL_KINDS)
    projects = ProjectService(Context(store, ManualClock()))
    await projects.ensure_default()
    await projects.ensure_default()
    assert [p.value.id for p in store.view().all(PROJECT)] == ["default"]
    await projects.create("other", "", Quota(), ProjectPolicy())
    await projects.delete("default")
    await projects.ensure_default()
    assert [p.value.id for p in store.view().all(PROJECT)] == ["other"], "one that was deleted stays away"
    await store.close()


async def test_projects(world: World) -> None:
    made = await world.projects.create("p", "d", Quota(instances=1), ProjectPolicy(), request_key="k", body=b"x")
    assert await world.projects.create("p", "", Quota(), ProjectPolicy(), request_key="k", body=b"x") == made
    await refused(world.projects.create("p", "", Quota(), ProjectPolicy()), AlreadyExists)
    await refused(world.projects.create("-", "", Quota(), ProjectPolicy()), InvalidSpec)
    await world.projects.create("dry", "", Quota(), ProjectPolicy(), validate_only=True)
    changed = await world.projects.update("p", description="", etag=etag_of(made))
    assert (changed.description, changed.quota) == ("", Quota(instances=1))
    await refused(world.projects.update("p", etag=etag_of(made)), MoorageError, "ETAG_MISMATCH")
    assert [p.value.id for p in world.projects.list(PageRequest(), None).items] == [P, "p"]
    assert [p.value.id for p in world.projects.list(PageRequest(), frozenset({"p"})).items] == ["p"]
    with pytest.raises(InvalidSpec):
        world.projects.list(PageRequest(filter="labels.a=b"), None)


async def test_a_project_goes_only_when_it_is_empty(world: World) -> None:
    await world.projects.create("p", "", Quota(), ProjectPolicy())
    operation, _ = await world.templates.create("p", new_template("t"), "ann")
    error = await refused(world.projects.delete("p"), NotReady, "PROJECT_IN_USE")
    assert "templates" in error.message
    assert "running operations" in error.message
    await world.templates.fail(operation, NotFound("no such image"))
    await world.projects.set_member("p", "ann", Role.ADMIN)
    await world.projects.delete("p")
    view = world.store.view()
    assert not view.range(MEMBER, "", 10, "p/")
    assert not view.range(EVENT, "", 10, "p/"), "the next of this name sees nothing of this one"
    with pytest.raises(NotFound):
        world.operations.get("p", operation.uid)
    await refused(world.projects.delete("p"), NotFound)


async def test_members(world: World) -> None:
    one = await world.projects.set_member(P, "ann", Role.VIEWER)
    two = await world.projects.set_member(P, "ann", Role.ADMIN)
    assert (one.generation, two.generation, two.role) == (1, 2, Role.ADMIN)
    for user in ("", "a/b", "x" * 129):
        await refused(world.projects.set_member(P, user, Role.ADMIN), InvalidSpec)
    await refused(world.projects.set_member("none", "ann", Role.ADMIN), NotFound)
    await world.projects.set_member(P, "bob", Role.VIEWER)
    page = world.projects.members(P, PageRequest(page_size=1))
    assert [m.value.user for m in page.items] == ["ann"]
    rest = world.projects.members(P, PageRequest(page_size=1, page_token=page.next_page_token))
    assert [m.value.user for m in rest.items] == ["bob"]
    await world.projects.delete_member(P, "ann")
    await refused(world.projects.delete_member(P, "ann"), NotFound)


async def test_keys_and_callers(world: World) -> None:
    text = await world.access.ensure_admin()
    assert text is not None
    assert await world.access.ensure_admin() is None, "only where there is no key at all"
    admin = world.access.authenticate(f"Bearer {text}")
    assert (admin.user, admin.fleet_admin) == ("admin", True)
    end = world.clock.now() + timedelta(hours=1)
    record, secret = await world.access.create(admin, "ann", "laptop", end, False)
    await world.projects.set_member(P, "ann", Role.OPERATOR)
    ann = world.access.authenticate(secret)
    assert ann == Caller("ann", False, {P: Role.OPERATOR}, record.id)
    found = world.store.view().get(API_KEY, record.id)
    assert found is not None
    assert keys.parse(secret).secret not in (found.value.id, found.value.secret_hash)
    await refused(world.access.create(ann, "bob", "", None, False), Forbidden)
    await refused(world.access.create(ann, "", "", None, True), Forbidden)
    await refused(world.access.create(admin, "a/b", "", None, False), InvalidSpec)
    await refused(world.access.create(ann, "", "", world.clock.now(), False), InvalidSpec)
    own, _ = await world.access.create(ann, "", "second", None, False)
    assert {k.value.id for k in world.access.list(ann, PageRequest()).items} == {record.id, own.id}
    assert len(world.access.list(admin, PageRequest()).items) == 3
    await refused(world.access.delete(ann, admin.key_id), NotFound)
    await world.projects.delete_member(P, "ann")
    assert world.access.authenticate(secret).roles == {}, "roles are those of now"
    world.clock.advance(3600)
    with pytest.raises(Unauthenticated) as caught:
        world.access.authenticate(secret)
    assert caught.value.reason == "KEY_EXPIRED"
    await world.access.delete(ann, record.id)
    with pytest.raises(Unauthenticated) as caught:
        world.access.authenticate(secret)
    assert caught.value.reason == "KEY_UNKNOWN"


async def test_history_is_bounded(world: World) -> None:
    def write(tx: Transaction) -> None:
        for number in range(30):
            now = world.clock.now()
            uid = f"{number:04}"
            # Keys of events begin with the project; age must count, not that.
            tx.put(EVENT, Event(uid, "z" if number < 20 else "a", now, "t", "R", ""))
            tx.put(AUDIT_EVENT, AuditEvent(uid, now, "u", "k", "m", "t", "OK", "p"))

    await world.store.update(write)
    assert await world.store.update(lambda tx: history.trim(tx, 12)) == 36
    assert await world.store.update(lambda tx: history.trim(tx, 12)) == 0
    view = world.store.view()
    expected = [f"{number:04}" for number in range(18, 30)]
    assert sorted(e.value.uid for e in view.all(EVENT)) == expected
    assert [e.value.uid for e in view.all(AUDIT_EVENT)] == expected


def test_ids_of_events_rise() -> None:
    """Also within a millisecond: what one transaction tells of is told in its order."""
    ids = [history.time_id() for _ in range(500)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 500


async def test_request_ids_are_forgotten_after_a_day(world: World) -> None:
    await world.store.update(lambda tx: lookup.remember(tx, "k1", b"x", ("n",), world.clock.now()))
    world.clock.advance(3600)
    await world.store.update(lambda tx: lookup.remember(tx, "k2", b"x", ("n",), world.clock.now()))
    world.clock.advance(23 * 3600 + 1)
    assert await world.store.update(lambda tx: lookup.forget_old_requests(tx, world.clock.now())) == 1
    assert [r.value.key for r in world.store.view().all(REQUEST)] == ["k2"]


async def test_pages(world: World) -> None:
    for number in range(7):
        await world.zones.create(f"z{number}", "")
    view = world.store.view()

    def page(**fields: Any) -> Any:
        return list_page(view, ZONE, PageRequest(**fields), scope="zones")

    first = page(page_size=3)
    assert [z.value.id for z in first.items] == ["z0", "z1", "z2"]
    await world.zones.delete("z2")
    await world.zones.create("z1b", "")
    view = world.store.view()
    second = page(page_size=3, page_token=first.next_page_token)
    assert [z.value.id for z in second.items] == ["z3", "z4", "z5"], "what comes and goes shifts nothing"
    third = page(page_size=3, page_token=second.next_page_token)
    assert [z.value.id for z in third.items] == ["z6"]
    assert third.next_page_token == ""
    with pytest.raises(InvalidSpec) as caught:
        page(page_size=-1)
    assert caught.value.reason == "OUT_OF_RANGE"
    for token in ("x", "é", "####"):
        with pytest.raises(InvalidSpec) as caught:
            page(page_token=token)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"
    with pytest.raises(InvalidSpec) as caught:
        list_page(view, ZONE, PageRequest(page_token=first.next_page_token), scope="other")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_pages_together_are_the_whole(shown: list[bool], size: int) -> None:
    async def check() -> None:
        store = MemoryStore((ZONE,))
        now = ManualClock().now()
        records = [Zone(f"u{n}", f"z{n:02}", now, "yes" if show else "no") for n, show in enumerate(shown)]

        def write(tx: Transaction) -> None:
            for record in records:
                tx.put(ZONE, record)

        await store.update(write)
        found: list[str] = []
        token = ""
        for _ in range(len(shown) + 2):
            page = list_page(
                store.view(),
                ZONE,
                PageRequest(size, token, "shown=yes"),
                scope="s",
                names=("shown",),
                fields=lambda zone, name: zone.description,
            )
            assert len(page.items) <= size
            found += [item.value.id for item in page.items]
            token = page.next_page_token
            if not token:
                break
        assert found == [r.id for r in records if r.description == "yes"]
        assert token == ""
        await store.close()

    asyncio.run(check())


def test_labels_as_terms() -> None:
    assert label_field({"a.b/c": "x"}, "labels.a.b/c") == "x"
    assert label_field({}, "labels.a") is None


async def test_ended_operations_are_bounded_and_running_ones_stay(world: World) -> None:
    now = world.clock.now()

    def fill(tx: Transaction) -> None:
        for number in range(6):
            ended = None if number == 0 else now + timedelta(seconds=number)
            state = OperationState.RUNNING if number == 0 else OperationState.SUCCEEDED
            tx.put(OPERATION, Operation(f"o{number}", P, "register", "t", now, state=state, end_time=ended))

    await world.store.update(fill)
    assert await world.store.update(lambda tx: history.trim_operations(tx, 2)) == 3
    assert [found.value.uid for found in world.store.view().all(OPERATION)] == ["o0", "o4", "o5"]

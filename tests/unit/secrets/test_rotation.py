"""A later version comes to those that want it, once, and in the way that they want it."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.instances import DesiredState, Instance, InstanceSpec
from controlplane.domain.kinds import INSTANCE
from controlplane.domain.secrets import Config, ConfigUse, OnRotate, Pin, Secret, SecretUse, SecretVersionState
from controlplane.rotation.loop import Rotation
from controlplane.rotation.plan import Evict, Repin, plan
from controlplane.services.secrets import SecretService
from moorage.store.base import Transaction
from tests.unit.controlplane.world import P, World

RESTART = SecretUse("db", on_rotate=OnRotate.RESTART)
SIGNAL = SecretUse("db", on_rotate=OnRotate.SIGNAL)
KEEP = SecretUse("db")


def instance(*uses: SecretUse, **fields: Any) -> Instance:
    spec = InstanceSpec(secrets=uses)
    values = {"host_uid": "h", "pins": tuple(Pin("s", 1) for _ in uses), **fields}
    return Instance("u", "p", "i", None, spec, spec, "t", "image", (), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (instance(RESTART), Repin((Pin("s", 2),), True, "version 2 of db")),
        (instance(SIGNAL), Repin((Pin("s", 2),), False, "version 2 of db")),
        (instance(RESTART, host_uid=""), Repin((Pin("s", 2),), False, "version 2 of db")),
        (instance(RESTART, desired=DesiredState.STOPPED), Repin((Pin("s", 2),), False, "version 2 of db")),
        (instance(RESTART, owner="projects/p/groups/g"), Evict("it shall have version 2 of db")),
        (instance(SIGNAL, owner="projects/p/groups/g"), Repin((Pin("s", 2),), False, "version 2 of db")),
        (instance(RESTART, owner="projects/p/groups/g", evict="its host is drained"), None),
        (instance(RESTART, owner="projects/p/jobs/j"), None),
        (instance(RESTART, desired=DesiredState.DELETED), None),
        (instance(RESTART, given_up="its host is lost"), None),
    ],
)
def test_what_is_done(found: Instance, wanted: Repin | Evict | None) -> None:
    latest = tuple(Pin("s", 2) for _ in found.pins)
    assert plan(found, latest) == wanted
    assert plan(found, found.pins) is None, "nothing to do without news"
    if isinstance(wanted, Repin):
        assert plan(replace(found, pins=wanted.pins), latest) is None
    if isinstance(wanted, Evict):
        assert plan(replace(found, evict=wanted.why), latest) is None


async def test_all_users_once(world: World, secrets: SecretService[Secret], configs: SecretService[Config]) -> None:
    await secrets.create(P, "db", {}, "", b"1")
    await configs.create(P, "c", {}, "", b"1")
    made = {
        name: await world.create(name, secrets=(use,))
        for name, use in {"restart": RESTART, "signal": SIGNAL, "keep": KEEP, "fixed": SecretUse("db", 1)}.items()
    }
    made["config"] = await world.create("config", configs=(ConfigUse("c", on_rotate=OnRotate.SIGNAL),))
    await world.host("h1")
    for name in made:
        await world.place(name, "h1")
    rotation = Rotation(world.context)
    await rotation.reconcile_once()
    revision = world.store.view().revision
    await rotation.reconcile_once()
    assert world.store.view().revision == revision, "nothing to do"
    await secrets.add_version(P, "db", b"2")
    await configs.add_version(P, "c", b"2")
    await rotation.reconcile_once()
    await rotation.reconcile_once()
    told = {
        name: (world.get(name).pins[0].version, world.get(name).run_request, world.get(name).generation)
        for name in made
    }
    assert told == {
        "restart": (2, 2, 2),
        "signal": (2, 1, 2),
        "keep": (1, 1, 1),
        "fixed": (1, 1, 1),
        "config": (2, 1, 2),
    }
    assert world.reasons().count("ROTATED") == 3
    await secrets.set_state(P, "db", "2", SecretVersionState.DISABLED)
    await rotation.reconcile_once()
    assert world.get("signal").pins[0].version == 2, "never back to an earlier one"


async def test_a_member_of_a_group_is_to_be_replaced(world: World, secrets: SecretService[Secret]) -> None:
    await secrets.create(P, "db", {}, "", b"1")
    made = await world.create("web", secrets=(RESTART,))

    def own(tx: Transaction) -> None:
        tx.put(INSTANCE, replace(made, owner=f"projects/{P}/groups/g"))

    await world.store.update(own)
    await secrets.add_version(P, "db", b"2")
    await Rotation(world.context).reconcile_once()
    assert world.get("web").evict == f"it shall have version 2 of projects/{P}/secrets/db"

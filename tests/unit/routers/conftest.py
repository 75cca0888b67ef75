from collections.abc import AsyncIterator

import pytest

from controlplane.access.quota import Quota
from controlplane.domain.kinds import PROJECT, TEMPLATE
from controlplane.domain.networks import NetworkKind
from controlplane.domain.projects import Project
from controlplane.router_members.loop import RouterMembers
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.instance_making import InstanceMaking
from moorage.store.base import Transaction
from tests.support.controlplane import ready_template
from tests.unit.controlplane.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A project with the networks back, front and outside, a host, and the template of routers in the project system."""
    world = await World().begin()

    def write(tx: Transaction) -> None:
        tx.put(PROJECT, Project("uid-system", "system", world.clock.now(), usage=Quota(templates=1)))
        tx.put(TEMPLATE, ready_template("system", "router", world.clock.now(), repository="uid-system/router"))

    await world.store.update(write)
    await world.network("back", "10.1.0.0/24")
    await world.network("front", "10.2.0.0/24")
    await world.network("outside", "198.51.100.0/24", kind=NetworkKind.ISOLATED, egress=True)
    await world.host("h1")
    yield world
    await world.store.close()


@pytest.fixture
def members(world: World) -> RouterMembers:
    """What looks after the containers of routers."""
    claims = InstanceClaims(world.context)
    return RouterMembers(world.context, claims, InstanceMaking(world.context, claims))

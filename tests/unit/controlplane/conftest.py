"""One world for each test; whatever a test did, addresses and usage must agree with what there is."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.controlplane.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = await World().begin()
    yield world
    world.audit()
    await world.store.close()

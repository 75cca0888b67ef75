from collections.abc import AsyncIterator

import pytest

from tests.unit.controlplane.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A project with a template and two hosts."""
    world = await World().begin()
    await world.host("h1")
    await world.host("h2")
    yield world
    await world.store.close()

"""A started registry per module, and a client on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.registry.client import RegistryClient
from tests.integration.registry.bed import RegistryBed, require_registry


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[RegistryBed]:
    """A real registry, ended afterwards whatever happens."""
    require_registry()
    bed = RegistryBed(tmp_path)
    await bed.registry.start()
    try:
        yield bed
    finally:
        await bed.registry.stop()


@pytest.fixture
async def client(bed: RegistryBed) -> AsyncIterator[RegistryClient]:
    """A client with every permission."""
    async with bed.new_session() as session:
        yield bed.new_client(session)

"""A control plane for each test; keys and certificates are made once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.controlplane import Plane, running


@pytest.fixture(scope="session")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def plane(keys_folder: Path) -> AsyncIterator[Plane]:
    async with running(keys_folder) as plane:
        yield plane

"""Fixtures of the fabric's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.netlink.bed import Bed, Host, require_namespaces


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    """An underlay with nothing on it but the outsider."""
    require_namespaces()
    made = Bed()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def host(bed: Bed) -> Host:
    """One host, 192.168.77.1."""
    return await bed.host(1)


@pytest.fixture
async def other(bed: Bed) -> Host:
    """A second host, 192.168.77.2."""
    return await bed.host(2)

"""An instance under leases, with a real engine, a real network and a real watchdog."""

import pytest

from tests.integration.hostagent.test_real_host import RealHost
from tests.integration.hostagent.test_real_host import real_host as real_host

pytestmark = [pytest.mark.root, pytest.mark.docker]


async def test_it_ends_with_its_lease_and_goes_on_with_another(real_host: RealHost) -> None:
    """By the agent while there is one, by the watchdog when there is none; each time in the same container."""
    seen = await real_host.drive("leased")
    assert seen["reason"] == "LEASE_LOST"
    assert seen["runs"] == [1, 2, 3]
    assert seen["same_container"]
    assert seen["ended_seconds"] < 4
    assert "eth0" in seen["links"]
    assert seen["left"] == {"containers": 0, "namespaces": 0, "strays": 0, "keys": 0}

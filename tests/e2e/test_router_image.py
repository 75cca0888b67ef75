"""The router's image, made as an operator makes it: built by a host of the fleet of this machine's packages, and run."""

import shutil

import pytest

from cli.dev.fleet import Fleet
from moorage.v1 import templates_pb2
from tests.e2e.conftest import connect, moor
from tests.support.plane import Plane

SYSTEM = "projects/system"


async def test_registered_once_and_run(fleet: Fleet, plane: Plane) -> None:
    """`moor router-image register` twice makes one image, and its first process carries out requests."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("making a base of this machine's packages needs mmdebstrap")
    assert moor(fleet, "router-image", "register") == f"{SYSTEM}/templates/router\n"
    async with connect(fleet) as client:
        request = templates_pb2.GetTemplateRequest(name=f"{SYSTEM}/templates/router")
        made = await client.templates.GetTemplate(request)
        assert made.status.state == templates_pb2.TEMPLATE_STATE_READY
        moor(fleet, "router-image", "register")
        assert (await client.templates.GetTemplate(request)).uid == made.uid

        system = Plane(client, "router", SYSTEM)
        try:
            await system.run({"try": system.spec(command=[])})
            ask = "cd /run/moorage-router; echo a1 check haproxy >control; until cat answers/a1; do sleep 0.1; done"
            code, output = await system.exec("try", ["/bin/sh", "-c", f"{ask} 2>/dev/null; cat status/contract"])
            assert (code, output.split("\n")[-2]) == (0, "1"), output
            assert "there is no file /run/moorage-router/haproxy/haproxy.cfg" in output
            for words in (["haproxy", "-v"], ["dnsmasq", "-v"], ["keepalived", "-v"], ["ip", "-V"]):
                code, output = await system.exec("try", words)
                assert code == 0, output
        finally:
            await system.clean(keep=["router", "router-base"])

"""One fleet for all tests of this folder: three hosts, one template `web`, and a clean project after each test."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.rootfs import demo_rootfs
from moorage.client import Client
from tests.support.fleet import fleet as fleet
from tests.support.fleet import in_own_loop
from tests.support.plane import Plane, pieces_of

TEMPLATE = "web"


def connect(fleet: Fleet, api_key: str | None = None) -> Client:
    """A client of the fleet's control plane, as its first administrator unless another key is given."""
    access = fleet.access()
    key = access.api_key if api_key is None else api_key
    return Client.connect(access.address, api_key=key, ca_file=access.ca_file)


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tar of a small root file system."""
    return demo_rootfs(tmp_path_factory.mktemp("rootfs") / "web.tar")


@pytest.fixture(scope="session")
def _template(fleet: Fleet, rootfs: Path) -> str:
    async def register() -> None:
        async with connect(fleet) as client:
            plane = Plane(client)
            await plane.finish(await plane.upload(TEMPLATE, pieces_of(rootfs)))

    in_own_loop(register())
    return TEMPLATE


@pytest.fixture
async def plane(fleet: Fleet, _template: str) -> AsyncIterator[Plane]:
    """The API; all that a test makes in the project is gone after it."""
    async with connect(fleet) as client:
        made = Plane(client, _template)
        yield made
        await made.clean(keep=[_template])


@pytest.fixture
def hosts(fleet: Fleet) -> list[Host]:
    """The running hosts, in order."""
    return fleet.hosts()


@pytest.fixture(scope="session")
def router_image(fleet: Fleet) -> None:
    """The template that routers are made from, registered as an operator does it."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("making a base of this machine's packages needs mmdebstrap")
    moor(fleet, "router-image", "register")


def moor(fleet: Fleet, *words: str) -> str:
    """What a command of moor prints as the fleet's administrator."""
    done = run_moor(fleet, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_moor(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of moor as the fleet's administrator, however it ends."""
    access = fleet.access()
    return subprocess.run(
        [sys.executable, "-c", "from cli.main import main; main()", *words],
        env={
            **os.environ,
            "MOORAGE_ADDRESS": access.address,
            "MOORAGE_API_KEY": access.api_key,
            "MOORAGE_CA_FILE": str(access.ca_file),
        },
        check=False,
        capture_output=True,
        text=True,
    )

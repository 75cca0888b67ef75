"""The agent's part of a redundant pair against the entrypoint and real keepalived, in a network with nobody else."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.router_image.recipe import context_folder
from hostagent.router import keepalived
from hostagent.router.pair import PairApplier
from hostagent.router.roles import read_role
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import LegBundle, PairBundle, RouterBundle, RouterRole
from tests.integration.router_image.router_bed import Router, require, until

PAIR = PairBundle(1, 200, "10.1.0.11", "10.1.0.12")
LEG = LegBundle(NetworkId("back"), "eth1", ("10.1.0.0/24",), ("10.1.0.1",))
BUNDLE = RouterBundle(InstanceId("r1"), 1, legs=(LEG,), pair=PAIR)
NETWORK = (
    "ip link set lo up; ip link add eth1 type veth peer name other; ip link set other up; ip link set eth1 up; "
    "ip addr add 10.1.0.11/24 dev eth1"
)


@pytest.fixture
def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    require("keepalived", "unshare", "ip")
    folder = tmp_path / "router"
    folder.mkdir()
    script = tmp_path / "router-role"
    shutil.copy(context_folder() / "router-role", script)
    script.chmod(0o755)
    monkeypatch.setattr(keepalived, "ROLE_SCRIPT", str(script))
    made = Router(folder, ("sh",), prepare=NETWORK)
    yield made
    made.kill()


@pytest.fixture
def applier(router: Router) -> PairApplier:
    return PairApplier(lambda _: router.folder)


def role(router: Router, bundle: RouterBundle) -> RouterRole:
    return read_role(bundle, lambda _: router.folder)


async def test_a_member_of_a_pair_runs_keepalived_and_says_what_it_is(router: Router, applier: PairApplier) -> None:
    assert await applier.apply(BUNDLE) is None  # there is no container yet
    assert role(router, BUNDLE) is RouterRole.UNSPECIFIED
    router.start()
    until(lambda: role(router, BUNDLE) is RouterRole.ACTIVE, "it does not become active")
    starts = router.status("keepalived")["starts"]

    more = replace(BUNDLE, version=2, legs=(replace(LEG, addresses=("10.1.0.1", "10.1.0.2")),))
    assert await applier.apply(more) is None
    assert await applier.apply(more) is None
    assert role(router, more) is RouterRole.ACTIVE
    assert router.status("keepalived")["starts"] == starts

    assert await applier.apply(replace(BUNDLE, version=3, pair=None)) is None
    assert router.status("keepalived")["state"] == "STOPPED"
    assert role(router, replace(BUNDLE, pair=None)) is RouterRole.ACTIVE  # an only one


async def test_what_keepalived_does_not_take_is_said_in_its_words(router: Router, applier: PairApplier) -> None:
    router.start()
    assert await applier.apply(BUNDLE) is None
    good = (router.folder / "keepalived/keepalived.conf").read_text()
    words = await applier.apply(replace(BUNDLE, pair=replace(PAIR, virtual_id=300)))
    assert words is not None
    assert "300" in words
    assert (router.folder / "keepalived/keepalived.conf").read_text() == good
    until(lambda: role(router, BUNDLE) is RouterRole.ACTIVE, "what was there does not go on")


async def test_a_killed_keepalived_is_back_and_its_child_is_not(router: Router, applier: PairApplier) -> None:
    router.start()
    assert await applier.apply(BUNDLE) is None
    until(lambda: role(router, BUNDLE) is RouterRole.ACTIVE, "it does not become active")
    os.kill(router.outside("keepalived"), signal.SIGKILL)
    until(lambda: router.status("keepalived")["starts"] == "2", "keepalived was not started again")
    until(lambda: role(router, BUNDLE) is RouterRole.ACTIVE, "it does not become active again")
    assert router.is_running("keepalived")
    assert router.status("keepalived")["exit"] == "137"

"""The box starts, kills and revives the programs beside the engines; others stand in for control plane and agent."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cli.dev.fleet import Fleet
from cli.dev.programs import Access, Programs, controlplane_is_ready
from moorage.errors import NotReady
from tests.support.fleet import OWN, box

pytestmark = [pytest.mark.root, pytest.mark.docker]
_MODULE = "tests.integration.box.fake_program"


@pytest.fixture
def tokens() -> list[int]:
    """How many uses were asked for at each request of a join token."""
    return []


@pytest.fixture
def fleet(tokens: list[int]) -> Iterator[Fleet]:
    """Two hosts, not up yet, with stand-ins."""

    async def join_token(access: Access, uses: int) -> str:
        tokens.append(uses)
        return f"{access.api_key}-token"

    async def agent_ready(access: Access, host: str) -> bool:
        return (made.config.directory / "hosts" / host / "agent/facts.json").exists()

    programs = Programs(
        controlplane=lambda file: [sys.executable, "-m", _MODULE, "controlplane", str(file)],
        agent=lambda file: [sys.executable, "-m", _MODULE, "agent", str(file)],
        controlplane_ready=controlplane_is_ready,
        agent_ready=agent_ready,
        join_token=join_token,
    )
    with box(2, programs=programs) as made:
        yield made


async def test_programs_run_where_they_belong_and_survive_what_they_should(fleet: Fleet, tokens: list[int]) -> None:
    await fleet.up()
    status = await fleet.status()
    assert status.controlplane_pid
    assert all(host.pids["agent"] for host in status.hosts)
    plan = fleet.config.host(2)
    facts = json.loads((plan.agent_data / "facts.json").read_text())
    assert facts["host"] == "h2"
    assert {"eth0", "docker0"} <= set(facts["links"])
    assert facts["token"] == "key-token"
    config = yaml.safe_load((plan.folder / "agent.yaml").read_text())
    assert config["control_plane"] == f"{fleet.config.machine_address}:{OWN.loopback_port}"
    assert config["underlay_address"] == plan.address
    assert (plan.folder / "agent.yaml").stat().st_mode & 0o777 == 0o600

    await fleet.kill("controlplane")
    await fleet.kill("h1")
    after = await fleet.status()
    assert after.controlplane_pid is None
    assert [host.pids["agent"] is None for host in after.hosts] == [True, False]
    await fleet.start("controlplane")
    await fleet.start("h1")
    await fleet.up()
    again = await fleet.status()
    assert again.controlplane_pid not in (None, status.controlplane_pid)
    assert again.hosts[1].pids == status.hosts[1].pids
    assert tokens == [2]  # a host joins once


async def test_a_program_that_ends_at_once_is_reported_with_its_own_words(fleet: Fleet) -> None:
    broken = Programs(
        controlplane=lambda file: ["sh", "-c", "echo the disk is on fire; exit 1"],
        controlplane_ready=controlplane_is_ready,
    )
    with pytest.raises(NotReady, match="the disk is on fire"):
        await Fleet(fleet.config, programs=broken).up()
    assert not Path(fleet.config.records, "h1-agent").exists()

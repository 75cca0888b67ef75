"""A lease that changes while its instance goes."""

import asyncio
import time
from pathlib import Path
from typing import Any

from hostagent.domain import InstanceAssignment
from hostagent.executor.executor import Executor
from hostagent.executor.host_state import HostState, NamespaceState
from hostagent.journal.journal import AssignmentChange, Journal
from moorage.clock import ManualClock
from moorage.ids import InstanceId
from tests.unit.worker.world import assignment

ID = InstanceId("i1")


class Fabric:
    """Says when a removal has begun, and lets it end when told."""

    def __init__(self) -> None:
        self.removing, self.go_on = asyncio.Event(), asyncio.Event()
        self.plugged = 0

    async def ensure_instance(self, *_arguments: object) -> Path:
        self.plugged += 1
        return Path("/nowhere")

    async def remove_instance(self, _instance_id: InstanceId) -> None:
        self.removing.set()
        await self.go_on.wait()


class Quiet:
    """Neither names nor leases, of addresses or of claims."""

    async def release(self, _instance_id: InstanceId) -> None:
        return

    def leases(self, _instance_id: InstanceId) -> dict[str, object]:
        return {}

    def close(self, _instance_id: InstanceId) -> None:
        return

    def require(self, _assignment: InstanceAssignment) -> None:
        return


async def test_it_does_not_make_the_namespace_again(tmp_path: Path) -> None:
    journal, fabric, quiet = Journal.open(tmp_path, now=time.time()), Fabric(), Quiet()
    others: Any = dict.fromkeys(
        ("engine", "keys", "files", "secrets", "fetch_payloads", "peer_lines", "on_prepared", "devices", "volumes")
    )
    others |= {"runtime": "", "boot_id": "", "clock": ManualClock()}
    state = HostState(nonce="n")
    parts: Any = {
        "fabric": fabric,
        "names": quiet,
        "leases": quiet,
        "claims": quiet,
        "journal": journal,
        "state": state,
        **others,
    }
    executor = Executor(**parts)
    wanted = assignment()
    journal.apply(AssignmentChange(False, 1, 1, (wanted,)), now=0)
    state.namespaces[ID] = NamespaceState(Path("/nowhere"), wanted.nics, ())
    await executor.apply_leases(ID)
    assert fabric.plugged == 1
    removal = asyncio.create_task(executor.remove_namespace(ID))
    await asyncio.wait_for(fabric.removing.wait(), 5)
    await executor.apply_leases(ID)
    assert fabric.plugged == 1
    fabric.go_on.set()
    await removal
    assert ID not in state.namespaces
    journal.close()

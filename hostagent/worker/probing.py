"""Which process of an instance is probed, from the same view that the planner sees. Pure."""

from collections.abc import Sequence

from hostagent.domain import ContainerPhase, DesiredState
from hostagent.journal.state import RunStage
from hostagent.probes.checks import Target
from hostagent.probes.loop import Watched
from hostagent.worker.actions import Action, Stop
from hostagent.worker.plan import InstanceView


def watched(view: InstanceView, steps: Sequence[Action]) -> Watched | None:
    """The process that runs and shall go on; None: none does, or it is frozen, is being ended, or has no probes."""
    assignment, local, container = view.assignment, view.local, view.container
    if not assignment.probes or assignment.desired is not DesiredState.RUNNING:
        return None
    if container is None or container.phase is not ContainerPhase.RUNNING or local.stage is not RunStage.STARTED:
        return None
    if local.verdict.failure or view.old_containers or any(isinstance(step, Stop) for step in steps):
        return None
    own = [address for nic in assignment.nics for address in nic.addresses]
    leased = [address for nic in view.leased for address in nic.addresses]
    addresses = tuple(dict.fromkeys(address.partition("/")[0] for address in (*own, *leased)))
    return Watched(Target(assignment.instance_id, container.container_id, addresses), local.run, assignment.probes)

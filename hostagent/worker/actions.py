"""The steps that the planner can ask for. Each says why; the executor carries out one of them at a time and decides
nothing.
"""

from dataclasses import dataclass

from hostagent.domain import PublishedPort, Resources
from moorage.ids import ContainerId, NetworkId


@dataclass(frozen=True, slots=True)
class Action:
    """One idempotent step for one instance."""

    why: str


@dataclass(frozen=True, slots=True)
class BeginRun(Action):
    """Record, durably, that a new run begins. `is_restart`: by our own decision, not on request."""

    is_restart: bool


@dataclass(frozen=True, slots=True)
class AbandonRun(Action):
    """Record that a run which never had a process is given up."""


@dataclass(frozen=True, slots=True)
class RecordStart(Action):
    """Record that the engine runs the process of the newest run."""


@dataclass(frozen=True, slots=True)
class RecordExit(Action):
    """Record how the newest run ended. `container_id` is empty when the container is gone."""

    container_id: ContainerId | None
    is_host_reboot: bool
    is_lease_lost: bool = False


@dataclass(frozen=True, slots=True)
class Pull(Action):
    """Fetch the image. May take long and is given up when the plan changes."""

    image: str


@dataclass(frozen=True, slots=True)
class EnsureNetwork(Action):
    """Set up a network on this host."""

    network_id: NetworkId


@dataclass(frozen=True, slots=True)
class PrepareNamespace(Action):
    """Make, check or repair the namespace with its interfaces."""


@dataclass(frozen=True, slots=True)
class ApplyFilters(Action):
    """Make plugged interfaces let pass what their security groups allow now."""


@dataclass(frozen=True, slots=True)
class PlacePayloads(Action):
    """Fetch the instance's secrets and configs and put them where its container finds them."""


@dataclass(frozen=True, slots=True)
class PrepareVolumes(Action):
    """Have the instance's volumes here."""


@dataclass(frozen=True, slots=True)
class CreateContainer(Action):
    """Write the instance's files and create the container that mounts them."""


@dataclass(frozen=True, slots=True)
class PublishRuntimeKey(Action):
    """Tell the runtime wrapper which namespace the container joins."""

    container_id: ContainerId


@dataclass(frozen=True, slots=True)
class PublishPorts(Action):
    """Make these ports of the host lead to the instance, and no others."""

    ports: tuple[PublishedPort, ...]


@dataclass(frozen=True, slots=True)
class Start(Action):
    """Start the process; record it."""

    container_id: ContainerId


@dataclass(frozen=True, slots=True)
class Stop(Action):
    """Signal, wait for the grace, kill. May take long and is given up when the plan changes. `is_failure`: the process
    failed, so its end counts as a crash.
    """

    container_id: ContainerId
    grace_seconds: float
    signal: str
    is_failure: bool = False


@dataclass(frozen=True, slots=True)
class Pause(Action):
    """Freeze."""

    container_id: ContainerId


@dataclass(frozen=True, slots=True)
class Unpause(Action):
    """Thaw."""

    container_id: ContainerId


@dataclass(frozen=True, slots=True)
class UpdateLimits(Action):
    """Give the container these limits."""

    container_id: ContainerId
    limits: Resources


@dataclass(frozen=True, slots=True)
class SetHostName(Action):
    """Call the process by the assigned host name."""

    container_id: ContainerId


@dataclass(frozen=True, slots=True)
class RemoveContainer(Action):
    """Remove a container, killing it if it runs, and its runtime key."""

    container_id: ContainerId


@dataclass(frozen=True, slots=True)
class RemoveNamespace(Action):
    """Remove the namespace with interfaces and ports."""


@dataclass(frozen=True, slots=True)
class RemoveFiles(Action):
    """Remove the instance's files."""


@dataclass(frozen=True, slots=True)
class WaitBackoff(Action):
    """Nothing until then."""

    seconds: float


#: Steps that may take long and that a change of the plan cuts short.
INTERRUPTIBLE = (Pull, Stop, WaitBackoff)

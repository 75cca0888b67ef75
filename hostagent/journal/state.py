"""The values that the journal keeps besides assignments: where each instance stands here, and the link to the store."""

import enum
from dataclasses import dataclass

from hostagent.domain import Resources


class RunStage(enum.Enum):
    """Where the newest run of an instance stands."""

    IDLE = "idle"  # never tried
    BEGUN = "begun"  # decided on; the process has not been started yet, as far as we know
    STARTED = "started"  # the engine started the process
    ENDED = "ended"  # the process ended, or the run was given up before it had one


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """What the probes have found of one process. Kept, so that an agent that is restarted changes nobody's readiness.

    The default is that of a process without probes, so that one which gets its first probe while it runs stays what it
    was until that probe has spoken.
    """

    process: str = ""  # tells the process from one that somebody else started in its place; empty: not looked at yet
    is_started: bool = True
    is_ready: bool = True
    words: str = ""  # the probe that fails, and what came of its check; empty: none fails
    failure: str = ""  # STARTUP_FAILED or LIVENESS_FAILED: the process shall end for it


@dataclass(frozen=True, slots=True)
class LocalState:
    """What this host did for one instance. Times are seconds since the epoch.

    Invariants: `run` never falls; a run is recorded as BEGUN, durably, before anything is done for it.
    """

    run: int = 0
    stage: RunStage = RunStage.IDLE
    run_request: int = -1  # the request that the newest run answers; -1: none yet
    container_generation: int = 0  # of the newest run
    generation: int = 0  # of the assignment when the newest run began
    container_id: str = ""
    begun_at: float = 0.0
    boot_id: str = ""  # of the machine when the newest run began
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    was_asked_to_stop: bool = False  # we ended the newest run ourselves, so its end is no crash
    is_start_failure: bool = False  # the newest run failed before it had a process
    is_final: bool = False  # the newest run failed in a way that trying again cannot mend
    reason: str = ""  # why the newest run failed
    message: str = ""
    restarts: int = 0  # by us, since the last request
    failures_in_row: int = 0  # runs that ended soon, one after the other; the back-off grows with it
    limits: Resources | None = None  # that the container has
    container_hostname: str = ""  # with which the container was made; empty: not known
    hostname: str = ""  # that the process of the newest run has; empty: not known
    verdict: ProbeVerdict = ProbeVerdict()  # on the process of the newest run
    last_lines: tuple[str, ...] = ()  # that a run which failed has printed; at most five


@dataclass(frozen=True, slots=True)
class LinkState:
    """How far the assignments were read, and from which store. Removals hang on it (see worker/sweep.py)."""

    store_id: str = ""
    revision: int = 0
    sequence: int = 0
    term: int = 0
    went_back: str = ""  # why the store is not trusted to remove anything; empty when all is well


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image that this agent pulled: the only kind that it may ever remove."""

    image: str
    pulled_at: float
    used_at: float

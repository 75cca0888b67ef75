"""What a machine lacks to be a host, and what `setup` would change. Pure: facts in, findings and changes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hostagent.engine.values import EngineInfo
from hostagent.setup import daemon_json
from moorage.errors import InvalidSpec

OLDEST_DOCKER = (20, 10)

UNIT = """[Unit]
Description=Moorage host agent
After=network-online.target docker.service
Wants=network-online.target

[Service]
ExecStart={program} run --config {config}
Restart=always
RestartSec=1
# The agent's end must not take its instances' namespaces or processes along.
KillMode=process
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""

#: A second watchdog, which takes over when the one that the agent has started is killed.
WATCHDOG_UNIT = """[Unit]
Description=Moorage watchdog: ends instances whose leases have ended

[Service]
ExecStart={program} --run-dir {run_dir}
Restart=always
RestartSec=0.2
OOMScoreAdjust=-1000

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What probe.py found. A text in `..._problem` says what is wrong; empty is well; None was not looked at."""

    is_root: bool
    info: EngineInfo | None = None
    engine_problem: str = ""
    kernel_problem: str | None = ""
    vxlan_problem: str = ""
    clock_problem: str | None = None
    daemon_json: str | None = None  # text of the file; None: there is none
    runtime: str | None = None  # text of the wrapper as it is; None: there is none
    has_systemd: bool = False
    unit: str | None = None  # text of the systemd unit; None: there is none
    watchdog: str | None = None  # text of the watchdog's unit; likewise
    has_instances: bool = False  # containers of ours


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration asks for."""

    runtime_path: str
    runtime: str  # text of the wrapper
    daemon_json_path: str
    unit_path: str
    unit: str
    watchdog_path: str
    watchdog: str  # text of its unit


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `is_ok` None: could not be checked."""

    name: str
    is_ok: bool | None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that setup would do, in words."""

    what: str


@dataclass(frozen=True, slots=True)
class WriteFile(Change):
    """Give a file this text (None: remove it)."""

    path: str
    text: str | None
    before: str | None
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class ConfigureEngine(Change):
    """Write the engine's configuration, let it reload, and see what it then says."""

    path: str
    text: str | None
    before: str | None
    must_have: str = ""  # path of our runtime; empty: it must be gone


@dataclass(frozen=True, slots=True)
class EnableUnit(Change):
    """Let systemd know the unit and start it at boot (or forget it)."""

    unit: str
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class Record:
    """What was there before; kept in data_dir/setup.json for `--remove`."""

    live_restore_before: bool | None = None
    runtime_before: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """Findings, and changes if all findings are well."""

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...] = ()
    record: Record = field(default_factory=Record)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings that stand in the way."""
        return tuple(finding for finding in self.findings if finding.is_ok is False)


def check(facts: MachineFacts) -> tuple[Finding, ...]:
    """What there is to say about the machine."""
    findings = [Finding("root", facts.is_root, "" if facts.is_root else "setup needs root: namespaces are made")]
    findings += _engine_findings(facts)
    findings += [
        Finding("kernel", _is_ok(facts.kernel_problem), facts.kernel_problem or ""),
        Finding("vxlan port", not facts.vxlan_problem, facts.vxlan_problem),
        Finding("clock", _is_ok(facts.clock_problem), facts.clock_problem or ""),
    ]
    try:
        daemon_json.parse(facts.daemon_json)
        if facts.info is not None:
            different = daemon_json.never_applied(facts.daemon_json, facts.info)
            message = "it has changes that were never applied; restart or reload the engine first: " + "; ".join(
                different
            )
            findings.append(Finding("daemon.json", not different, message if different else ""))
    except InvalidSpec as exc:
        findings.append(Finding("daemon.json", False, exc.message))
    return tuple(findings)


def plan_setup(facts: MachineFacts, wanted: Wanted, known: Record | None) -> SetupPlan:
    """What to change so that this machine is a host. Running it on a machine that is one changes nothing.

    Args:
        known: of an earlier setup; its knowledge of what was there before is kept.
    """
    findings = check(facts)
    plan = SetupPlan(findings, record=known or Record())
    if plan.problems:
        return plan
    changes: list[Change] = []
    if facts.runtime != wanted.runtime:
        what = f"write the runtime wrapper {wanted.runtime_path}"
        changes.append(WriteFile(what, wanted.runtime_path, wanted.runtime, facts.runtime, mode=0o755))
    record = plan.record
    merged = daemon_json.merge(facts.daemon_json, wanted.runtime_path)
    if merged is not None:
        what = (
            f"register the runtime `{daemon_json.RUNTIME}` in {wanted.daemon_json_path} and turn live-restore on, keep"
            " the rest, and let the engine reload"
        )
        changes.append(
            ConfigureEngine(what, wanted.daemon_json_path, merged.text, facts.daemon_json, wanted.runtime_path)
        )
        if known is None:
            record = Record(merged.live_restore_before, merged.runtime_before)
    if facts.has_systemd and facts.unit != wanted.unit:
        changes.append(WriteFile(f"write {wanted.unit_path}", wanted.unit_path, wanted.unit, facts.unit))
        changes.append(EnableUnit("start the agent at boot", _name(wanted.unit_path), is_enabled=True))
    if facts.has_systemd and facts.watchdog != wanted.watchdog:
        path = wanted.watchdog_path
        changes.append(WriteFile(f"write {path}", path, wanted.watchdog, facts.watchdog))
        changes.append(EnableUnit("start the watchdog at boot", _name(path), is_enabled=True))
    return SetupPlan(findings, tuple(changes), record)


def plan_removal(facts: MachineFacts, wanted: Wanted, known: Record | None) -> SetupPlan:
    """What to take back. Instances that are still here stand in the way: they could not start any more."""
    findings = [Finding("root", facts.is_root, "" if facts.is_root else "setup needs root")]
    if facts.has_instances:
        findings.append(
            Finding("instances", False, "this host still carries instances; delete them or drain the host first")
        )
    record = known or Record()
    plan = SetupPlan(tuple(findings), record=record)
    if plan.problems:
        return plan
    changes: list[Change] = []
    if facts.unit is not None:
        changes.append(EnableUnit("do not start the agent at boot", _name(wanted.unit_path), is_enabled=False))
        changes.append(WriteFile(f"remove {wanted.unit_path}", wanted.unit_path, None, facts.unit))
    if facts.watchdog is not None:
        path = wanted.watchdog_path
        changes.append(EnableUnit("do not start the watchdog at boot", _name(path), is_enabled=False))
        changes.append(WriteFile(f"remove {path}", path, None, facts.watchdog))
    content = daemon_json.parse(facts.daemon_json)
    if daemon_json.RUNTIME in content.get("runtimes", {}):
        text = daemon_json.take_back(
            facts.daemon_json,
            live_restore_before=record.live_restore_before,
            runtime_before=record.runtime_before,
        )
        what = f"take the runtime `{daemon_json.RUNTIME}` out of {wanted.daemon_json_path} and let the engine reload"
        changes.append(ConfigureEngine(what, wanted.daemon_json_path, text, facts.daemon_json))
    if facts.runtime is not None:
        what = f"remove the runtime wrapper {wanted.runtime_path}"
        changes.append(WriteFile(what, wanted.runtime_path, None, facts.runtime, mode=0o755))
    return SetupPlan(tuple(findings), tuple(changes), record)


def _engine_findings(facts: MachineFacts) -> list[Finding]:
    info = facts.info
    if info is None:
        return [Finding("docker", False, facts.engine_problem or "the Docker Engine does not answer")]
    findings = []
    version = tuple(int(part) for part in info.version.split(".")[:2] if part.isdecimal())
    is_new = version >= OLDEST_DOCKER
    message = "" if is_new else f"Docker {info.version} is too old; 20.10 is the oldest that works"
    findings.append(Finding("docker", is_new, message))
    for name, is_bad, message in (
        ("rootless", info.rootless, "a rootless engine cannot join namespaces that the agent makes"),
        ("userns-remap", info.userns_remap, "user-namespace remapping is on; containers could not join our namespaces"),
        (
            "swarm",
            info.swarm_active and not info.live_restore,
            "the engine is a member of a Swarm, which refuses live-restore; `docker swarm leave` first",
        ),
    ):
        findings.append(Finding(name, not is_bad, message if is_bad else ""))
    return findings


def _is_ok(problem: str | None) -> bool | None:
    return None if problem is None else not problem


def _name(unit_path: str) -> str:
    return unit_path.rpartition("/")[2]

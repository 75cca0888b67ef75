"""`moorage-hostagent setup`: says what it found and what it will change, and does it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from hostagent.config import Config
from hostagent.secret_files import SecretFiles
from hostagent.setup.apply import apply
from hostagent.setup.machine import RealMachine, wanted_of
from hostagent.setup.plan import Record, SetupPlan, plan_removal, plan_setup
from moorage.errors import NotReady

Say = Callable[[str], None]


async def run(config: Config, config_path: Path, *, is_check: bool, is_removal: bool, say: Say) -> None:
    """Check, and unless `is_check` change.

    Raises:
        NotReady: SETUP_NOT_POSSIBLE, something stands in the way; SETUP_FAILED, a change failed and was taken back.
    """
    machine = RealMachine(config)
    wanted, known = wanted_of(config, config_path), _read_record(config)
    facts = await machine.look()
    plan = plan_removal(facts, wanted, known) if is_removal else plan_setup(facts, wanted, known)
    _say_findings(plan, say)
    if plan.problems:
        raise NotReady("this machine is not fit yet; see above", reason="SETUP_NOT_POSSIBLE")
    if not plan.changes:
        say("nothing to change")
    elif is_check:
        for change in plan.changes:
            say(f"would {change.what}")
    if is_check:
        return
    record = _record_path(config)
    if not is_removal and plan.changes:
        # Before the first change: a setup that is killed in the middle can still be taken back.
        record.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        machine.write(str(record), json.dumps(dataclasses.asdict(plan.record)), 0o600)
    await apply(plan.changes, machine, say)
    if is_removal:
        record.unlink(missing_ok=True)
        SecretFiles(config.run_dir / "secrets").release()
    say("done")


def _say_findings(plan: SetupPlan, say: Say) -> None:
    words = {True: "ok", False: "NOT OK", None: "not checked"}
    for finding in plan.findings:
        say(f"{finding.name}: {words[finding.is_ok]}{' - ' + finding.message if finding.message else ''}")


def _record_path(config: Config) -> Path:
    return config.data_dir / "setup.json"


def _read_record(config: Config) -> Record | None:
    try:
        raw = json.loads(_record_path(config).read_text())
        return Record(raw["live_restore_before"], raw["runtime_before"])
    except (FileNotFoundError, ValueError, KeyError):
        return None

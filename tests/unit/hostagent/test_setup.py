"""Setup: what it finds, what it would change, that it keeps what is the user's, and that a failed change is taken
back.
"""

import dataclasses
import json
from dataclasses import replace

import pytest

from hostagent.setup import daemon_json
from hostagent.setup.apply import apply
from hostagent.setup.plan import MachineFacts, Record, Wanted, plan_removal, plan_setup
from moorage.errors import InvalidSpec, NotReady
from tests.fakes.engine import DEFAULT_INFO

PATH = "/usr/libexec/moorage/runtime"
_UNITS = "/etc/systemd/system"
WANTED = Wanted(
    *(PATH, "#!/bin/sh\n", "/etc/docker/daemon.json"),
    *(f"{_UNITS}/moorage-hostagent.service", "unit", f"{_UNITS}/moorage-watchdog.service", "watchdog"),
)
FRESH = replace(DEFAULT_INFO, runtimes={"runc": "runc"}, live_restore=False)
MACHINE = MachineFacts(is_root=True, info=FRESH, clock_problem="")


class FakeMachine:
    """Files and an engine that reads one of them when told to."""

    def __init__(self, facts: MachineFacts) -> None:
        self.files = {WANTED.daemon_json_path: facts.daemon_json} if facts.daemon_json is not None else {}
        self.engine = daemon_json.parse(facts.daemon_json)
        self.units: set[str] = set()
        self.broken: set[str] = set()

    def write(self, path: str, text: str | None, mode: int) -> None:
        if path in self.broken:
            raise OSError(28, "No space left on device")
        self.files.pop(path, None)
        if text is not None:
            self.files[path] = text

    async def reload_engine(self) -> None:
        if "engine" not in self.broken:
            self.engine = daemon_json.parse(self.files.get(WANTED.daemon_json_path))

    async def engine_has(self, runtime_path: str) -> bool:
        return bool(self.engine.get("runtimes", {}).get("moorage") == {"path": runtime_path})

    async def enable_unit(self, unit: str, *, is_enabled: bool) -> None:
        if "systemd" in self.broken:
            raise NotReady("systemd says no")
        (self.units.add if is_enabled else self.units.discard)(unit)

    def facts(self, before: MachineFacts) -> MachineFacts:
        """What a look at this machine would find."""
        runtimes = {"runc": "runc", **{k: v["path"] for k, v in self.engine.get("runtimes", {}).items()}}
        return replace(
            before,
            info=replace(FRESH, runtimes=runtimes, live_restore=bool(self.engine.get("live-restore"))),
            daemon_json=self.files.get(WANTED.daemon_json_path),
            runtime=self.files.get(PATH),
            unit=self.files.get(WANTED.unit_path),
            watchdog=self.files.get(WANTED.watchdog_path),
        )


USERS = json.dumps(
    {"log-level": "warn", "runtimes": {"kata": {"path": "/opt/kata"}}, "insecure-registries": ["a:5000"]}
)
WITH_USERS = replace(
    MACHINE, daemon_json=USERS, info=replace(FRESH, runtimes={"runc": "runc", "kata": "/opt/kata"}), has_systemd=True
)


@pytest.mark.parametrize("facts", [MACHINE, WITH_USERS])
async def test_setup_run_twice_changes_once_and_removal_takes_everything_back(facts: MachineFacts) -> None:
    machine = FakeMachine(facts)
    plan = plan_setup(facts, WANTED, None)
    await apply(plan.changes, machine, lambda _: None)
    merged = json.loads(machine.files[WANTED.daemon_json_path])
    assert merged["live-restore"] is True
    assert {key: merged[key] for key in ("log-level", "insecure-registries") if facts is WITH_USERS} == {
        key: value for key, value in json.loads(facts.daemon_json or "{}").items() if key != "runtimes"
    }
    after = machine.facts(facts)
    assert plan_setup(after, WANTED, plan.record).changes == ()
    await apply(plan_removal(after, WANTED, plan.record).changes, machine, lambda _: None)
    left = {path: json.loads(text) if path == WANTED.daemon_json_path else text for path, text in machine.files.items()}
    assert left == ({WANTED.daemon_json_path: json.loads(USERS)} if facts is WITH_USERS else {})
    assert machine.units == set()


@pytest.mark.parametrize(
    "broken", ["engine", WANTED.unit_path, WANTED.watchdog_path, "systemd", WANTED.daemon_json_path, PATH]
)
async def test_whatever_fails_everything_before_it_is_taken_back(broken: str) -> None:
    machine = FakeMachine(WITH_USERS)
    machine.broken.add(broken)
    plan = plan_setup(WITH_USERS, WANTED, None)
    with pytest.raises(NotReady) as caught:
        await apply(plan.changes, machine, lambda _: None)
    assert caught.value.reason == "SETUP_FAILED"
    assert machine.files == {WANTED.daemon_json_path: USERS}
    assert machine.engine == json.loads(USERS)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"is_root": False}, "root"),
        ({"info": None, "engine_problem": "no"}, "docker"),
        ({"info": replace(FRESH, version="19.3.1")}, "docker"),
        ({"info": replace(FRESH, rootless=True)}, "rootless"),
        ({"info": replace(FRESH, userns_remap=True)}, "userns-remap"),
        ({"info": replace(FRESH, swarm_active=True)}, "swarm"),
        ({"kernel_problem": "no vxlan"}, "kernel"),
        ({"vxlan_problem": "taken"}, "vxlan port"),
        ({"clock_problem": "1970"}, "clock"),
        ({"daemon_json": "{"}, "daemon.json"),
        ({"daemon_json": "[]"}, "daemon.json"),
        ({"daemon_json": '{"data-root": "/elsewhere"}'}, "daemon.json"),
        ({"daemon_json": '{"runtimes": {"kata": {"path": "/k"}}}'}, "daemon.json"),
    ],
)
def test_what_stands_in_the_way_is_named_and_nothing_is_changed(changes: dict[str, object], name: str) -> None:
    plan = plan_setup(dataclasses.replace(MACHINE, **changes), WANTED, None)  # type: ignore[arg-type]
    assert [finding.name for finding in plan.problems] == [name]
    assert plan.problems[0].message
    assert plan.changes == ()


def test_what_could_not_be_checked_is_no_problem() -> None:
    plan = plan_setup(replace(MACHINE, clock_problem=None, kernel_problem=None), WANTED, None)
    assert plan.problems == ()
    assert plan.changes


def test_changes_that_were_never_applied_are_listed() -> None:
    text = json.dumps({"live-restore": True, "exec-opts": ["native.cgroupdriver=cgroupfs"], "userns-remap": "default"})
    found = daemon_json.never_applied(text, FRESH)
    assert [line.partition(":")[0] for line in found] == ["live-restore", "userns-remap", "exec-opts"]


def test_removal_keeps_what_the_user_changed_since() -> None:
    merged = daemon_json.merge('{"live-restore": false}', PATH)
    assert merged is not None
    changed = {**json.loads(merged.text), "debug": True}
    text = daemon_json.take_back(
        json.dumps(changed), live_restore_before=merged.live_restore_before, runtime_before=merged.runtime_before
    )
    assert json.loads(text or "") == {"live-restore": False, "debug": True}


def test_removal_is_refused_while_instances_are_here() -> None:
    plan = plan_removal(replace(MACHINE, has_instances=True), WANTED, Record())
    assert [finding.name for finding in plan.problems] == ["instances"]


def test_a_file_that_is_no_object_is_never_touched() -> None:
    with pytest.raises(InvalidSpec):
        daemon_json.merge('{"runtimes": []}', PATH)

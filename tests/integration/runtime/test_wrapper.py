"""The runtime wrapper: what reaches the real runtime, what is refused, and what it costs."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostagent.netlink import namespaces
from hostagent.runtime.wrapper import RuntimeKeys, install, render
from hostagent.watchdog import lease_file
from hostagent.watchdog.lease_file import Entry, Leases
from moorage.errors import InvalidSpec, NotFound
from moorage.ids import ContainerId
from tests.integration.netlink.bed import require_namespaces

pytestmark = pytest.mark.root
CONTAINER = ContainerId("0123456789abcdef" * 4)
RECORDER = """#!/bin/sh
for word do printf '%s\\n' "$word"; done >"{folder}/called"
"""


@dataclass
class Rig:
    """A wrapper over a runtime that records its arguments, and a bundle."""

    folder: Path
    wrapper: Path
    keys: RuntimeKeys
    space: Path

    def write_config(self, text: str) -> None:
        (self.folder / "bundle" / "config.json").write_text(text)

    def config(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "bundle" / "config.json").read_text())
        return loaded

    def network_entries(self) -> list[dict[str, str]]:
        return [entry for entry in self.config()["linux"]["namespaces"] if entry["type"] == "network"]

    def called(self) -> list[str] | None:
        """What the real runtime was called with, or None."""
        path = self.folder / "called"
        return path.read_text().splitlines() if path.exists() else None

    def run(self, *arguments: str) -> int:
        return subprocess.run([self.wrapper, *arguments], capture_output=True, check=False).returncode

    def create(self, container: str = CONTAINER) -> int:
        """As containerd's shim calls it."""
        bundle = self.folder / "bundle"
        return self.run(
            *("--root", "/run/runtime-moorage/moby", "--log", f"{self.folder}/log.json", "--log-format", "json"),
            *("--systemd-cgroup", "create", "--bundle", str(bundle), "--pid-file", f"{bundle}/init.pid", container),
        )

    def said(self) -> list[dict[str, str]]:
        """The lines of the log that Docker shows."""
        path = self.folder / "log.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Everything in a folder on /dev/shm: bundles are on a memory file system too, where a rename costs nothing."""
    require_namespaces()
    bed_root = namespaces.HostNamespace.capture()
    folder = Path("/dev/shm") / f"mt-net-{time.monotonic_ns()}"
    (folder / "bundle").mkdir(parents=True)
    (folder / "run").mkdir()
    namespaces.prepare_folder(folder / "run" / "netns")
    recorder = folder / "real"
    recorder.write_text(RECORDER.format(folder=folder))
    recorder.chmod(0o755)
    space = namespaces.create(bed_root, folder / "run" / "netns" / "i-aaaaaaaaaa", {})
    try:
        install(folder / "wrapper", run_dir=folder / "run", real_runtime=str(recorder))
        made = Rig(folder, folder / "wrapper", RuntimeKeys(folder / "run"), space.path)
        made.write_config(spec())
        yield made
    finally:
        space.close()
        for path in (folder / "run" / "netns").iterdir():
            namespaces.remove(path)
        namespaces.release_folder(folder / "run" / "netns")
        shutil.rmtree(folder)


def spec(
    entry: str = '{"type":"network"}', *, before: str = '{"type":"mount"},', after: str = ',{"type":"pid"}'
) -> str:
    """A config.json of the size that Docker writes, with values that try to look like the entry."""
    document = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sh", "-c", 'echo {"type":"network"}'],
            "env": ['NETS="namespaces":[{"type":"network"}]'] + [f"VARIABLE_{n}={'v' * 40}" for n in range(300)],
        },
        "annotations": {"type": "network", "namespaces": '[{"type":"network"}]'},
        "mounts": [{"type": "bind", "source": "/a", "destination": "/network", "options": ["rbind"]}],
        "linux": {"namespaces": "HERE", "seccomp": {"syscalls": [{"names": [f"call{n}" for n in range(400)]}]}},
    }
    return json.dumps(document, separators=(",", ":")).replace('"HERE"', f"[{before}{entry}{after}]")


FORMS = {
    "bare": spec(),
    "first": spec(before=""),
    "last": spec(after=""),
    "alone": spec(before="", after=""),
    "empty path": spec('{"type":"network","path":""}'),
    "other path": spec('{"type":"network","path":"/proc/1/ns/net"}'),
    "path first": spec('{"path":"/proc/1/ns/net","type":"network"}'),
    "spaced": spec(
        '{ "type" : "network" , "path" : "" }', before='{ "type" : "mount" } , ', after=' , { "type":"pid" }'
    ),
    "extra field": spec('{"path":"","extra":true,"type":"network","more":[]}'.replace(',"more":[]', "")),
    "neighbours with paths": spec(before='{"type":"ipc","path":"/proc/7/ns/ipc"},{"type":"uts"},'),
    "indented": json.dumps(json.loads(spec()), indent=4),
    "tabs": json.dumps(json.loads(spec()), indent="\t"),
    "one space": json.dumps(json.loads(spec())),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_entry_gets_the_path(rig: Rig, form: str) -> None:
    rig.write_config(FORMS[form])
    before = rig.config()
    rig.keys.publish(CONTAINER, rig.space)
    assert rig.create() == 0
    link = f"{rig.folder}/run/runtime/{CONTAINER}"
    assert rig.network_entries() == [{"type": "network", "path": link}]
    after = rig.config()
    for document in (before, after):
        kept = [entry for entry in document["linux"]["namespaces"] if entry["type"] != "network"]
        document["linux"]["namespaces"] = kept
    assert after == before
    called = rig.called()
    assert called is not None
    assert called[0] == "--root"
    assert called[-1] == CONTAINER
    assert sorted(p.name for p in (rig.folder / "bundle").iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "-b", "BUNDLE", CONTAINER),
        ("--debug", "create", "--bundle=BUNDLE", "--no-pivot", "--console-socket", "/s", CONTAINER),
        ("--log=/dev/null", "--root=/r", "create", "--bundle", "BUNDLE", "--preserve-fds", "3", CONTAINER),
        ("--criu", "create", "create", "--pid-file=/p", "--bundle", "BUNDLE", CONTAINER),
        ("run", "--bundle", "BUNDLE", CONTAINER),
    ],
)
def test_create_in_every_spelling(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.keys.publish(CONTAINER, rig.space)
    words = [word.replace("BUNDLE", str(rig.folder / "bundle")) for word in arguments]
    assert rig.run(*words) == 0
    assert rig.called() == words
    assert [entry.get("path") for entry in rig.network_entries()] == [f"{rig.folder}/run/runtime/{CONTAINER}"]


@pytest.mark.parametrize("verb", ["create", "start"])
@pytest.mark.parametrize(
    ("seconds", "boot", "container", "is_started"),
    [
        (60, "", CONTAINER, True),
        (-1, "", CONTAINER, False),
        (60, "another", CONTAINER, False),
        (-1, "", "f" * 64, True),  # another's lease
    ],
)
def test_what_has_no_lease_is_not_started(
    rig: Rig, verb: str, seconds: int, boot: str, container: str, is_started: bool
) -> None:
    boot = boot or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    end = int((time.clock_gettime(time.CLOCK_BOOTTIME) + seconds) * 100)
    entries = (Entry("i2", end - 9999, "", ("e" * 64,)), Entry("i1", end, str(rig.space), ("d" * 64, container)))
    lease_file.write(rig.folder / "run", Leases(boot, 1, 1, 1, entries))
    rig.keys.publish(CONTAINER, rig.space)
    done = rig.create() if verb == "create" else rig.run("--log", f"{rig.folder}/log.json", "start", CONTAINER)
    assert (done == 0) is is_started
    assert (rig.called() is not None) is is_started
    if not is_started:
        assert "no lease" in rig.said()[0]["msg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--root", "/r", "--log", "/l", "start", CONTAINER),
        ("--log-format", "json", "exec", "--process", "/p", "--detach", CONTAINER),
        ("state", CONTAINER),
        ("delete", "--force", "create"),
        ("--version",),
        (),
        ("kill", "--all", CONTAINER, "with spaces and 'quotes' $x"),
    ],
)
def test_other_verbs_go_straight_through(rig: Rig, arguments: tuple[str, ...]) -> None:
    assert rig.run(*arguments) == 0
    assert rig.called() == list(arguments)
    assert rig.config() == json.loads(spec())


def _unpublished(_rig: Rig) -> None:
    pass


def _dangling(rig: Rig) -> None:
    rig.keys.publish(CONTAINER, rig.folder / "nowhere")


def _host(rig: Rig) -> None:
    rig.keys.publish(CONTAINER, Path("/proc/self/ns/net"))


def _host_bound(rig: Rig) -> None:
    bound = rig.folder / "run" / "netns" / "host"
    bound.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", bound], check=True)
    rig.keys.publish(CONTAINER, bound)


def _plain_file(rig: Rig) -> None:
    (rig.folder / "run" / "netns" / "i-bbbbbbbbbb").touch()
    rig.keys.publish(CONTAINER, rig.folder / "run" / "netns" / "i-bbbbbbbbbb")


def _folder(rig: Rig) -> None:
    rig.keys.publish(CONTAINER, rig.folder)


def _withdrawn(rig: Rig) -> None:
    rig.keys.publish(CONTAINER, rig.space)
    rig.keys.withdraw(CONTAINER)


def _no_entry(rig: Rig) -> None:
    rig.keys.publish(CONTAINER, rig.space)
    rig.write_config(spec("", before='{"type":"mount"}', after=',{"type":"pid"}').replace('{"type":"mount"},,', ""))


def _no_config(rig: Rig) -> None:
    rig.keys.publish(CONTAINER, rig.space)
    (rig.folder / "bundle" / "config.json").unlink()


@pytest.mark.parametrize(
    "prepare",
    [_unpublished, _dangling, _host, _host_bound, _plain_file, _folder, _withdrawn, _no_entry, _no_config],
)
def test_fails_closed_and_says_why(rig: Rig, prepare: Any) -> None:
    prepare(rig)
    assert rig.create() == 1
    assert rig.called() is None
    assert [line["level"] for line in rig.said()] == ["error"]
    assert "not started" in rig.said()[0]["msg"]


@pytest.mark.parametrize("container", ["../x", "a b", ".", 'x";rm', ""])
def test_odd_container_ids_are_refused(rig: Rig, container: str) -> None:
    assert rig.create(container) == 1
    assert rig.called() is None
    with pytest.raises(InvalidSpec):
        rig.keys.publish(ContainerId(container), rig.space)


def test_published_lists_and_replaces(rig: Rig) -> None:
    other = ContainerId("other")
    rig.keys.publish(CONTAINER, Path("/somewhere"))
    rig.keys.publish(CONTAINER, rig.space)
    rig.keys.publish(other, rig.space)
    assert rig.keys.published() == {CONTAINER: rig.space, other: rig.space}
    rig.keys.withdraw(other)
    rig.keys.withdraw(other)
    assert rig.keys.published() == {CONTAINER: rig.space}


def test_install_is_atomic_and_idempotent(rig: Rig, tmp_path: Path) -> None:
    target = tmp_path / "sub" / "wrapper"
    assert install(target, run_dir=Path("/run/moorage"), real_runtime="true") is True
    assert install(target, run_dir=Path("/run/moorage"), real_runtime="true") is False
    assert install(target, run_dir=Path("/run/other"), real_runtime="true") is True
    assert [path.name for path in target.parent.iterdir()] == ["wrapper"]
    with pytest.raises(NotFound):
        install(target, run_dir=Path("/run/moorage"), real_runtime="no-such-runtime")
    with pytest.raises(InvalidSpec):
        render(Path("/run/it's"))


def test_runc_starts_in_the_namespace(rig: Rig) -> None:
    """The real runtime, with a bundle of its own making."""
    runc, busybox = shutil.which("runc"), shutil.which("busybox")
    if runc is None or busybox is None:
        pytest.skip("needs runc and busybox")
    bundle = rig.folder / "bundle"
    (bundle / "config.json").unlink()
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy(busybox, bundle / "rootfs" / "bin" / "busybox")
    subprocess.run([runc, "spec", "--bundle", bundle], check=True)
    document = rig.config()
    document["process"] |= {"terminal": False, "args": ["/bin/busybox", "readlink", "/proc/self/ns/net"]}
    rig.write_config(json.dumps(document))
    install(rig.wrapper, run_dir=rig.folder / "run", real_runtime=runc)
    container = ContainerId(f"mt-{time.monotonic_ns()}")
    rig.keys.publish(container, rig.space)
    root = ("--root", str(rig.folder / "runc"))
    words = [str(rig.wrapper), *root, "run", "--bundle", str(bundle), container]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.strip() == f"net:[{rig.space.stat().st_ino}]", done.stderr


def test_cost(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the real runtime, for `create` with a config.json of 27 kB and for another verb."""
    install(rig.wrapper, run_dir=rig.folder / "run", real_runtime="/bin/true")
    rig.keys.publish(CONTAINER, rig.space)
    bundle = str(rig.folder / "bundle")

    def median(argv: list[str]) -> float:
        times = []
        for _ in range(40):
            rig.write_config(spec())
            start = time.perf_counter()
            subprocess.run(argv, check=True)
            times.append((time.perf_counter() - start) * 1000)
        return sorted(times)[len(times) // 2]

    bare = median(["/bin/true"])
    create = median([str(rig.wrapper), "--log", "/dev/null", "create", "--bundle", bundle, CONTAINER]) - bare
    other = median([str(rig.wrapper), "--log", "/dev/null", "state", CONTAINER]) - bare
    with capsys.disabled():
        print(f"\nwrapper beside the runtime, median: create {create:.1f} ms, other verbs {other:.1f} ms")
    assert create < 300  # the figure is printed; a busy machine must not fail the test

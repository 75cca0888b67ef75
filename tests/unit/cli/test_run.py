"""run, create, replace, update and the lifecycle."""

import re
from pathlib import Path

import pytest

from cli.instance.create import wish_of
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec
from moorage.v1 import common_pb2, hosts_pb2, instances_pb2, templates_pb2
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import Plane

NGINX = "projects/default/templates/nginx"
WEB = "projects/default/instances/web"


@pytest.fixture
def nginx(plane: Plane) -> None:
    template = templates_pb2.Template(name=NGINX)
    template.status.state = templates_pb2.TEMPLATE_STATE_READY
    plane.put(template)


@pytest.fixture
def web(nginx: None, moor: Moor) -> None:
    moor("run", "--name", "web", "nginx")


def created(plane: Plane) -> instances_pb2.Instance:
    return plane.requests("CreateInstance")[-1].instance  # type: ignore[no-any-return]


def test_one_line_from_an_image_to_an_instance(moor: Moor, plane: Plane) -> None:
    host = hosts_pb2.Host(name="hosts/h1")
    host.status.facts.underlay_address = "192.0.2.7"
    plane.put(host)
    result = moor("run", "-p", "8080:80", "-p", "5353:53/udp", "--name", "web", "nginx:1.27")
    assert result.stderr == "template of nginx:1.27: pull\n"
    assert result.stdout == (
        "web\n"
        "  host:      h1\n"
        "  addresses: 10.1.0.2, fd00::2\n"
        "  port 80:   http://192.0.2.7:8080\n"
        "  port 53:   192.0.2.7:5353/udp\n"
    )
    (asked,) = plane.requests("CreateTemplate")
    assert asked.template_id == "nginx-1-27"
    assert asked.template.source.repository.reference == "nginx:1.27"
    moor("run", "--name", "again", "nginx:1.27")
    assert len(plane.requests("CreateTemplate")) == 1


def test_a_template_of_the_project_comes_before_an_image(nginx: None, moor: Moor, plane: Plane) -> None:
    moor("run", "nginx")
    assert created(plane).spec.template == NGINX
    assert plane.requests("CreateTemplate") == []


def test_another_image_with_the_same_derived_name(moor: Moor, plane: Plane) -> None:
    moor("run", "ghcr.io/a/tool:1")
    moor("run", "ghcr.io/b/tool:1")
    first, second = (asked.template_id for asked in plane.requests("CreateTemplate"))
    assert first == "tool-1"
    assert re.fullmatch(r"tool-1-[0-9a-f]{8}", second)


def test_a_word_that_is_neither_template_nor_image(moor: Moor, plane: Plane) -> None:
    result = moor("run", "missing", code=3)
    assert "missing is no template of projects/default, and no image that can be had" in result.stderr
    assert plane.listed(instances_pb2.Instance) == []


def test_many_at_once(nginx: None, moor: Moor, plane: Plane) -> None:
    result = moor("run", "--count", "3", "--name", "web", "-o", "name", "nginx")
    assert result.stdout.split() == [f"{WEB}-{number}" for number in (1, 2, 3)]
    assert len(plane.requests("BatchCreateInstances")) == 1
    assert len(plane.requests("Watch")) == 1


def test_no_wait_and_dry_run(nginx: None, moor: Moor, plane: Plane) -> None:
    moor("run", "--no-wait", "--name", "web", "nginx")
    assert plane.requests("Watch") == []
    result = moor("run", "--dry-run", "--name", "other", "nginx")
    assert "h1 (chosen)" in result.stdout
    assert "projects/default/instances/other" not in plane.objects


def test_a_run_that_fails(nginx: None, moor: Moor) -> None:
    result = moor("run", "--name", "web", "nginx", "never", code=6)
    assert "Error: projects/default/instances/web failed: wrong platform" in result.stderr


def test_errors_of_create(nginx: None, moor: Moor, plane: Plane) -> None:
    plane.failures["CreateInstance"] = Exhausted(
        "no address is left in 10.1.0.0/24; delete instances or use a larger one"
    )
    assert moor("run", "nginx", code=7).stderr.startswith("Error: no address is left")
    plane.failures["CreateInstance"] = AlreadyExists("web exists already")
    moor("run", "nginx", code=5)


def test_run_rm_shows_the_output_and_exits_as_the_process_did(nginx: None, moor: Moor, plane: Plane) -> None:
    result = moor("run", "--rm", "--name", "job", "nginx", "exit", "7", code=7)
    assert result.stdout == "hello\n"
    assert result.stderr == "careful\n"
    assert created(plane).spec.restart.mode == common_pb2.RESTART_MODE_NEVER
    assert "projects/default/instances/job" not in plane.objects


def test_run_with_input_attaches(nginx: None, moor: Moor, plane: Plane) -> None:
    result = moor("run", "-i", "--rm", "nginx", "cat", input="typed\n")
    assert sorted(result.stdout.splitlines()) == ["hello", "typed"]  # what it wrote before, and the answer
    (start,) = plane.requests("ExecInstance")
    assert (start.attach, start.stdin, start.tty) == (True, True, False)
    assert plane.listed(instances_pb2.Instance) == []


@pytest.mark.parametrize(
    "words",
    [
        ["-d", "--rm", "nginx"],
        ["--rm", "--count", "2", "nginx"],
        ["-i", "--no-wait", "nginx"],
        ["--wait", "--no-wait", "nginx"],
        ["-it", "nginx"],
        ["--count", "0", "nginx"],
        [],
    ],
)
def test_wrong_usage(nginx: None, moor: Moor, plane: Plane, words: list[str]) -> None:
    moor("run", *words, code=2)
    assert plane.requests("CreateInstance") == []


def test_every_option_arrives(nginx: None, moor: Moor, plane: Plane, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# comment\nFROM_FILE=1\nB=file\n")
    moor(
        *["run", "--name", "web", "-e", "A=1", "-e", "HERE", "-e", "ABSENT", "-e", "B=option"],
        *["--env-file", str(env_file), "--cpu", "0.5", "-m", "256Mi", "--memory-swap", "-1", "--pids", "50"],
        *["--cpu-shares", "512", "--shm-size", "64m", "--network", "back:10.1.0.9", "--network", "front:[fd00::9]"],
        *["--zone", "a", "--host", "h2", "--host-label", "disk=ssd", "-l", "app=web", "--affinity", "app=db@zone"],
        *["--anti-affinity", "soft:app=web,tier=1", "--pack", "--read-only", "--tmpfs", "/tmp:size=16m"],
        *["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "all", "--ulimit", "nofile=10:20", "-u", "1:2", "-w", "/srv"],
        *["--entrypoint", "sh -c", "--privileged", "--mount", "type=bind,source=/a,target=/b,readonly"],
        *["-v", "/c:/d:ro", "--device", "/dev/x:/dev/y:r", "--init", "--restart", "on-failure:4"],
        *["--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2", "--hostname", "w"],
        *[
            "--probe-startup",
            "exec:ready -q",
            "--probe-liveness",
            "tcp:80",
            "--probe-readiness",
            "http:80/up,period=2s",
        ],
        *[
            "--sysctl",
            "net.core.somaxconn=9",
            "--dns",
            "192.0.2.1",
            "--dns-search",
            "x.y",
            "--add-host",
            "db:192.0.2.9",
        ],
        *["--stop-signal", "SIGINT", "--stop-timeout", "1.5s", "--log-max-size", "1m", "--log-max-files", "2"],
        *["--user-data", "hello"],
        *["nginx", "echo", "-n", "--flag"],
        env={"HERE": "there"},
    )
    made = created(plane)
    spec = made.spec
    assert dict(made.labels) == {"app": "web"}
    assert dict(spec.env) == {"A": "1", "HERE": "there", "B": "option", "FROM_FILE": "1"}
    assert list(spec.command) == ["echo", "-n", "--flag"]
    assert list(spec.entrypoint.values) == ["sh", "-c"]
    assert (spec.user, spec.workdir, spec.hostname, spec.stop_signal) == ("1:2", "/srv", "w", "SIGINT")
    assert spec.stop_grace.ToMilliseconds() == 1500
    assert list(spec.probes.startup.exec.command) == ["ready", "-q"]
    assert spec.probes.liveness.tcp.port == 80
    assert (spec.probes.readiness.http.path, spec.probes.readiness.period.seconds) == ("/up", 2)
    assert spec.resources == common_pb2.Resources(
        cpu_millis=500,
        cpu_shares=512,
        memory_bytes=256 * 1024**2,
        memory_swap_bytes=-1,
        pids=50,
        shm_bytes=64 * 1024**2,
    )
    assert [(nic.network, list(nic.addresses)) for nic in spec.nics] == [
        ("projects/default/networks/back", ["10.1.0.9"]),
        ("projects/default/networks/front", ["fd00::9"]),
    ]
    placement = spec.placement
    assert (placement.zone, placement.host, dict(placement.host_labels)) == ("zones/a", "hosts/h2", {"disk": "ssd"})
    assert placement.strategy == instances_pb2.PLACEMENT_STRATEGY_PACK
    assert placement.affinity[0] == instances_pb2.Affinity(labels={"app": "db"}, topology="zone")
    assert placement.anti_affinity[0] == instances_pb2.Affinity(labels={"app": "web", "tier": "1"}, soft=True)
    assert (list(spec.capabilities_add), list(spec.capabilities_drop)) == (["NET_ADMIN"], ["ALL"])
    assert spec.ulimits[0] == common_pb2.Ulimit(name="nofile", soft=10, hard=20)
    assert list(spec.mounts) == [
        common_pb2.Mount(kind="bind", source="/a", target="/b", read_only=True),
        common_pb2.Mount(kind="bind", source="/c", target="/d", read_only=True),
        common_pb2.Mount(kind="tmpfs", target="/tmp", size_bytes=16 * 1024**2),
    ]
    assert spec.devices[0] == common_pb2.Device(host_path="/dev/x", container_path="/dev/y", permissions="r")
    assert (spec.privileged, spec.read_only_root, spec.init) == (True, True, True)
    assert spec.restart == common_pb2.RestartPolicy(mode=common_pb2.RESTART_MODE_ON_FAILURE, max_restarts=4)
    assert list(spec.health_check.test) == ["CMD-SHELL", "true"]
    assert (spec.health_check.interval.seconds, spec.health_check.retries) == (5, 2)
    assert dict(spec.sysctls) == {"net.core.somaxconn": "9"}
    assert (list(spec.dns_servers), list(spec.dns_search)) == (["192.0.2.1"], ["x.y"])
    assert dict(spec.extra_hosts) == {"db": "192.0.2.9"}
    assert (spec.log_max_bytes, spec.log_max_files, spec.user_data) == (1024**2, 2, "hello")


def test_nothing_given_is_nothing_sent(nginx: None, moor: Moor, plane: Plane) -> None:
    moor("run", "nginx")
    assert created(plane).spec == instances_pb2.InstanceSpec(template=NGINX)


def test_one_address_is_not_for_many() -> None:
    with pytest.raises(InvalidSpec):
        wish_of("projects/default", "nginx", {"count": 2, "network": ("back:10.1.0.9",)})


def test_create_waits_for_nothing(nginx: None, moor: Moor, plane: Plane) -> None:
    assert moor("instance", "create", "--name", "web", "nginx").stdout == f"{WEB}\n"
    assert plane.requests("Watch") == []
    moor("instance", "create", "absent", code=3)


@pytest.mark.parametrize(
    ("verb", "state"), [("stop", "STOPPED"), ("pause", "PAUSED"), ("unpause", "RUNNING"), ("reboot", "RUNNING")]
)
def test_lifecycle_waits_until_it_is_so(web: None, moor: Moor, plane: Plane, verb: str, state: str) -> None:
    if verb == "unpause":
        plane.state(WEB, "PAUSED")
    assert moor("instance", verb, "web").stdout == "web\n"
    assert not plane.script
    assert plane.objects[WEB].status.state == instances_pb2.InstanceState.Value(f"INSTANCE_STATE_{state}")


def test_start_of_a_stopped_and_of_a_running_one(web: None, moor: Moor, plane: Plane) -> None:
    plane.state(WEB, "FAILED")
    moor("start", "web")
    assert plane.objects[WEB].status.run == 2
    moor("start", "web", "--no-wait")


def test_rm_waits_until_it_is_gone(web: None, moor: Moor, plane: Plane) -> None:
    assert moor("rm", "web").stdout == "web\n"
    assert WEB not in plane.objects
    assert "does not exist" in moor("rm", "web", code=3).stderr
    moor("rm", "-f", "web")


def test_one_bad_name_does_not_keep_the_others(web: None, moor: Moor, plane: Plane) -> None:
    result = moor("rm", "absent", "web", code=3)
    assert result.stdout == "web\n"
    assert WEB not in plane.objects


def test_replace(web: None, moor: Moor, plane: Plane) -> None:
    moor("instance", "replace", "web")
    assert not plane.requests("ReplaceInstance")[0].HasField("spec")
    plane.put(templates_pb2.Template(name="projects/default/templates/two"))
    moor("instance", "replace", "--template", "two", "-e", "A=1", "web", "cmd")
    spec = plane.requests("ReplaceInstance")[1].spec
    assert spec.template == "projects/default/templates/two"
    assert (dict(spec.env), list(spec.command)) == ({"A": "1"}, ["cmd"])


def test_user_data_from_a_file(web: None, moor: Moor, plane: Plane, tmp_path: Path) -> None:
    (tmp_path / "user-data").write_text("#!/bin/sh\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    moor("instance", "update", "web", "--user-data", f"@{tmp_path}/user-data")
    moor("instance", "update", "web", "--user-data", "")
    one, two = plane.requests("UpdateInstance")
    assert (list(one.update_mask.paths), one.instance.spec.user_data) == (["spec.user_data"], "#!/bin/sh\n")
    assert (list(two.update_mask.paths), two.instance.spec.user_data) == (["spec.user_data"], "")
    for name in ("binary", "none"):
        assert (
            "cannot be read" in moor("instance", "update", "web", "--user-data", f"@{tmp_path}/{name}", code=2).output
        )


def test_update_names_what_changes(web: None, moor: Moor, plane: Plane) -> None:
    moor(
        "instance",
        "update",
        "web",
        "--memory",
        "1g",
        "-l",
        "a=b",
        "--restart",
        "no",
        "-p",
        "81:80",
        "--add-host",
        "d:::1",
    )
    (asked,) = plane.requests("UpdateInstance")
    assert list(asked.update_mask.paths) == [
        "labels",
        "spec.resources",
        "spec.restart",
        "spec.published_ports",
        "spec.extra_hosts",
    ]
    assert dict(asked.instance.spec.extra_hosts) == {"d": "::1"}
    moor("instance", "update", "web", "-l", "a-")
    assert dict(plane.objects[WEB].labels) == {}
    moor("instance", "update", "web", code=2)


def test_explain(web: None, moor: Moor) -> None:
    assert moor("explain", "web").stdout == (
        "web is on h1. It has the most room.\n"
        "3 hosts were looked at.\n"
        "\n"
        "Why not others\n"
        "FILTER   HOSTS   WHY                      SUCH AS\n"
        "cpu      1       less than 500m is free   h3\n"
        "\n"
        "Best of those that fit\n"
        "HOST          SCORE   WHY\n"
        "h1 (chosen)   0.75    75% free\n"
        "h2            0.5     50% free\n"
    )


def test_explain_of_one_that_nothing_fits(web: None, moor: Moor, plane: Plane) -> None:
    found = plane.get(WEB)
    found.status.host = found.status.placement.host = ""
    found.status.placement.ClearField("scores")
    found.status.placement.summary = ""
    plane.put(found)
    plane.state(WEB, "PENDING", message="waits for a host with 500m of CPU")
    assert moor("explain", "web").stdout.splitlines()[0] == "web has no host: none of those looked at fits."
    assert moor("explain", "web").stdout.splitlines()[-1] == "Now: PENDING. waits for a host with 500m of CPU"
    found.status.ClearField("placement")
    plane.put(found)
    assert "nothing was decided" in moor("explain", "web").stdout

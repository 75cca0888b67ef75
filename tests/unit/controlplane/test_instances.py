"""Instances: admitted all or none, changed, replaced, released."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.access.policy import ProjectPolicy
from controlplane.access.quota import Quota
from controlplane.dispatch.assignments import instance_assignment
from controlplane.domain.containers import (
    ContainerDefaults,
    Device,
    Mount,
    PublishedPort,
    Resources,
    RestartMode,
    RestartPolicy,
    Ulimit,
)
from controlplane.domain.instances import (
    Affinity,
    DesiredState,
    InstanceSpec,
    InstanceState,
    Nic,
    Placement,
)
from controlplane.domain.kinds import ADDRESS, INSTANCE, NETWORK, TEMPLATE
from controlplane.domain.templates import TemplateState
from controlplane.services.instance_making import NewInstance
from controlplane.services.instances import LARGEST_BATCH
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from moorage.errors import (
    AlreadyExists,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    QuotaExceeded,
    VersionConflict,
)
from tests.unit.controlplane.world import P, World, problems

_OK = InstanceSpec(template="web")


async def refused(call: Any, kind: type[MoorageError], reason: str = "") -> Any:
    with pytest.raises(kind) as caught:
        await call
    assert not reason or caught.value.reason == reason
    return caught.value


async def test_a_create_is_whole(world: World) -> None:
    made = await world.create("web1")
    assert made.name == "projects/demo/instances/web1"
    assert made.spec.template == "projects/demo/templates/web"
    assert made.image.startswith("uid-demo/uid-web@sha256:")
    assert made.platforms == ("linux/amd64",)
    assert made.observed.state is InstanceState.PENDING
    (nic,) = made.nics
    assert (nic.network, nic.interface) == ("projects/demo/networks/default", "eth0")
    assert [a.rpartition("/")[2] for a in nic.addresses] == ["24", "64"]
    assert len(nic.gateways) == 2
    assert world.get("web1") == made
    assert world.reasons() == ["CREATED"]
    effective = made.effective
    assert (effective.hostname, effective.stop_grace_seconds, effective.log_max_files) == ("web1", 10.0, 3)
    assert effective.restart.mode is RestartMode.ALWAYS
    network = world.networks.get(P, "default")
    assert network.spec.egress, "the default network reaches the outside, as Docker's does"


async def test_a_name_is_made_when_none_is_given(world: World) -> None:
    one, two = await world.create(), await world.create()
    assert one.id != two.id
    assert one.id.startswith("web-")


async def test_defaults_of_the_template(world: World) -> None:
    def write(tx: Any) -> None:
        template = tx.get(TEMPLATE, f"{P}/web").value
        defaults = ContainerDefaults(
            ("run",), ("/init",), {"A": "1", "B": "1"}, resources=Resources(memory_bytes=2**25, pids=7), user="u"
        )
        tx.put(TEMPLATE, replace(template, defaults=defaults))

    await world.store.update(write)
    one = (await world.create("one", env={"B": "2"}, resources=Resources(pids=9))).effective
    assert (one.command, one.entrypoint, dict(one.env), one.user) == (("run",), ("/init",), {"A": "1", "B": "2"}, "u")
    assert one.resources == Resources(memory_bytes=2**25, pids=9)
    two = (await world.create("two", entrypoint=("/own",))).effective
    assert (two.entrypoint, two.command) == (("/own",), ()), "an own entrypoint drops the default command"
    three = (await world.create("three", entrypoint=())).effective
    assert (three.entrypoint, three.command) == ((), ())


async def test_all_or_none(world: World) -> None:
    wanted = [NewInstance(f"i{n}", {}, _OK) for n in range(3)] + [NewInstance("i0", {}, _OK)]
    error = await refused(world.instances.create(P, wanted), AlreadyExists)
    assert error.metadata["name"] == "projects/demo/instances/i0"
    view = world.store.view()
    assert (view.count(INSTANCE), view.count(ADDRESS), view.count(NETWORK)) == (0, 0, 0)
    assert world.reasons() == []
    many = [NewInstance(f"i{n}", {}, _OK) for n in range(LARGEST_BATCH + 1)]
    await refused(world.instances.create(P, many), InvalidSpec, "OUT_OF_RANGE")


async def test_validate_only_changes_nothing_and_explains(world: World) -> None:
    await world.host("a")
    before = world.store.view().revision
    (dry,) = await world.instances.create(P, [NewInstance("i", {}, _OK)], validate_only=True)
    assert dry.host == "a"
    assert dry.placement is not None
    assert "hosts/a" in dry.placement.summary
    assert world.store.view().revision == before
    error = await refused(
        world.instances.create(P, [NewInstance("i", {}, replace(_OK, template="none"))], validate_only=True), NotFound
    )
    assert error.metadata["name"] == "projects/demo/templates/none"


async def test_request_ids(world: World) -> None:
    wanted = [NewInstance("", {}, _OK)]
    first = await world.instances.create(P, wanted, request_key="ann/Create/1", body=b"x")
    again = await world.instances.create(P, wanted, request_key="ann/Create/1", body=b"x")
    assert [i.uid for i in first] == [i.uid for i in again]
    await refused(
        world.instances.create(P, wanted, request_key="ann/Create/1", body=b"y"), AlreadyExists, "REQUEST_ID_REUSED"
    )
    both = await asyncio.gather(
        *(world.instances.create(P, wanted, request_key="ann/Create/2", body=b"x") for _ in range(2))
    )
    assert both[0][0].uid == both[1][0].uid, "two at the same time are one"


async def test_every_bad_field_of_every_instance_at_once(world: World) -> None:
    bad = InstanceSpec(
        template="",
        command=("a\0b",),
        env={"A=B": "x", "OK": "\0"},
        hostname="-no",
        workdir="rel",
        stop_signal="kill me",
        stop_grace_seconds=-1,
        resources=Resources(cpu_millis=5, cpu_shares=1, memory_bytes=100, memory_swap_bytes=50, pids=-1, shm_bytes=-1),
        ulimits=(Ulimit("nope", 1, 2), Ulimit("nofile", 3, 2)),
        log_max_bytes=1,
        log_max_files=101,
        user_data="ü" * 8193,
        restart=RestartPolicy(initial_seconds=5, max_seconds=1, max_restarts=-1, reset_after_seconds=-1),
        mounts=(Mount("/"), Mount("/a", "volume"), Mount("/a", "tmpfs", "/src"), Mount("/x/../y")),
        devices=(Device("/etc/passwd", permissions="rwx"),),
        capabilities_add=("net admin",),
        sysctls={"vm.swappiness": "1"},
        published_ports=(PublishedPort(0, 70000, "sctp", "nowhere"), PublishedPort(80, 1), PublishedPort(80, 2, "tcp")),
        nics=(Nic(""),),
        dns_servers=("x",),
        extra_hosts={"a b": "10.0.0.1"},
        placement=Placement(host="a", zone="zones/a/b", affinity=(Affinity({}),)),
    )
    wanted = [
        NewInstance("UP", {"moorage.x": "1"}, bad, "requests[0].instance"),
        NewInstance("ok", {"-": "1"}, _OK, "requests[1].instance"),
    ]
    error = await refused(world.instances.create(P, wanted), InvalidSpec)
    found = problems(error)
    spec = "requests[0].instance.spec"
    assert set(found) >= {
        ("requests[0].instance_id", "NAME_INVALID"),
        ("requests[0].instance.labels[moorage.x]", "LABEL_RESERVED"),
        ("requests[1].instance.labels[-]", "LABEL_INVALID"),
        (f"{spec}.template", "REQUIRED"),
        (f"{spec}.command", "INVALID"),
        (f"{spec}.env[A=B]", "ENV_INVALID"),
        (f"{spec}.env[OK]", "ENV_INVALID"),
        (f"{spec}.hostname", "HOSTNAME_INVALID"),
        (f"{spec}.workdir", "INVALID_PATH"),
        (f"{spec}.stop_signal", "INVALID"),
        (f"{spec}.stop_grace", "OUT_OF_RANGE"),
        *((f"{spec}.resources.{n}", "OUT_OF_RANGE") for n in ("cpu_millis", "cpu_shares", "memory_bytes", "pids")),
        (f"{spec}.resources.memory_swap_bytes", "OUT_OF_RANGE"),
        (f"{spec}.resources.shm_bytes", "OUT_OF_RANGE"),
        (f"{spec}.ulimits[0].name", "INVALID"),
        (f"{spec}.ulimits[1].soft", "OUT_OF_RANGE"),
        (f"{spec}.log_max_bytes", "OUT_OF_RANGE"),
        (f"{spec}.log_max_files", "OUT_OF_RANGE"),
        (f"{spec}.user_data", "OUT_OF_RANGE"),
        (f"{spec}.restart.initial", "OUT_OF_RANGE"),
        (f"{spec}.restart.reset_after", "OUT_OF_RANGE"),
        (f"{spec}.restart.max_restarts", "OUT_OF_RANGE"),
        (f"{spec}.mounts[0].target", "INVALID_PATH"),
        (f"{spec}.mounts[1].kind", "INVALID"),
        (f"{spec}.mounts[2].target", "INVALID"),
        (f"{spec}.mounts[2]", "INVALID"),
        (f"{spec}.mounts[3].target", "INVALID_PATH"),
        (f"{spec}.devices[0]", "INVALID"),
        (f"{spec}.capabilities_add[0]", "INVALID"),
        (f"{spec}.sysctls[vm.swappiness]", "SYSCTL_INVALID"),
        (f"{spec}.published_ports[0].host_port", "OUT_OF_RANGE"),
        (f"{spec}.published_ports[0].container_port", "OUT_OF_RANGE"),
        (f"{spec}.published_ports[0].protocol", "INVALID"),
        (f"{spec}.published_ports[0].host_address", "ADDRESS_INVALID"),
        (f"{spec}.published_ports[2].host_port", "HOST_PORT_TAKEN"),
        (f"{spec}.nics[0].network", "REQUIRED"),
        (f"{spec}.dns_servers[0]", "ADDRESS_INVALID"),
        (f"{spec}.extra_hosts[a b]", "ADDRESS_INVALID"),
        (f"{spec}.placement.host", "NAME_INVALID"),
        (f"{spec}.placement.zone", "NAME_INVALID"),
        (f"{spec}.placement.affinity[0].labels", "REQUIRED"),
    }
    assert error.reason == "INVALID_SPEC"


async def test_what_is_refers_to_nothing(world: World) -> None:
    await refused(world.create("i", template="none"), NotFound)
    await refused(world.create("i", template="projects/other/templates/web"), InvalidSpec, "OTHER_PROJECT")
    await refused(world.create("i", template="projects/demo/networks/web"), InvalidSpec, "NAME_INVALID")
    await refused(world.create("i", Nic("none")), NotFound)
    await refused(world.create("i", Nic("projects/other/networks/n")), InvalidSpec, "OTHER_PROJECT")
    await refused(world.instances.create("none", [NewInstance("i", {}, _OK)]), NotFound)
    assert world.store.view().count(NETWORK) == 0


async def test_a_template_that_is_not_ready(world: World) -> None:
    def write(tx: Any) -> None:
        template = tx.get(TEMPLATE, f"{P}/web").value
        tx.put(TEMPLATE, replace(template, status=replace(template.status, state=TemplateState.PENDING)))

    await world.store.update(write)
    await refused(world.create("i"), NotReady, "TEMPLATE_NOT_READY")


async def test_quota_is_charged_and_given_back(world: World) -> None:
    quota = Quota(instances=2, memory_bytes=2**28, addresses=4)
    await world.projects.update(P, quota=quota)
    big = Resources(memory_bytes=2**27)
    one = await world.create("one", resources=big)
    await world.create("two", resources=big)
    error = await refused(world.create("three", resources=big), QuotaExceeded)
    assert error.metadata["resources"] == "instances,memory_bytes,addresses"
    await world.instances.delete(P, [one.id])
    error = await refused(world.create("three", resources=Resources(memory_bytes=2**28)), QuotaExceeded)
    assert error.metadata["resources"] == "memory_bytes"
    await world.create("three", no_network=True, resources=big)
    error = await refused(
        world.changes.update(P, "three", spec_fields={"resources": Resources(memory_bytes=2**28)}), QuotaExceeded
    )
    await world.changes.update(P, "three", spec_fields={"resources": Resources(memory_bytes=2**26)})


async def test_policy(world: World) -> None:
    wishes: dict[str, Any] = {
        "privileged": True,
        "mounts": (Mount("/data", "bind", "/srv/data/x"), Mount("/tmp/x", "tmpfs")),
        "devices": (Device("/dev/kvm"),),
        "capabilities_add": ("NET_ADMIN", "CHOWN"),
    }
    error = await refused(world.create("i", **wishes), InvalidSpec)
    assert problems(error) == [
        ("instance.spec.privileged", "POLICY_PRIVILEGED"),
        ("instance.spec.mounts[0].source", "POLICY_HOST_PATH"),
        ("instance.spec.devices[0].host_path", "POLICY_DEVICE"),
        ("instance.spec.capabilities_add[0]", "POLICY_CAPABILITY"),
    ]
    policy = ProjectPolicy(True, ("/srv/data",), ("/dev/kvm",), ("NET_ADMIN",))
    await world.projects.update(P, policy=policy)
    made = await world.create("i", **wishes)
    await world.projects.update(P, policy=ProjectPolicy())
    await refused(world.changes.replace(P, "i", spec=made.spec), InvalidSpec)


async def test_etags(world: World) -> None:
    made = await world.create("i")
    etag = etag_of(made)
    stopped = await world.instances.stop(P, "i", etag)
    for call in (
        world.instances.start(P, "i", etag),
        world.instances.reboot(P, "i", etag),
        world.changes.replace(P, "i", etag=etag),
        world.changes.update(P, "i", labels={}, etag=etag),
        world.instances.delete(P, ["i"], etag=etag),
    ):
        await refused(call, VersionConflict, "ETAG_MISMATCH")
    await world.place("i", "a")
    await world.report(world.get("i"), InstanceState.STOPPED)
    assert etag_of(world.get("i")) == etag_of(stopped), "observations leave it"


async def test_delete_waits_for_the_host(world: World) -> None:
    await world.create("free")
    await world.create("placed")
    await world.host("a")
    await world.place("placed", "a")
    await world.instances.delete(P, ["free", "placed", "free"])
    with pytest.raises(NotFound):
        world.get("free")
    placed = world.get("placed")
    assert placed.desired is DesiredState.DELETED
    assert placed.nics[0].addresses, "its addresses are its own until the container is gone"
    await world.instances.delete(P, ["placed"])
    assert world.get("placed") == placed
    await world.instances.delete(P, ["placed"], force=True)
    assert world.get("placed").force
    for call in (world.instances.start, world.instances.stop, world.instances.reboot, world.changes.replace):
        await refused(call(P, "placed"), NotReady, "INSTANCE_DELETING")
    await refused(world.create("placed"), AlreadyExists)
    await world.report(placed, InstanceState.DELETED)
    with pytest.raises(NotFound):
        world.get("placed")
    await world.create("placed")


async def test_deletes_are_all_or_none(world: World) -> None:
    await world.create("i")
    await refused(world.instances.delete(P, ["i", "none"]), NotFound)
    assert world.get("i").desired is DesiredState.RUNNING
    await refused(world.instances.delete(P, [f"i{n}" for n in range(LARGEST_BATCH + 1)]), InvalidSpec, "OUT_OF_RANGE")


async def test_lifecycle(world: World) -> None:
    await world.create("i")
    await world.host("a")
    placed = await world.place("i", "a")
    await refused(world.instances.pause(P, "i"), NotReady, "INSTANCE_NOT_RUNNING")
    await refused(world.instances.unpause(P, "i"), NotReady, "INSTANCE_NOT_PAUSED")
    await world.report(placed, InstanceState.RUNNING)
    running = world.get("i")
    assert await world.instances.start(P, "i") == running, "one that runs is left alone"
    assert (await world.instances.pause(P, "i")).desired is DesiredState.PAUSED
    await refused(world.instances.start(P, "i"), NotReady, "INSTANCE_PAUSED")
    assert (await world.instances.unpause(P, "i")).desired is DesiredState.RUNNING
    stopped = await world.instances.stop(P, "i")
    assert (stopped.desired, stopped.run_request) == (DesiredState.STOPPED, 1)
    assert (await world.instances.stop(P, "i")).generation == stopped.generation
    started = await world.instances.start(P, "i")
    assert (started.desired, started.run_request) == (DesiredState.RUNNING, 2)
    assert (await world.instances.reboot(P, "i")).run_request == 3
    await world.report(world.get("i"), InstanceState.FAILED, sequence=2)
    assert (await world.instances.start(P, "i")).run_request == 4, "one that failed is started again"
    assert world.get("i").container_generation == 1


async def test_update_in_place(world: World) -> None:
    await world.create("i", command=("x",))
    changed = await world.changes.update(
        P, "i", labels={"a": "b"}, spec_fields={"published_ports": (PublishedPort(80, 8080),)}
    )
    assert (changed.labels, changed.generation) == ({"a": "b"}, 2)
    assert changed.effective.published_ports == (PublishedPort(80, 8080, "tcp"),)
    changed = await world.changes.update(P, "i", spec_fields={"user_data": "hello"})
    told = instance_assignment(changed, "rack")
    assert (told.spec.user_data, told.labels, told.zone) == ("hello", {"a": "b"}, "rack")
    error = await refused(
        world.changes.update(P, "i", spec_fields={"command": (), "env": {}, "restart": RestartPolicy()}),
        NotReady,
        "NEEDS_REPLACE",
    )
    assert error.metadata["fields"] == "command,env"
    await refused(world.changes.update(P, "i", spec_fields={"published_ports": (PublishedPort(0, 1),)}), InvalidSpec)
    revision = world.store.view().revision
    dry = await world.changes.update(P, "i", labels={}, validate_only=True)
    assert dry.labels == {}
    assert world.store.view().revision == revision


async def test_what_grows_must_fit_where_it_is(world: World) -> None:
    await world.host("a")  # 8 cores
    for name in ("i", "o"):
        port = PublishedPort(81 if name == "i" else 90, 1)
        await world.create(name, resources=Resources(cpu_millis=3000), published_ports=(port,))
        await world.place(name, "a")
    error = await refused(
        world.changes.update(P, "i", spec_fields={"resources": Resources(cpu_millis=5001)}), NotReady, "DOES_NOT_FIT"
    )
    assert error.metadata["host"] == "hosts/a"
    await world.changes.update(P, "i", spec_fields={"resources": Resources(cpu_millis=5000)})
    await refused(
        world.changes.update(P, "i", spec_fields={"published_ports": (PublishedPort(90, 1),)}),
        NotReady,
        "DOES_NOT_FIT",
    )
    bigger = replace(world.get("i").spec, resources=Resources(cpu_millis=6000))
    await refused(world.changes.replace(P, "i", spec=bigger), NotReady, "DOES_NOT_FIT")


async def test_replace_keeps_the_place_and_the_addresses(world: World) -> None:
    await world.network("n", "10.1.0.0/24")
    before = await world.create("i", Nic("n"), Nic("default"))
    await world.host("a")
    await world.place("i", "a")
    after = await world.changes.replace(P, "i")
    assert after.nics == before.nics
    assert (after.container_generation, after.run_request, after.generation) == (2, 2, 2)
    assert (after.host, after.uid) == ("a", before.uid)
    await world.network("m", "10.2.0.0/24")
    moved = await world.changes.replace(P, "i", spec=replace(before.spec, nics=(Nic("m"), Nic("default"))))
    assert moved.nics[0].addresses == ("10.2.0.2/24",)
    assert moved.nics[1] == before.nics[1]
    fixed = await world.changes.replace(
        P, "i", spec=replace(before.spec, nics=(Nic("m", addresses=("10.2.0.9",)), Nic("default")))
    )
    assert fixed.nics[0].addresses == ("10.2.0.9/24",)
    revision = world.store.view().revision
    await world.changes.replace(P, "i", spec=replace(before.spec, nics=(), no_network=True), validate_only=True)
    assert world.store.view().revision == revision
    gone = await world.changes.replace(P, "i", spec=replace(before.spec, nics=(), no_network=True))
    assert gone.nics == ()


def _names(items: Any) -> list[str]:
    return [item.value.id for item in items]


async def test_listing_by_terms(world: World) -> None:
    await world.host("a")
    for name in ("x", "y", "z"):
        await world.create(name)
    await world.changes.update(P, "y", labels={"app": "web"})
    await world.place("z", "a")
    for terms, expected in {
        "": ["x", "y", "z"],
        "labels.app=web": ["y"],
        "state=PENDING": ["x", "y"],
        "host=hosts/a": ["z"],
        "host=hosts/a state=PENDING": [],
        "template=projects/demo/templates/web desired_state=RUNNING": ["x", "y", "z"],
    }.items():
        assert _names(world.instances.list(P, PageRequest(filter=terms)).items) == expected, terms
    with pytest.raises(InvalidSpec) as caught:
        world.instances.list(P, PageRequest(filter="colour=red"))
    assert caught.value.reason == "FILTER_INVALID"
    assert _names(world.instances.list("-", PageRequest(), frozenset()).items) == []
    assert len(world.instances.list("-", PageRequest(), None).items) == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hostname": "web\n"}, "hostname"),
        ({"env": {"A\n": "x"}}, "env[A\n]"),
        ({"stop_signal": "TERM\n"}, "stop_signal"),
        ({"dns_search": ("a.b\nnameserver 192.0.2.1",)}, "dns_search[0]"),
        ({"dns_servers": ("fe80::1%x\nsearch y",)}, "dns_servers[0]"),
        ({"extra_hosts": {"a": "fe80::1%x\n192.0.2.1 b"}}, "extra_hosts[a]"),
        ({"published_ports": (PublishedPort(80, 80, "", "fe80::1%x; drop"),)}, "published_ports[0].host_address"),
    ],
)
async def test_what_would_break_out_of_a_line(world: World, fields: dict[str, Any], field: str) -> None:
    """These are written into files and rules: an end of line, or a zone of an address, has no place in them."""
    error = await refused(world.create("i", **fields), InvalidSpec)
    assert [name for name, _ in problems(error)] == [f"instance.spec.{field}"]


async def test_names_end_where_they_end(world: World) -> None:
    await refused(world.create("web\n"), InvalidSpec, "NAME_INVALID")
    error = await refused(
        world.instances.create(P, [NewInstance("i", {"app\n": "x"}, _OK)]), InvalidSpec, "LABEL_INVALID"
    )
    assert problems(error)[0][0] == "instance.labels[app\n]"

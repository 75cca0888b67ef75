"""The path that everything else stands on: from a tar to instances on several hosts that reach each other, answer on
a published port, and do what their verbs say."""

import asyncio
import ipaddress
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from moorage.errors import NotReady
from moorage.v1 import common_pb2
from moorage.v1 import instance_streams_pb2 as streams_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support import onhost
from tests.support.plane import FAILED, PAUSED, RUNNING, STAY, STOPPED, Plane, shell, until

UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
WEB = 'trap "exit 0" TERM; httpd -f -p 80 -h /www & wait $!'


def addresses(instance: pb.Instance) -> list[str]:
    """Addresses of an instance, without prefix length."""
    return [str(ipaddress.ip_interface(text).ip) for nic in instance.status.nics for text in nic.addresses]


async def get(plane: Plane, name: str, target: str, port: int = 80) -> str:
    """What a web server says to an instance."""
    _, output = await plane.exec(name, shell(f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w5 {target} {port}"))
    return output


async def test_instances_on_different_hosts_reach_each_other(plane: Plane, hosts: list[Host]) -> None:
    """By address and by name, IPv4 and IPv6."""
    await plane.network("lan")
    made = await plane.run({f"n{n}": plane.spec(WEB, host=n, networks=["lan"]) for n in (1, 2, 3)})

    assert {instance.status.host for instance in made.values()} == {"hosts/h1", "hosts/h2", "hosts/h3"}
    for n in (2, 3):
        both = addresses(made[f"n{n}"])
        assert sorted(ipaddress.ip_address(address).version for address in both) == [4, 6]
        for address in both:
            # Without NET_RAW, as in the instance: the namespace's ping_group_range allows it. Busybox has no such
            # ping, so the host's is used.
            ping = (*UNPRIVILEGED, "ping", "-c1", "-W5", address)
            await onhost.inside(hosts[0], made["n1"].uid, *ping)
        for target in (f"n{n}", *both):
            assert "It runs" in await get(plane, "n1", target)
        code, text = await plane.exec("n1", ["cat", "/etc/hosts"])
        assert code == 0
        assert all(f"{address}\tn{n}" in text for address in both)


async def test_the_first_instruction_sees_addresses_and_default_routes(plane: Plane) -> None:
    """Nothing is waited for inside: the first command of the process prints them."""
    script = "ip address show dev eth0; ip route; ip -6 route; cat /etc/hosts /etc/hostname; " + STAY
    made = await plane.run({"early": plane.spec(script)})

    async def printed() -> str:
        text = await plane.logs("early")
        return text if text.rstrip().endswith("early") else ""

    text = await until(printed, what="the log")
    for address in made["early"].status.nics[0].addresses:
        assert f" {address} " in text
    assert "tentative" not in text
    assert text.count("default via") == 2
    for address in addresses(made["early"]):
        assert f"{address}\tearly" in text


async def test_a_published_port_answers_from_everywhere(plane: Plane, hosts: list[Host]) -> None:
    """From the machine, another host, the host itself, and instances of the same network: itself and a neighbour."""
    await plane.network("lan")
    specs = {
        "web": plane.spec(WEB, host=1, networks=["lan"], ports={8080: 80}),
        "near": plane.spec(host=1, networks=["lan"], ports={8081: 80}),
    }
    await plane.run(specs)
    url = f"http://{hosts[0].address}:8080/"

    async def answers_here() -> bool:
        reader, writer = await asyncio.open_connection(hosts[0].address, 8080)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        text = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return b"It runs" in text

    await until(answers_here, what="the port from the machine", ignore=OSError)
    assert "It runs" in await onhost.fetch(hosts[1], url)
    assert "It runs" in await onhost.fetch(hosts[0], url)
    assert "It runs" in await onhost.fetch(hosts[0], "http://127.0.0.1:8080/")
    for name in ("near", "web"):
        assert "It runs" in await get(plane, name, hosts[0].address, 8080), name


async def test_looking_into_an_instance(plane: Plane) -> None:
    """Logs, exec, copies, statistics and a forwarded connection go over the agent's own connection."""
    script = "echo one; echo two >&2; " + WEB
    await plane.run({"seen": plane.spec(script, env={"COLOUR": "green"})})

    async def printed() -> bool:
        return (await plane.logs("seen")) in ("one\ntwo\n", "two\none\n")

    await until(printed, what="both lines of the log")
    assert len((await plane.logs("seen", tail=1)).splitlines()) == 1

    assert await plane.exec("seen", shell("echo $COLOUR; exit 7")) == (7, "green\n")
    assert await plane.exec("seen", ["wc", "-c"], stdin=b"x" * 100_000) == (0, "100000\n")

    content = bytes(range(256)) * 4096
    await plane.copy_in("seen", "/root", {"blob": content})
    assert await plane.copy_out("seen", "/root/blob") == {"blob": content}

    stats = [
        item
        async for item in plane.client.streams.StreamStats(
            streams_pb2.StreamStatsRequest(name=plane.name("instances", "seen"))
        )
    ]
    assert len(stats) == 1
    assert stats[0].memory_bytes > 0
    assert stats[0].pids >= 2
    assert stats[0].interfaces["eth0"].tx_packets >= 0

    async def forwarded() -> bool:
        return b"It runs" in await plane.forward("seen", 80, b"GET / HTTP/1.0\r\n\r\n")

    await until(forwarded, what="the forwarded port")


async def test_followed_logs_end_with_the_process(plane: Plane) -> None:
    await plane.run({"short": plane.spec('echo begin; read line </dev/zero & trap "echo end; exit 0" TERM; wait')})
    following = asyncio.create_task(plane.logs("short", follow=True))
    await plane.client.instances.StopInstance(pb.StopInstanceRequest(name=plane.name("instances", "short")))
    assert await following == "begin\nend\n"


async def test_stop_start_reboot_keep_container_files_and_addresses(plane: Plane) -> None:
    made = (await plane.run({"same": plane.spec("echo run >>/runs; " + STAY)}))["same"]
    name = made.name

    await plane.client.instances.StopInstance(pb.StopInstanceRequest(name=name))
    stopped = (await plane.reach(["same"], STOPPED))["same"]
    assert stopped.status.exit_code == 0
    await plane.client.instances.StartInstance(pb.StartInstanceRequest(name=name))
    started = (await plane.reach(["same"], RUNNING, after_runs={"same": made.status.run}))["same"]
    await plane.client.instances.RebootInstance(pb.RebootInstanceRequest(name=name))
    rebooted = (await plane.reach(["same"], RUNNING, after_runs={"same": started.status.run}))["same"]

    assert {i.status.container_id for i in (made, started, rebooted)} == {made.status.container_id}
    assert addresses(rebooted) == addresses(made)
    assert await plane.exec("same", ["cat", "/runs"]) == (0, "run\nrun\nrun\n")
    code, output = await plane.exec("same", ["ip", "address", "show", "dev", "eth0"])
    assert code == 0
    assert all(f" {address} " in output for nic in made.status.nics for address in nic.addresses)


async def test_pause_and_unpause(plane: Plane) -> None:
    made = (await plane.run({"frozen": plane.spec()}))["frozen"]
    await plane.client.instances.PauseInstance(pb.PauseInstanceRequest(name=made.name))
    paused = (await plane.reach(["frozen"], PAUSED))["frozen"]
    await plane.client.instances.UnpauseInstance(pb.UnpauseInstanceRequest(name=made.name))
    thawed = await plane.see("frozen", lambda i: i.status.state == RUNNING, what="to run again")
    assert made.status.run == paused.status.run == thawed.status.run
    assert made.status.container_id == thawed.status.container_id


async def test_replace_gives_a_new_container_with_the_same_addresses(plane: Plane) -> None:
    made = (await plane.run({"twin": plane.spec("echo here >/mark; " + STAY)}))["twin"]
    spec = plane.spec(env={"NEW": "yes"})
    await plane.client.instances.ReplaceInstance(pb.ReplaceInstanceRequest(name=made.name, spec=spec))
    replaced = await plane.see(
        "twin",
        lambda i: i.status.state == RUNNING and i.status.container_id != made.status.container_id,
        what="to run in a new container",
    )
    assert addresses(replaced) == addresses(made)
    assert await plane.exec("twin", shell("echo $NEW; test -e /mark")) == (1, "yes\n")


async def test_update_in_place_and_what_needs_a_replacement(plane: Plane, hosts: list[Host]) -> None:
    """Memory and ports of a running container change; its command cannot, and the answer says so."""
    made = (await plane.run({"grown": plane.spec(WEB, host=2, memory_bytes=64 << 20)}))["grown"]
    spec = plane.spec(WEB, ports={8090: 80}, memory_bytes=128 << 20)
    await plane.client.instances.UpdateInstance(
        pb.UpdateInstanceRequest(
            instance=pb.Instance(name=made.name, spec=spec),
            update_mask=FieldMask(paths=["spec.resources", "spec.published_ports"]),
        )
    )

    async def is_grown() -> bool:
        limit = await hosts[1].docker("inspect", "--format", "{{.HostConfig.Memory}}", made.status.container_id)
        return int(limit) == 128 << 20

    async def answers() -> bool:
        return "It runs" in await onhost.fetch(hosts[1], f"http://{hosts[1].address}:8090/", check=False)

    await until(is_grown, what="the new limit")
    await until(answers, what="the new port")
    assert (await plane.get("grown")).status.run == made.status.run

    with pytest.raises(NotReady) as refused:
        await plane.client.instances.UpdateInstance(
            pb.UpdateInstanceRequest(
                instance=pb.Instance(name=made.name, spec=plane.spec("true")),
                update_mask=FieldMask(paths=["spec.command"]),
            )
        )
    assert refused.value.reason == "NEEDS_REPLACE"
    assert refused.value.metadata["fields"] == "command"


def restart(mode: "common_pb2.RestartMode.ValueType", *, max_restarts: int = 0) -> common_pb2.RestartPolicy:
    """A restart policy with short delays."""
    short = Duration(nanos=50_000_000)
    return common_pb2.RestartPolicy(mode=mode, initial=short, max=short, max_restarts=max_restarts)


async def test_restart_policies_and_the_crash_loop_limit(plane: Plane) -> None:
    never, on_failure = common_pb2.RESTART_MODE_NEVER, common_pb2.RESTART_MODE_ON_FAILURE
    twice = "echo run >>/runs; test $(wc -l </runs) -ge 3 && exit 0; exit 9"
    await plane.start_all(
        {
            "once": plane.spec("exit 5", restart=restart(never)),
            "until-well": plane.spec(twice, restart=restart(on_failure)),
            "hopeless": plane.spec("exit 6", restart=restart(on_failure, max_restarts=2)),
        }
    )
    once = await plane.see(
        "once", lambda i: i.status.state == STOPPED and i.status.HasField("exit_code"), what="an end"
    )
    assert (once.status.exit_code, once.status.restarts) == (5, 0)
    well = await plane.see(
        "until-well",
        lambda i: i.status.state == STOPPED and i.status.exit_code == 0 and i.status.restarts,
        what="an end",
    )
    assert well.status.restarts == 2
    hopeless = (await plane.reach(["hopeless"], FAILED))["hopeless"]
    assert (hopeless.status.reason, hopeless.status.exit_code, hopeless.status.restarts) == ("CRASH_LOOP", 6, 2)


async def test_a_process_that_the_kernel_kills_for_memory_says_so(plane: Plane) -> None:
    never = restart(common_pb2.RESTART_MODE_NEVER)
    hungry = plane.spec("x=x; while :; do x=$x$x; done", memory_bytes=16 << 20, restart=never)
    await plane.start_all({"hungry": hungry})
    killed = await plane.see("hungry", lambda i: i.status.state == STOPPED and i.status.run, what="an end")
    assert killed.status.oom_killed
    assert (killed.status.reason, killed.status.exit_code) == ("OOM_KILLED", 137)


async def test_an_instance_says_why_it_is_where_it_is(plane: Plane) -> None:
    fits = pb.CreateInstanceRequest(
        parent=plane.project,
        instance_id="asked",
        instance=pb.Instance(spec=plane.spec(host=2)),
        validate_only=True,
    )
    dry = await plane.client.instances.CreateInstance(fits)
    assert dry.status.placement.host == "hosts/h2"
    assert plane.name("instances", "asked") not in await plane.instances()

    await plane.start_all({"vast": plane.spec(memory_bytes=1 << 50)})
    vast = await plane.see("vast", lambda i: i.status.placement.filters, what="an explanation")
    assert vast.status.state == pb.INSTANCE_STATE_PENDING
    assert vast.status.placement.hosts_considered == 3
    assert {f.filter: f.hosts_removed for f in vast.status.placement.filters if f.hosts_removed} == {"memory": 3}
    assert vast.status.message


async def test_a_delete_leaves_nothing_on_the_host(plane: Plane, fleet: Fleet, hosts: list[Host]) -> None:
    """No container, namespace, link or file, and the address can be given again at once."""
    await plane.network("lan", "10.9.0.0/24")
    made = (await plane.run({"gone": plane.spec(host=3, networks=["lan=10.9.0.9"], ports={8099: 80})}))["gone"]
    started = time.monotonic()
    await plane.delete(["gone"])
    assert time.monotonic() - started < 10
    assert made.uid not in {c.instance for c in await onhost.containers(hosts[2])}
    assert made.uid not in await onhost.namespaces(hosts[2])
    assert made.uid not in (await hosts[2].run(["ls", str(fleet.config.host(3).agent_data / "instances")])).split()
    again = await plane.run({"next": plane.spec(host=3, networks=["lan=10.9.0.9"], ports={8099: 80})})
    assert "10.9.0.9" in addresses(again["next"])

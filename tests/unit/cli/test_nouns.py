"""The smaller nouns: what they ask for, and what they say."""

import asyncio
import json
import re
import sys

import pytest

from cli.names import in_project, is_id, template_id_of
from cli.nics import nic
from cli.security_group import rule_text
from cli.spec import apply_options
from moorage.errors import InvalidSpec, NotReady
from moorage.v1 import dns_pb2, events_pb2, hosts_pb2, instances_pb2, networks_pb2, operations_pb2, projects_pb2
from tests.unit.cli.conftest import Moor, Served
from tests.unit.cli.plane import EPOCH, Plane


def test_host(moor: Moor, plane: Plane) -> None:
    plane.put(hosts_pb2.Host(name="hosts/h1", labels={"a": "1", "b": "2"}, etag="e7"))
    moor("host", "label", "h1", "a=3", "b-", "--zone", "z")
    (asked,) = plane.requests("UpdateHost")
    assert (dict(asked.host.labels), asked.host.zone, asked.host.etag) == ({"a": "3"}, "zones/z", "e7")
    assert list(asked.update_mask.paths) == ["labels", "zone"]
    moor("host", "label", "h1", code=2)
    moor("host", "label", "h1", "nonsense", code=2)
    assert moor("host", "cordon", "h1").output == "h1 takes no more instances.\n"
    assert moor("host", "uncordon", "hosts/h1").output == "h1 takes instances.\n"
    assert moor("host", "release-brake", "h1").output == "The sweep of h1 goes on.\n"
    assert "some instances will run twice" in moor("host", "lost", "h1", input="n\n", code=1).output
    assert plane.requests("DeclareHostLost") == []
    moor("host", "lost", "h1", "--dry-run")
    assert "LOST" not in moor("host", "ls").output
    assert "LOST" in moor("host", "lost", "h1", "--yes").output
    assert [asked.validate_only for asked in plane.requests("DeclareHostLost")] == [True, False]
    assert "Is h1 gone for good?" in moor("host", "rm", "--force", "h1", input="n\n", code=1).output
    assert plane.requests("DeleteHost") == []
    moor("host", "rm", "--force", "--yes", "h1")
    assert plane.requests("DeleteHost")[0].force
    moor("host", "rm", "h1", code=3)


def test_zone_and_project(moor: Moor, plane: Plane) -> None:
    assert moor("zone", "create", "a", "--description", "rack").output == "zones/a\n"
    assert moor("zone", "rm", "a").output == "Deleted a.\n"
    assert moor("project", "create", "p").output == "projects/p\n"
    moor("project", "update", "p", "--instances", "5", "--cpu", "2", "--memory", "1g", "--allow-privileged")
    words = ["--allow-capability", "NET_ADMIN", "--allow-host-path", "none", "--networks", "0", "--instances", "6"]
    moor("project", "update", "p", *words)
    found: projects_pb2.Project = plane.get("projects/p")
    assert (found.quota.instances, found.quota.cpu_millis, found.quota.memory_bytes) == (6, 2000, 1024**3)
    assert found.policy.allow_privileged
    assert list(found.policy.allowed_capabilities) == ["NET_ADMIN"]
    assert list(plane.requests("UpdateProject")[1].update_mask.paths) == ["quota", "policy"]
    moor("project", "update", "p", "--instances", "6")
    assert len(plane.requests("UpdateProject")) == 2  # nothing changed
    moor("project", "update", "p", code=2)
    assert moor("project", "member", "set", "p", "ada", "operator").output.split() == [
        "USER",
        "ROLE",
        "ada",
        "operator",
    ]
    moor("project", "member", "set", "p", "ada", "king", code=2)
    moor("project", "member", "rm", "p", "ada")
    assert moor("project", "rm", "p").output == "Deleted p.\n"


def test_secrets_are_alone_on_standard_output(moor: Moor, plane: Plane) -> None:
    result = moor("key", "create", "--expires", "30d", "--fleet-admin")
    assert result.stdout == "mk_k1_secret\n"
    assert result.stderr == "Key k1 of ada; it is shown this once:\n"
    assert plane.requests("CreateApiKey")[0].api_key.expire_time.seconds > EPOCH
    assert json.loads(moor("key", "create", "--user", "bob", "-o", "json").stdout)["secret"] == "mk_k1_secret"
    assert moor("key", "rm", "k1").output == "Ended k1.\n"
    result = moor("join-token", "create", "--ttl", "2h", "--uses", "3", "--zone", "a")
    assert result.stdout == "mj_secret\n"
    (asked,) = plane.requests("CreateJoinToken")
    assert (asked.time_to_live.seconds, asked.max_uses, asked.zone) == (7200, 3, "zones/a")
    assert moor("join-token", "revoke", "t1").output == "Revoked t1.\n"


def test_network(moor: Moor, plane: Plane) -> None:
    subnet = "10.1.0.0/24,gateway=10.1.0.1,range=10.1.0.9-10.1.0.20"
    moor("network", "create", "back", "--subnet", subnet, "--subnet", "fd00::/64", "--egress", "--mtu", "1400")
    spec = plane.requests("CreateNetwork")[0].network.spec
    assert spec.subnets[0] == networks_pb2.Subnet(cidr="10.1.0.0/24", gateway="10.1.0.1", ranges=["10.1.0.9-10.1.0.20"])
    assert (spec.kind, spec.egress, spec.mtu) == (networks_pb2.NETWORK_KIND_ISOLATED, True, 1400)
    moor("network", "create", "wire", "--shared-bridge", "br0")
    spec = plane.requests("CreateNetwork")[1].network.spec
    assert (spec.kind, spec.bridge) == (networks_pb2.NETWORK_KIND_SHARED, "br0")
    moor("network", "create", "lan", "--shared-nic", "eth1", "--plug", "macvlan-vepa", "--vlan", "7")
    spec = plane.requests("CreateNetwork")[2].network.spec
    assert (spec.kind, spec.parent, spec.vlan_id) == (networks_pb2.NETWORK_KIND_SHARED, "eth1", 7)
    assert (spec.attachment, spec.macvlan_mode) == (
        networks_pb2.SHARED_ATTACHMENT_MACVLAN,
        networks_pb2.MACVLAN_MODE_VEPA,
    )
    moor("network", "update", "back", "--no-egress")
    assert not plane.get("projects/default/networks/back").spec.egress
    moor("network", "create", "x", "--subnet", "10.0.0.0/8,what=1", code=2)
    assert moor("network", "rm", "back").output == "Deleted back.\n"


def test_how_names_are_answered(moor: Moor, plane: Plane) -> None:
    moor("network", "create", "back", "--dns-domain", "a.example", "--dns-forwarder", "9.9.9.9", "--no-dns-forwarding")
    dns = plane.requests("CreateNetwork")[0].network.spec.dns
    assert dns == networks_pb2.NetworkDns(domain="a.example", forwarders=["9.9.9.9"], no_forwarding=True)
    moor("network", "update", "back", "--dns-forwarder", "")
    moor("network", "update", "back", "--dns-forwarding", "--dns-domain", "")
    one, two = plane.requests("UpdateNetwork")
    assert (list(one.update_mask.paths), list(one.network.spec.dns.forwarders)) == (["spec.dns.forwarders"], [])
    assert list(two.update_mask.paths) == ["spec.dns.domain", "spec.dns.no_forwarding"]
    moor("network", "update", "back", code=2)


def test_dhcp_keeps_what_is_not_named(moor: Moor, plane: Plane) -> None:
    words = ("--dhcp-range", "10.1.0.100-10.1.0.199", "--dhcp-option", "42=10.1.0.5", "--dhcp-lease", "2h")
    moor("network", "create", "back", *words)
    moor(
        "network", "update", "back", "--dhcp-option", "6=10.1.0.6", "--dhcp-host", "02:00:00:00:00:01,10.1.0.7,printer"
    )
    moor("network", "update", "back", "--no-dhcp")
    moor("network", "update", "back", "--dhcp-range", "")
    one, two, three = plane.requests("UpdateNetwork")
    assert list(one.update_mask.paths) == ["spec.dhcp"]
    dhcp = one.network.spec.dhcp
    assert (list(dhcp.ranges), dhcp.lease_time.seconds, dhcp.enabled) == (["10.1.0.100-10.1.0.199"], 7200, True)
    assert [(option.code, option.value) for option in dhcp.options] == [(6, "10.1.0.6")]
    assert dhcp.hosts[0].address == "10.1.0.7"
    dhcp = three.network.spec.dhcp
    assert (list(dhcp.ranges), len(dhcp.hosts), dhcp.lease_time.seconds) == ([], 1, 7200)
    assert (list(two.network.spec.dhcp.ranges), two.network.spec.dhcp.enabled) == (["10.1.0.100-10.1.0.199"], False)
    moor("network", "update", "back", "--dhcp-option", "frob=x", code=2)


def test_dns_records(moor: Moor, plane: Plane) -> None:
    words = ("www", "a", "192.0.2.1", "192.0.2.2", "--ttl", "60", "--id", "web")
    name = "projects/default/networks/back/records/web"
    assert moor("dns", "record", "create", "back", *words).output == f"{name}\n"
    moor("dns", "record", "create", "back", "@", "MX", "10 mail", "--id", "mail")
    one, two = plane.requests("CreateDnsRecord")
    assert (one.parent, one.dns_record.spec.type) == ("projects/default/networks/back", dns_pb2.DNS_RECORD_TYPE_A)
    assert (list(one.dns_record.spec.values), one.dns_record.spec.ttl.seconds) == (["192.0.2.1", "192.0.2.2"], 60)
    assert not two.dns_record.spec.HasField("ttl")
    listed = moor("dns", "record", "ls", "back").output
    assert re.search(r"web +www.back.internal +A +192.0.2.1,192.0.2.2 +60", listed)
    moor("dns", "record", "update", "back", "web", "192.0.2.3")
    assert plane.get(name).spec.values == ["192.0.2.3"]
    moor("dns", "record", "update", "back", "web", "--ttl", "0")
    assert list(plane.requests("UpdateDnsRecord")[1].update_mask.paths) == ["spec.ttl"]
    moor("dns", "record", "update", "back", "web", code=2)
    assert "192.0.2.3" in moor("dns", "record", "get", "back", "web").output
    assert moor("dns", "record", "rm", "back", "web", "mail").output == "Deleted web.\nDeleted mail.\n"
    moor("dns", "record", "rm", "back", "web", code=3)


def test_plugging(moor: Moor, plane: Plane) -> None:
    name = "projects/default/instances/web"
    auto = instances_pb2.NicStatus(
        network="projects/default/networks/default", interface="eth0", addresses=["10.1.0.2/24", "fd00::2/64"]
    )
    status = instances_pb2.InstanceStatus(host="hosts/h1", nics=[auto])
    plane.put(instances_pb2.Instance(name=name, etag="e1", status=status))

    def asked() -> instances_pb2.InstanceSpec:
        (*_, last) = plane.requests("UpdateInstance")
        assert (last.instance.etag, list(last.update_mask.paths)) == ("e1", ["spec.nics", "spec.no_network"])
        return last.instance.spec

    def ready() -> None:
        found = plane.get(name)
        found.status.nics_ready = True
        plane.put(found)

    plane.script.append(ready)
    result = moor("network", "attach", "back", "web", "--address", "10.2.0.7", "--interface", "data0")
    assert result.stdout == "eth0  default  10.1.0.2/24, fd00::2/64\n"
    assert [(nic.network, nic.interface, list(nic.addresses)) for nic in asked().nics] == [
        ("projects/default/networks/default", "eth0", []),
        ("projects/default/networks/back", "data0", ["10.2.0.7"]),
    ]
    assert "is on back" in moor("network", "attach", "back", "web", code=2).stderr
    moor("network", "add-address", "default", "web", "10.1.0.9", "10.1.0.10")
    assert list(asked().nics[0].addresses) == ["10.1.0.2", "fd00::2", "10.1.0.9", "10.1.0.10"]
    moor("network", "remove-address", "default", "web", "10.1.0.2")
    assert list(asked().nics[0].addresses) == ["fd00::2"]
    moor("network", "remove-address", "default", "web", "10.1.0.3", code=3)
    moor("network", "tune", "back", "web", "--rate-out", "1.5mbit", "--route", "10.9.0.0/16@10.1.0.1", "--mtu", "1400")
    tuned = asked().nics[1]
    assert (tuned.rate_out_bits, tuned.mtu, tuned.interface) == (1_500_000, 1400, "data0")
    rule = "from 10.1.0.5 to 10.9.0.0/16 fwmark 0x10 table 100 priority 7 via 10.1.0.1 route 10.8.0.0/16"
    moor("network", "tune", "back", "web", "--rule", rule, "--route", "", "--rate-out", "0")
    tuned = asked().nics[1]
    routes = [("0.0.0.0/0", "10.1.0.1"), ("10.8.0.0/16", "")]
    (made,) = tuned.rules
    assert (made.source, made.destination, made.fwmark, made.table, made.priority) == (
        "10.1.0.5",
        "10.9.0.0/16",
        16,
        100,
        7,
    )
    assert [(one.destination, one.gateway) for one in made.routes] == routes
    assert (list(tuned.routes), tuned.rate_out_bits, tuned.mtu) == ([], 0, 1400)
    for bad in (("--rate-in", "10"), ("--rule", "from"), ("--rule", "here 5"), ("--rule", "table x"), ()):
        moor("network", "tune", "back", "web", *bad, code=2)
    moor("network", "detach", "back", "web", "--no-wait")
    assert [nic.network for nic in asked().nics] == ["projects/default/networks/default"]
    moor("network", "detach", "back", "web", code=3)
    moor("network", "detach", "default", "web")
    assert asked().no_network


def test_errors_of_fields_are_lines(moor: Moor, plane: Plane) -> None:
    from moorage.errors import FieldViolation

    violations = [
        FieldViolation("network.spec.subnets[0].cidr", "is no subnet"),
        FieldViolation("network_id", "is bad"),
    ]
    plane.failures["CreateNetwork"] = InvalidSpec(violations)
    assert moor("network", "create", "x", code=2).stderr == (
        "Error: these fields are wrong:\n  network.spec.subnets[0].cidr: is no subnet\n  network_id: is bad\n"
    )
    plane.failures["CreateNetwork"] = NotReady("the project is being deleted; use another one")
    assert moor("network", "create", "x", code=6).stderr == "Error: the project is being deleted; use another one\n"


def test_operation(moor: Moor, plane: Plane) -> None:
    name = "projects/default/operations/op"
    state = operations_pb2.OPERATION_STATE_RUNNING
    plane.put(operations_pb2.Operation(name=name, state=state, phase="push", percent=50))
    plane.script.append(
        lambda: plane.put(
            operations_pb2.Operation(name=name, state=operations_pb2.OPERATION_STATE_SUCCEEDED, percent=100)
        )
    )
    result = moor("operation", "wait", "op")
    assert result.stderr == "op: push\n"
    assert "SUCCEEDED   100%" in result.stdout
    plane.put(operations_pb2.Operation(name=name, state=state))
    assert moor("operation", "cancel", "op").output == "op was asked to stop.\n"
    moor("operation", "wait", "op", code=6)
    plane.put(operations_pb2.Operation(name=name, state=state))
    moor("operation", "wait", "--timeout", "100ms", "op", code=8)


async def test_events_follow(served: Served, environment: dict[str, str]) -> None:
    """What was there, then what comes, each once; SIGTERM ends it."""
    for number in range(3):
        served.plane.put(events_pb2.Event(name=f"projects/default/events/e{number}", message=f"old {number}"))
    served.plane.script.append(
        lambda: served.plane.put(events_pb2.Event(name="projects/default/events/e9", message="new"))
    )
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", "from cli.main import main; main()", "events", "-f", "-o", "json"],
        env={**environment, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            lines = [json.loads(await process.stdout.readline()) for _ in range(4)]
            process.terminate()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert [line["message"] for line in lines] == ["old 0", "old 1", "old 2", "new"]
    assert process.returncode == 130


def test_completion(moor: Moor, plane: Plane) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_MOOR_COMPLETE" in moor("completion", shell).stdout
    plane.put(networks_pb2.Network(name="projects/default/networks/back"))
    plane.put(networks_pb2.Network(name="projects/default/networks/front"))

    def completed(line: str, **extra: str) -> list[str]:
        variables = {"_MOOR_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        return re.findall(r"plain,(\S+)", moor(env={**variables, **extra}).stdout)

    assert completed("moor network get b") == ["back"]
    assert completed("moor net") == ["network"]
    assert completed("moor network get b", MOORAGE_API_KEY="wrong") == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nginx", "nginx"),
        ("nginx:latest", "nginx"),
        ("nginx:1.27", "nginx-1-27"),
        ("localhost:5000/a/b", "b"),
        ("localhost:5000/a/b:x_y", "b-x-y"),
        ("ghcr.io/a/b@sha256:0123456789abcdef", "b-0123456789ab"),
        ("7zip", "t-7zip"),
        ("a" * 80 + ":tag", "a" * 59 + "-tag"),
        ("___", "image"),
    ],
)
def test_template_ids(reference: str, expected: str) -> None:
    assert template_id_of(reference) == expected
    assert is_id(template_id_of(reference))
    assert is_id(template_id_of(reference, distinct=True))


def test_full_names() -> None:
    assert in_project("p", "instances", "web") == "projects/p/instances/web"
    assert in_project("projects/p", "instances", "projects/q/instances/web") == "projects/q/instances/web"
    with pytest.raises(InvalidSpec):
        in_project("p", "instances", "projects/q/networks/web")


def test_security_groups(moor: Moor, plane: Plane) -> None:
    words = [
        "in,tcp,port=80,port=8000-8010,cidr=10.0.0.0/8,cidr=fd00::/8",
        "out,udp,port=53,group=dns",
        "in,icmp,type=8",
        "in",
    ]
    options = [option for word in words for option in ("--rule", word)]
    moor("security-group", "create", "web", *options, "--deny-out", "-l", "app=shop")
    request = plane.requests("CreateSecurityGroup")[0]
    group = request.security_group
    assert (request.security_group_id, dict(group.labels), group.spec.deny_out) == ("web", {"app": "shop"}, True)
    first, second, third, _ = group.spec.rules
    assert (list(first.ports), list(first.cidrs)) == (["80", "8000-8010"], ["10.0.0.0/8", "fd00::/8"])
    assert second.group == "projects/default/securityGroups/dns"
    assert (third.icmp_type, third.HasField("icmp_type"), first.HasField("icmp_type")) == (8, True, False)
    assert [rule_text(rule) for rule in group.spec.rules] == words, "listed as they are written"
    for bad in ("tcp", "in,http", "in,port=", "in,type=x", "in,tcp;drop"):
        assert "write in,tcp" in moor("security-group", "create", "x", "--rule", bad, code=2).stderr
    moor("security-group", "rule", "add", "web", "in,udp")
    moor("security-group", "rule", "rm", "web", "in,icmp,type=8", "in")
    update = plane.requests("UpdateSecurityGroup")[-1]
    assert [rule_text(rule) for rule in update.security_group.spec.rules] == [*words[:2], "in,udp"]
    assert (list(update.update_mask.paths), bool(update.security_group.etag)) == (["spec.rules"], True)
    assert "no rule in,icmp" in moor("security-group", "rule", "rm", "web", "in,icmp", code=3).stderr
    moor("security-group", "update", "web", "--allow-out", "--description", "shops")
    update = plane.requests("UpdateSecurityGroup")[-1]
    assert list(update.update_mask.paths) == ["spec.deny_out", "spec.description"]
    moor("security-group", "update", "web", code=2)
    assert "web" in moor("security-group", "ls").output
    assert moor("security-group", "rm", "web").output == "Deleted web.\n"


def test_groups_of_interfaces(moor: Moor, plane: Plane) -> None:
    web, admin = (f"projects/default/securityGroups/{name}" for name in ("web", "admin"))
    nics = [instances_pb2.Nic(network="back", security_groups=["web"]), instances_pb2.Nic(network="front")]
    instance = instances_pb2.Instance(name="projects/default/instances/shop", etag="e1")
    instance.spec.nics.extend(nics)
    plane.put(instance)

    def asked() -> list[list[str]]:
        return [list(nic.security_groups) for nic in plane.requests("UpdateInstance")[-1].instance.spec.nics]

    moor("security-group", "attach", "admin", "shop", "--no-wait")
    assert asked() == [[admin, web], [admin]]
    moor("security-group", "detach", "web", "shop", "--network", "back", "--no-wait")
    assert asked()[0] == [admin]
    moor("security-group", "attach", "admin", "shop", "--network", "office", code=3)


def test_groups_of_new_interfaces() -> None:
    full = [f"projects/p/securityGroups/{name}" for name in ("web", "admin")]
    found = nic("projects/p", "name=back,address=10.1.0.5,security-group=web,security-group=admin")
    assert (list(found.addresses), list(found.security_groups)) == (["10.1.0.5"], full)
    spec = instances_pb2.InstanceSpec()
    words = ["name=back,security-group=web", "front"]
    apply_options(spec, {"network": words, "security_group": ["admin"]}, "projects/p", {})
    assert [list(own.security_groups) for own in spec.nics] == [full[:1], full[1:]]
    apply_options(spec, {"security_group": ["admin"]}, "projects/p", {})
    assert [list(own.security_groups) for own in spec.nics] == [full[1:], full[1:]], "replaced, not added to"
    spec = instances_pb2.InstanceSpec()
    apply_options(spec, {"security_group": ["web"]}, "projects/p", {})
    assert [(own.network, list(own.security_groups)) for own in spec.nics] == [
        ("projects/p/networks/default", full[:1])
    ]
    with pytest.raises(InvalidSpec):
        apply_options(spec, {"network": ["none"], "security_group": ["web"]}, "projects/p", {})

"""What is printed: tables line by line, JSON and YAML as protobuf's mapping that can be read back."""

import json
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from cli.output import enum_word, table_lines
from moorage.v1 import (
    access_pb2,
    enrollment_pb2,
    events_pb2,
    hosts_pb2,
    instances_pb2,
    networks_pb2,
    operations_pb2,
    projects_pb2,
    templates_pb2,
    zones_pb2,
)
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import EPOCH, Plane


def fill(plane: Plane) -> None:
    """One or two objects of each kind."""
    host = hosts_pb2.Host(name="hosts/h1", zone="zones/a", labels={"disk": "ssd"}, uid="hx", etag="1")
    host.admin_state = hosts_pb2.HOST_ADMIN_STATE_ENABLED
    host.status.link_state = hosts_pb2.HOST_LINK_STATE_UP
    host.status.facts.cpu_millis = host.capacity.cpu_millis = 4000
    host.status.facts.memory_bytes = host.capacity.memory_bytes = 8 * 1024**3
    host.status.facts.platform = "linux/amd64"
    host.status.facts.underlay_address = "192.0.2.7"
    host.status.used.instances = 2
    host.status.used.cpu_millis = 1500
    host.status.used.memory_bytes = 512 * 1024**2
    plane.put(host)
    host.name = "hosts/h2"
    host.admin_state = hosts_pb2.HOST_ADMIN_STATE_CORDONED
    host.status.link_state = hosts_pb2.HOST_LINK_STATE_DOWN
    host.status.conditions.add(reason="DISK_PRESSURE", message="disk is full")
    host.status.sweep_brake = "would remove 9 of 10"
    plane.put(host)
    plane.put(zones_pb2.Zone(name="zones/a", description="first rack"))
    project = projects_pb2.Project(name="projects/default")
    project.quota.instances = 10
    project.usage.instances = 2
    project.usage.cpu_millis = 1500
    plane.put(project)
    plane.put(projects_pb2.Member(name="projects/default/members/ada", role=projects_pb2.ROLE_ADMIN))
    plane.put(access_pb2.ApiKey(name="apiKeys/k1", user="ada", fleet_admin=True, description="laptop"))
    token = enrollment_pb2.JoinToken(name="joinTokens/t1", max_uses=3, used=1, created_by="ada", zone="zones/a")
    plane.put(token)
    template = templates_pb2.Template(name="projects/default/templates/nginx")
    template.source.repository.reference = "nginx:1.27"
    template.status.state = templates_pb2.TEMPLATE_STATE_READY
    template.status.size_bytes = 70 * 1024**2
    template.status.platforms.extend(["linux/amd64", "linux/arm64"])
    plane.put(template)
    network = networks_pb2.Network(name="projects/default/networks/back")
    network.spec.kind = networks_pb2.NETWORK_KIND_ISOLATED
    network.spec.subnets.add(cidr="10.1.0.0/24")
    network.spec.subnets.add(cidr="fd00:1::/64")
    network.spec.egress = True
    network.status.addresses_used = 4
    network.status.hosts.append("hosts/h1")
    plane.put(network)
    operation = operations_pb2.Operation(
        name="projects/default/operations/op1",
        verb="register",
        target="projects/default/templates/nginx",
        state=operations_pb2.OPERATION_STATE_RUNNING,
        phase="pull",
        percent=40,
        done_bytes=30 * 1024**2,
        total_bytes=70 * 1024**2,
    )
    plane.put(operation)
    event = events_pb2.Event(
        name="projects/default/events/e1",
        target="projects/default/instances/web",
        reason="STARTED",
        message="It runs on h1.",
        severity="normal",
    )
    plane.put(event)
    instance = instances_pb2.Instance(name="projects/default/instances/web", labels={"app": "web"})
    instance.spec.template = "projects/default/templates/nginx"
    instance.spec.published_ports.add(host_port=8080, container_port=80, protocol="tcp")
    instance.spec.published_ports.add(host_port=53, container_port=53, protocol="udp", host_address="192.0.2.7")
    instance.status.state = instances_pb2.INSTANCE_STATE_RUNNING
    instance.status.host = "hosts/h1"
    instance.status.health = "healthy"
    instance.status.ready = True
    instance.status.nics.add(interface="eth0", addresses=["10.1.0.2/24"])
    plane.put(instance)
    instance.name = "projects/default/instances/job"
    instance.spec.ClearField("published_ports")
    instance.status.state = instances_pb2.INSTANCE_STATE_STOPPED
    instance.status.exit_code = 3
    instance.status.health = ""
    instance.status.ready = False
    instance.status.stale = True
    plane.put(instance)


TABLES = {
    "host ls": """\
NAME   LINK   ADMIN      ZONE   INSTANCES   CPU       MEMORY      CONDITIONS                  AGE
h1     UP     ENABLED    a      2           1500m/4   512Mi/8Gi   -                           -
h2     DOWN   CORDONED   a      2           1500m/4   512Mi/8Gi   DISK_PRESSURE,SWEEP_BRAKE   -
""",
    "zone ls": """\
NAME   DESCRIPTION   AGE
a      first rack    -
""",
    "project ls": """\
NAME      INSTANCES   CPU     MEMORY   TEMPLATES   NETWORKS   AGE
default   2/10        1500m   0        0           0          -
""",
    "project member ls default": """\
USER   ROLE
ada    admin
""",
    "key ls": """\
KEY   USER   FLEET-ADMIN   EXPIRES   AGE   DESCRIPTION
k1    ada    yes           never     -     laptop
""",
    "join-token ls": """\
TOKEN   USED   EXPIRES   REVOKED   ZONE   BY
t1      1/3    -         no        a      ada
""",
    "template ls": """\
NAME    STATE   SOURCE       SIZE   PLATFORMS                 AGE
nginx   READY   nginx:1.27   70Mi   linux/amd64,linux/arm64   -
""",
    "network ls": """\
NAME   KIND       SUBNETS                   EGRESS   ADDRESSES   HOSTS   AGE
back   ISOLATED   10.1.0.0/24,fd00:1::/64   yes      4           1       -
""",
    "network addresses back": """\
ADDRESS    OWNER   INTERFACE   MAC                 AGE
10.1.0.2   web     eth0        02:00:00:00:00:01   -
""",
    "operation ls": """\
NAME   VERB       TARGET   STATE     PERCENT   PHASE            AGE
op1    register   nginx    RUNNING   40%       pull 30Mi/70Mi   -
""",
    "event ls": """\
TIME   SEVERITY   OBJECT          REASON    MESSAGE
-      normal     instances/web   STARTED   It runs on h1.
""",
    "audit ls": """\
TIME   USER   KEY   METHOD       TARGET     CODE   PEER
-      ada    k1    CordonHost   hosts/h1   OK     -
""",
    "ps": """\
NAME   TEMPLATE   STATE          HOST   ADDRESSES   PORTS                           READY   RESTARTS   AGE
job    nginx      STOPPED (3)?   h1     10.1.0.2    -                               -       0          -
web    nginx      RUNNING        h1     10.1.0.2    8080->80,192.0.2.7:53->53/udp   yes     0          -
""",
}


@pytest.mark.parametrize("command", TABLES)
def test_tables(moor: Moor, plane: Plane, command: str) -> None:
    fill(plane)
    assert moor(*command.split()).output == TABLES[command]


MESSAGES: dict[str, type[Any]] = {
    "host ls": hosts_pb2.Host,
    "zone ls": zones_pb2.Zone,
    "project ls": projects_pb2.Project,
    "project member ls default": projects_pb2.Member,
    "key ls": access_pb2.ApiKey,
    "join-token ls": enrollment_pb2.JoinToken,
    "template ls": templates_pb2.Template,
    "network ls": networks_pb2.Network,
    "operation ls": operations_pb2.Operation,
    "event ls": events_pb2.Event,
    "ps": instances_pb2.Instance,
    "host get h1": hosts_pb2.Host,
    "template get nginx": templates_pb2.Template,
    "network get back": networks_pb2.Network,
    "operation get op1": operations_pb2.Operation,
    "instance get web": instances_pb2.Instance,
    "project get default": projects_pb2.Project,
}


@pytest.mark.parametrize("command", MESSAGES)
def test_json_and_yaml_can_be_read_back(moor: Moor, plane: Plane, command: str) -> None:
    fill(plane)
    for read, output in ((json.loads, "json"), (yaml.safe_load, "yaml")):
        value = read(moor(*command.split(), "-o", output).stdout)
        entries = value if isinstance(value, list) else [value]
        assert entries
        for entry in entries:
            assert json_format.ParseDict(entry, MESSAGES[command]()) == plane.objects[entry["name"]]


def test_json_keeps_the_names_of_the_protos(moor: Moor, plane: Plane) -> None:
    fill(plane)
    (web,) = [each for each in json.loads(moor("ps", "-o", "json").stdout) if each["name"].endswith("/web")]
    assert web["status"]["state"] == "INSTANCE_STATE_RUNNING"
    assert web["spec"]["published_ports"][0] == {"host_port": 8080, "container_port": 80, "protocol": "tcp"}


def test_names_and_wide(moor: Moor, plane: Plane) -> None:
    fill(plane)
    names = "projects/default/instances/job\nprojects/default/instances/web\n"
    assert moor("ps", "-o", "name").stdout == moor("ps", "-q").stdout == names
    wide = moor("host", "ls", "-o", "wide").stdout.splitlines()
    assert wide[0].split()[-6:] == ["ADDRESS", "PLATFORM", "ENGINE", "KERNEL", "AGENT", "LABELS"]
    assert wide[1].endswith("disk=ssd")


def test_lists_go_through_all_pages(moor: Moor, plane: Plane) -> None:
    for number in range(5):
        plane.put(zones_pb2.Zone(name=f"zones/z{number}"))
    assert moor("zone", "ls", "-o", "name").stdout.split() == [f"zones/z{number}" for number in range(5)]


def test_an_empty_list_is_its_head(moor: Moor) -> None:
    assert moor("zone", "ls").output == "NAME   DESCRIPTION   AGE\n"
    assert moor("zone", "ls", "-o", "json").output == "[]\n"


def test_enum_words() -> None:
    assert enum_word(instances_pb2.InstanceState, 600) == "RUNNING"
    assert enum_word(instances_pb2.InstanceState, 0) == ""
    assert enum_word(instances_pb2.InstanceState, 601) == "601"


def test_colour_does_not_move_columns() -> None:
    plain = table_lines(["A", "B"], [["FAILED", "x"]])
    coloured = table_lines(["A", "B"], [["FAILED", "x"]], colour=True)
    assert coloured[1] != plain[1]
    assert coloured[1].replace("\x1b[31m", "").replace("\x1b[0m", "") == plain[1]


def test_get_is_yaml(moor: Moor, plane: Plane) -> None:
    zone = projects_pb2.Project(name="projects/default", description="ours")
    zone.create_time.FromSeconds(EPOCH)
    plane.put(zone)
    expected = "name: projects/default\ncreate_time: '2023-11-14T22:13:20Z'\ndescription: ours\n"
    assert moor("project", "get", "default").output == expected

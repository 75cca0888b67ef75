"""What an instance reads about itself."""

import json
from dataclasses import replace

import pytest

from hostagent.domain import (
    ContainerSpec,
    DesiredState,
    InstanceAssignment,
    NetworkAssignment,
    NetworkDns,
    NetworkKind,
    NicAssignment,
    Subnet,
)
from hostagent.names.metadata import Response, respond
from moorage.ids import InstanceId, NetworkId

LAN, DMZ = NetworkId("naaaaaaaaa"), NetworkId("nbbbbbbbbb")
NETWORKS = {
    LAN: NetworkAssignment(
        LAN, "lan", NetworkKind.ISOLATED, (Subnet("10.1.0.0/24", "10.1.0.1"), Subnet("fd00:1::/64")), 1450
    ),
    DMZ: NetworkAssignment(
        DMZ, "dmz", NetworkKind.ISOLATED, (Subnet("10.2.0.0/24"),), 1400, dns=NetworkDns("dmz.example")
    ),
}
WEB = InstanceAssignment(
    instance_id=InstanceId("iaaaaaaaaa"),
    name="web",
    project="shop",
    generation=1,
    run_request=1,
    desired=DesiredState.RUNNING,
    container=ContainerSpec(image="127.0.0.1:5577/shop/web@sha256:0123"),
    nics=(
        NicAssignment(LAN, "eth0", "02:00:00:00:00:01", ("10.1.0.5/24", "10.1.0.6/24", "fd00:1::5/64"), ("10.1.0.1",)),
        NicAssignment(DMZ, "wire", "02:00:00:00:00:02", ("10.2.0.5/24",)),
    ),
    hostname="www",
    labels={"tier": "front", "example.org/owner": "me"},
    zone="rack-1",
    host="h1",
    user_data="#cloud-config\n",
)
BARE = replace(WEB, nics=(), labels={}, zone="", user_data="")
META = "/latest/meta-data/"
MAC = META + "network/interfaces/macs/02:00:00:00:00:02/"


def get(path: str, assignment: InstanceAssignment | None = WEB, method: str = "GET", **headers: str) -> Response:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return respond(method, path, spelled, assignment, NETWORKS)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", "latest/\nmoorage/"),
        ("/latest", "meta-data/\nuser-data"),
        ("/latest/user-data", "#cloud-config\n"),
        ("/2021-03-23/user-data", "#cloud-config\n"),
        (META + "instance-id", "iaaaaaaaaa"),
        ("/1.0/meta-data/instance-id/", "iaaaaaaaaa"),
        ("//latest//meta-data/instance-id", "iaaaaaaaaa"),
        (META + "hostname", "www.lan.internal"),
        (META + "local-hostname", "www.lan.internal"),
        (META + "local-ipv4", "10.1.0.5"),
        (META + "ipv6", "fd00:1::5"),
        (META + "mac", "02:00:00:00:00:01"),
        (META + "ami-id", "sha256:0123"),
        (META + "placement/availability-zone", "rack-1"),
        (META + "placement/", "availability-zone\nhost-id"),
        (META + "network", "interfaces/"),
        (META + "network/interfaces/macs/", "02:00:00:00:00:01/\n02:00:00:00:00:02/"),
        (META + "network/interfaces/macs/02:00:00:00:00:01/local-ipv4s", "10.1.0.5\n10.1.0.6"),
        (META + "network/interfaces/macs/02:00:00:00:00:01/subnet-ipv6-cidr-blocks", "fd00:1::/64"),
        (MAC + "device-number", "1"),
        (MAC + "interface-name", "wire"),
        (MAC + "local-hostname", "www.dmz.example"),
        (MAC + "subnet-ipv4-cidr-block", "10.2.0.0/24"),
        (META + "services/domain", "lan.internal"),
        (META + "tags/instance", "example.org/owner\ntier"),
        (META + "tags/instance/tier", "front"),
        (META + "tags/instance/example.org/owner", "me"),
        ("/moorage/v1", "instance\nuser-data"),
        ("/moorage/v1/user-data", "#cloud-config\n"),
    ],
)
def test_paths(path: str, body: str) -> None:
    assert (get(path).status, get(path).body) == (200, body)
    assert get(path, method="HEAD").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/x",
        "/latest/x",
        META + "x",
        META + "instance-id/x",
        MAC + "ipv6s",
        META + "public-keys/",
        "/moorage/v1/x",
        "/0/meta-data",
    ],
)
def test_what_is_not_there(path: str) -> None:
    assert get(path).status == 404


def test_an_instance_of_which_little_is_known() -> None:
    assert get("/latest/user-data", BARE).status == 404
    assert get("/moorage/v1/user-data", BARE).status == 404
    assert get("/latest/", BARE).body == "meta-data/"
    assert get(META + "hostname", BARE).body == "www"
    assert get(META + "placement/availability-zone", BARE).body == "h1"
    assert get(META + "network", BARE).status == get(META + "tags/", BARE).status == 404
    assert get("/latest/meta-data/", None).status == 404


def test_one_document() -> None:
    found = get("/moorage/v1/instance")
    assert found.content_type == "application/json"
    document = json.loads(found.body)
    assert document["instance"] == "projects/shop/instances/web"
    assert (document["host"], document["zone"]) == ("hosts/h1", "zones/rack-1")
    assert document["image"] == "shop/web@sha256:0123"
    assert document["nics"][1] == {
        "network": "projects/shop/networks/dmz",
        "interface": "wire",
        "mac": "02:00:00:00:00:02",
        "addresses": ["10.2.0.5/24"],
        "gateways": [],
        "domain": "dmz.example",
        "mtu": 1400,
    }


def test_a_token_may_be_asked_for() -> None:
    found = get("/latest/api/token", method="PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
    assert found.status == 200
    assert len(found.body) > 40
    assert found.headers == {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    for ttl in ("", "0", "21601", "x", "-1", "9" * 5000):
        bad = get("/latest/api/token", method="PUT", X_aws_ec2_metadata_token_ttl_seconds=ttl)
        assert bad.status == 400
    assert get(META + "mac", X_aws_ec2_metadata_token="any").status == 200


def test_proxies_are_refused_and_nothing_is_written() -> None:
    assert get(META + "mac", X_Forwarded_For="10.1.0.9").status == 403
    for method in ("POST", "DELETE", "PUT"):
        assert get(META + "mac", method=method).status == 405

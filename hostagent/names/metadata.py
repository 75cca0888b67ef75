"""What an instance can read about itself at 169.254.169.254: the paths that clients of clouds know, and one JSON
document of our own. Pure.

What is said is what the journal holds at the moment of asking. Nothing in it is secret to the instance: who asks is
known by the socket. A token may be asked for and shown, as some clients insist on, and is never required.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from hostagent.domain import InstanceAssignment, NetworkAssignment, NicAssignment
from moorage.ids import NetworkId

Tree = Mapping[str, Union["Tree", str]]

TEXT, JSON, BYTES = "text/plain", "application/json", "application/octet-stream"
_VERSION = re.compile(r"latest|1\.0|\d{4}-\d{2}-\d{2}")
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_LONGEST_TTL_SECONDS = 21600


@dataclass(frozen=True, slots=True)
class Response:
    """An answer over HTTP."""

    status: int
    body: str = ""
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


_NOT_FOUND = Response(404, "there is nothing here\n")


def respond(
    method: str,
    path: str,
    headers: Mapping[str, str],
    assignment: InstanceAssignment | None,
    networks: Mapping[NetworkId, NetworkAssignment],
) -> Response:
    """The answer to one request.

    Args:
        headers: looked up by their names as written in the standard.
        assignment: of the instance that asks; None if it is not assigned here any more.
    """
    if "X-Forwarded-For" in headers:
        return Response(403, "requests that were passed on for somebody else are refused\n")
    words = [word for word in path.split("/") if word]
    if method == "PUT" and words[1:] == ["api", "token"] and _VERSION.fullmatch(words[0]):
        return _token(headers.get(_TTL_HEADER, ""))
    if method not in ("GET", "HEAD"):
        return Response(405, "only GET is served\n", headers={"Allow": "GET, HEAD"})
    if assignment is None:
        return _NOT_FOUND
    if words and _VERSION.fullmatch(words[0]):
        return _under_version(words[1:], assignment, networks)
    found = _find({"latest": {}, "moorage": {"v1": {"instance": "", "user-data": ""}}}, words)
    if found is None:
        return _NOT_FOUND
    if words[:2] != ["moorage", "v1"] or len(words) < 3:
        return Response(200, found)
    if words[2] == "user-data":
        return _user_data(assignment)
    return Response(200, json.dumps(document(assignment, networks), indent=2) + "\n", JSON)


def _under_version(
    words: list[str], assignment: InstanceAssignment, networks: Mapping[NetworkId, NetworkAssignment]
) -> Response:
    if not words:
        return Response(200, "meta-data/\nuser-data" if assignment.user_data else "meta-data/")
    if words == ["user-data"]:
        return _user_data(assignment)
    found = _find(tree(assignment, networks), words[1:]) if words[0] == "meta-data" else None
    return _NOT_FOUND if found is None else Response(200, found)


def _user_data(assignment: InstanceAssignment) -> Response:
    return Response(200, assignment.user_data, BYTES) if assignment.user_data else _NOT_FOUND


def _token(ttl: str) -> Response:
    if not (ttl.isascii() and ttl.isdecimal() and len(ttl) <= 5 and 1 <= int(ttl) <= _LONGEST_TTL_SECONDS):
        return Response(400, f"{_TTL_HEADER} must be 1 to {_LONGEST_TTL_SECONDS}\n")
    return Response(200, secrets.token_urlsafe(40), headers={_TTL_HEADER: ttl})


def tree(assignment: InstanceAssignment, networks: Mapping[NetworkId, NetworkAssignment]) -> Tree:
    """Everything below meta-data/. Branches and leaves that would be empty are left out."""
    nics = assignment.nics
    name = _local_name(assignment, nics[0] if nics else None, networks)
    first = nics[0] if nics else None
    v4, v6 = _addresses(first, 4), _addresses(first, 6)
    whole: dict[str, Tree | str] = {
        "ami-id": assignment.container.image.partition("@")[2],
        "hostname": name,
        "instance-id": assignment.instance_id,
        "instance-type": "container",
        "ipv6": v6[0] if v6 else "",
        "local-hostname": name,
        "local-ipv4": v4[0] if v4 else "",
        "mac": first.mac if first else "",
        "network": {"interfaces": {"macs": {nic.mac: _interface(assignment, nic, networks) for nic in nics}}},
        "placement": {"availability-zone": assignment.zone or assignment.host, "host-id": assignment.host},
        "services": {"domain": _domain(first, networks)},
        "tags": {"instance": dict(sorted(assignment.labels.items()))},
    }
    return _without_empty(whole)


def document(assignment: InstanceAssignment, networks: Mapping[NetworkId, NetworkAssignment]) -> dict[str, Any]:
    """The instance as one JSON document."""
    return {
        "instance": f"projects/{assignment.project}/instances/{assignment.name}",
        "uid": assignment.instance_id,
        "hostname": assignment.hostname,
        "image": assignment.container.image.partition("/")[2] or assignment.container.image,
        "labels": dict(sorted(assignment.labels.items())),
        "host": f"hosts/{assignment.host}" if assignment.host else "",
        "zone": f"zones/{assignment.zone}" if assignment.zone else "",
        "nics": [
            {
                "network": f"projects/{assignment.project}/networks/{network.name}" if network else "",
                "interface": nic.name,
                "mac": nic.mac,
                "addresses": list(nic.addresses),
                "gateways": list(nic.gateways),
                "domain": network.domain if network else "",
                "mtu": network.mtu if network else 0,
            }
            for nic in assignment.nics
            for network in (networks.get(nic.network_id),)
        ],
    }


def _interface(
    assignment: InstanceAssignment, nic: NicAssignment, networks: Mapping[NetworkId, NetworkAssignment]
) -> Tree:
    network = networks.get(nic.network_id)
    cidrs = [subnet.cidr for subnet in network.subnets] if network else []
    return {
        "device-number": str(assignment.nics.index(nic)),
        "interface-name": nic.name,
        "ipv6s": "\n".join(_addresses(nic, 6)),
        "local-hostname": _local_name(assignment, nic, networks),
        "local-ipv4s": "\n".join(_addresses(nic, 4)),
        "mac": nic.mac,
        "subnet-id": nic.network_id,
        "subnet-ipv4-cidr-block": "\n".join(cidr for cidr in cidrs if ":" not in cidr),
        "subnet-ipv6-cidr-blocks": "\n".join(cidr for cidr in cidrs if ":" in cidr),
    }


def _addresses(nic: NicAssignment | None, version: int) -> list[str]:
    found = [text.partition("/")[0] for text in nic.addresses] if nic else []
    return [address for address in found if (":" in address) == (version == 6)]


def _domain(nic: NicAssignment | None, networks: Mapping[NetworkId, NetworkAssignment]) -> str:
    network = networks.get(nic.network_id) if nic else None
    return network.domain if network else ""


def _local_name(
    assignment: InstanceAssignment, nic: NicAssignment | None, networks: Mapping[NetworkId, NetworkAssignment]
) -> str:
    return ".".join(part for part in (assignment.hostname or assignment.name, _domain(nic, networks)) if part)


def _without_empty(branch: Tree) -> Tree:
    kept: dict[str, Tree | str] = {}
    for name, below in branch.items():
        left = below if isinstance(below, str) else _without_empty(below)
        if left:
            kept[name] = left
    return kept


def _find(branch: Tree, words: list[str]) -> str | None:
    """A leaf's text, or a branch's names, a slash behind those that are branches. Names of labels may have slashes."""
    for count in range(len(words)):
        below = branch.get("/".join(words[: count + 1]))
        rest = words[count + 1 :]
        if isinstance(below, str) and not rest:
            return below
        if below is not None and not isinstance(below, str):
            return _find(below, rest)
    if words:
        return None
    return "\n".join(f"{name}/" if not isinstance(below, str) else name for name, below in branch.items())

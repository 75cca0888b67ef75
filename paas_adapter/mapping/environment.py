"""The environment of members: what documents give them, and what images that were made for Stratos look for.

Left out is what differs from member to member (MEMBER_ID, INSTANCE_ID), what belongs to an agent inside the image (CARTRIDGE_KEY, TOKEN,
PUPPET_*), and what changes with numbers alone (MIN_COUNT): no member shall be replaced because a number changed.
"""

import re
from collections.abc import Iterable, Mapping

from paas_adapter.documents.places import Findings, Place
from paas_adapter.documents.scalars import Property
from paas_adapter.mapping.model import Port, Variable

PREFIX = "payload_parameter."
_NAME = re.compile(r"[^=\x00\s]+\Z")


def payload(properties: Iterable[Property], findings: Findings) -> tuple[Variable, ...]:
    """Variables that properties give; others are not looked at."""
    found = []
    for one in properties:
        if not one.name.startswith(PREFIX):
            continue
        name = one.name.removeprefix(PREFIX)
        if _NAME.match(name):
            found.append(Variable(name, one.value, one.at))
        else:
            findings.refuse(one.at.below("name"), "BAD_VALUE", "not the name of a variable")
    return tuple(found)


def only_payload(properties: Iterable[Property], findings: Findings) -> tuple[Variable, ...]:
    """Variables that properties give, where nothing is done with any other; those are told as notices."""
    given = tuple(properties)
    for one in given:
        if not one.name.startswith(PREFIX):
            findings.note(one.at, "NOT_USED", f"the property {one.name} is not used; {PREFIX}NAME is a variable")
    return payload(given, findings)


def merge(*layers: Iterable[Variable]) -> tuple[Variable, ...]:
    """In order of name; a later layer goes before an earlier one, and in a layer the last word counts."""
    found: dict[str, Variable] = {}
    for layer in layers:
        for one in layer:
            found[one.name] = one
    return tuple(found[name] for name in sorted(found))


def known(values: Mapping[str, str], at: Place) -> tuple[Variable, ...]:
    """Variables that follow from the rest of a document."""
    return tuple(Variable(name, value, at) for name, value in values.items())


def port_mappings(ports: tuple[Port, ...]) -> str:
    """All ports, in the one text that images look for."""
    return ";".join(
        f"NAME:{port.name}|PROTOCOL:{port.protocol.value}|PORT:{port.number}|PROXY_PORT:{port.listen or 0}"
        for port in ports
    )

"""Identifiers. Every object has an immutable id besides its name; ids are short enough for a Linux link name (15 bytes)."""

import secrets
from typing import NewType

HostId = NewType("HostId", str)
InstanceId = NewType("InstanceId", str)
NetworkId = NewType("NetworkId", str)
TemplateId = NewType("TemplateId", str)
ProjectId = NewType("ProjectId", str)
OperationId = NewType("OperationId", str)
ContainerId = NewType("ContainerId", str)

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # no l, o, 0, 1: ids are read aloud and typed
ID_LENGTH = 10


def new_id() -> str:
    """A random id: ten characters of a 32-letter alphabet (50 bits), starting with a letter."""
    first = secrets.choice(_ALPHABET[:24])
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH - 1))

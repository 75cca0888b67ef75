"""Bind mounts of the host's paths: a path that the project's policy allows must be what it says.

The control plane judges names only. Below an allowed folder an instance with write access could leave a symbolic link to anywhere and ask
for that next, so a source that passes through one is refused. (Between this look and the mount the folder's owner could still
change it: an allowed path should not be writable by those whom it is not meant for.)
"""

import os
from collections.abc import Sequence

from hostagent.domain import Mount
from moorage.errors import FieldViolation, InvalidSpec


def check_sources(mounts: Sequence[Mount]) -> None:
    """Let real paths pass.

    Raises:
        InvalidSpec: BIND_SOURCE_MISSING or BIND_SOURCE_SYMLINK, every bad one.
    """
    found = []
    for mount in mounts:
        if mount.kind != "bind":
            continue
        where = f"mounts[{mount.target}].source"
        if not os.path.lexists(mount.source):
            found.append(FieldViolation(where, f"{mount.source} is not on this host", "BIND_SOURCE_MISSING"))
        elif os.path.realpath(mount.source) != os.path.normpath(mount.source):
            found.append(FieldViolation(where, f"{mount.source} passes through a symbolic link", "BIND_SOURCE_SYMLINK"))
    if found:
        raise InvalidSpec(found)

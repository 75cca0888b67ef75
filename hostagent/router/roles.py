"""What a router does: the only one is active by being there, a member of a pair is what its keepalived says."""

from collections.abc import Callable
from pathlib import Path

from hostagent.router.folder import Folder
from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle, RouterRole

_FOLDER, _FILE = "keepalived", "role"  # hostagent/router_image/README.md
_LARGEST = 100
_ROLES = {"MASTER": RouterRole.ACTIVE, "BACKUP": RouterRole.STANDBY, "FAULT": RouterRole.STANDBY}


def read_role(bundle: RouterBundle, folder_of: Callable[[InstanceId], Path]) -> RouterRole:
    """The role of a router now; UNSPECIFIED while its keepalived does not run."""
    if bundle.pair is None:
        return RouterRole.ACTIVE
    try:
        with Folder.at(folder_of(bundle.instance_id)) as shared, shared.sub(_FOLDER) as folder:
            text = folder.read(_FILE, limit=_LARGEST) or ""
    except OSError:  # there is no container yet
        return RouterRole.UNSPECIFIED
    return _ROLES.get(text.strip(), RouterRole.UNSPECIFIED)

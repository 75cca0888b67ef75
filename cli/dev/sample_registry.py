"""A plain registry of the box's own, for templates from a repository on machines that reach no other one.

It stands for any registry that a user may have: engines push to it, the control plane copies from it. It is not the platform's
registry, which needs tokens that only the control plane signs.
"""

import shutil

import yaml

from . import processes
from .config import FleetConfig
from .processes import Process
from .state import FleetState

ROLE = "sample-registry"
_PROGRAM = "docker-registry"


def find(config: FleetConfig, current: FleetState) -> Process | None:
    """The running registry."""
    return processes.recorded(config.records / ROLE, current.token)


async def ensure(config: FleetConfig, current: FleetState, lock: int) -> Process | None:
    """Start it where it is missing; None on a machine without the program."""
    running = find(config, current)
    if running is not None or shutil.which(_PROGRAM, path=processes.clean_environment()["PATH"]) is None:
        return running
    folder = config.directory / ROLE
    folder.mkdir(exist_ok=True)
    settings = folder / "config.yml"
    settings.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "images")}, "delete": {"enabled": True}},
                "http": {"addr": config.sample_registry_address, "secret": current.token},
            }
        )
    )
    return await processes.launch(
        [_PROGRAM, "serve", str(settings)],
        record=config.records / ROLE,
        log=config.logs / f"{ROLE}.log",
        tag=f"{current.token}:{ROLE}/",
        lock=lock,
    )

"""The part of a bundle that is a redundant pair: keepalived of each router that has a partner."""

from collections.abc import Callable
from pathlib import Path

from hostagent.router import keepalived
from hostagent.router.entrypoint import Entrypoint
from hostagent.router.folder import Folder
from moorage.errors import Unavailable
from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle

_PROGRAM = "keepalived"
_CONFIGURATION = "keepalived.conf"
_CANDIDATE = "candidate.conf"
_LARGEST = 64 * 1024


class PairApplier:
    """Keeps keepalived of each router at its bundle.

    Args:
        folder_of: the folder that a router's container shares with the agent.
    """

    def __init__(self, folder_of: Callable[[InstanceId], Path]) -> None:
        self._folder_of = folder_of

    async def apply(self, bundle: RouterBundle) -> str | None:
        """As Applier.apply. Before its container runs, the configuration is put where it will find it."""
        text = keepalived.configuration(bundle)
        path = self._folder_of(bundle.instance_id)
        if not text and not path.exists():
            return None  # nor is there a container
        try:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            with Folder.at(path) as shared, shared.sub(_PROGRAM) as folder:
                return await _put(folder, Entrypoint(path), text)
        except OSError as error:
            raise Unavailable(f"the router's folder: {error}", reason="ROUTER_NOT_RUNNING") from error

    def forget(self, instance_id: InstanceId) -> None:
        """As Applier.forget: the folder went with the instance."""


async def _put(folder: Folder, entrypoint: Entrypoint, text: str) -> str | None:
    before = folder.read(_CONFIGURATION, limit=_LARGEST)
    if (before or "") == text:
        return None
    try:
        if text and (words := await _words_against(folder, entrypoint, text)):
            return words
    except Unavailable:
        _write(folder, text)  # a container that starts begins with it
        return None
    _write(folder, text)
    await (entrypoint.reload(_PROGRAM) if text and before is not None else entrypoint.sync())
    return None


async def _words_against(folder: Folder, entrypoint: Entrypoint, text: str) -> str:
    folder.write(_CANDIDATE, text)
    try:
        return await entrypoint.check(_PROGRAM, _CANDIDATE)
    finally:
        folder.remove(_CANDIDATE)


def _write(folder: Folder, text: str) -> None:
    if text:
        folder.write(_CONFIGURATION, text)
    else:
        folder.remove(_CONFIGURATION)

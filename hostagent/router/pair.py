"""The part of a bundle that is a redundant pair: keepalived of each router that has a partner."""

from collections.abc import Callable
from pathlib import Path

from hostagent.router import keepalived
from hostagent.router.entrypoint import Entrypoint
from hostagent.router.folder import Folder
from hostagent.router_bundle import RouterBundle
from moorage.errors import Unavailable
from moorage.ids import InstanceId

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
        """As Applier.apply."""
        text = keepalived.configuration(bundle)
        path = self._folder_of(bundle.instance_id)
        if not text and not path.exists():
            return None  # nor is there a container
        entrypoint = Entrypoint(path)
        try:
            with Folder.at(path) as shared, shared.sub(_PROGRAM) as folder:
                return await self._put(folder, entrypoint, text)
        except OSError as error:
            raise Unavailable(f"the router's folder: {error}", reason="ROUTER_NOT_RUNNING") from error

    async def _put(self, folder: Folder, entrypoint: Entrypoint, text: str) -> str | None:
        before = folder.read(_CONFIGURATION, limit=_LARGEST)
        if (before or "") == text:
            return None
        if not text:
            folder.remove(_CONFIGURATION)
            await entrypoint.sync()
            return None
        folder.write(_CANDIDATE, text)
        try:
            words = await entrypoint.check(_PROGRAM, _CANDIDATE)
        finally:
            folder.remove(_CANDIDATE)
        if words:
            return words
        folder.write(_CONFIGURATION, text)
        await (entrypoint.sync() if before is None else entrypoint.reload(_PROGRAM))
        return None

    def forget(self, instance_id: InstanceId) -> None:
        """As Applier.forget: the folder went with the instance."""

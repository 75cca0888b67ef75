"""The part of a bundle that is DHCP, and names for those that ask by it: dnsmasq, in the router's container.

Every change is tried by dnsmasq itself first. Which files it has read is kept in a file as well: an agent that was
killed between writing and telling would not know else.
"""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from hostagent.router.dnsmasq_config import CONFIGURATION_FILE, DnsmasqConfiguration, NotRenderable, configuration
from hostagent.router.entrypoint import Entrypoint
from hostagent.router.folder import Folder
from moorage.errors import Unavailable
from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle

_NAME = "dnsmasq"
_CANDIDATE = "candidate.conf"
_READ_FILE = "read"  # digests of what it was told to read: dnsmasq.conf, and the other files
_STEADY_SECONDS = 0.3  # what ends by itself does so at once
_LOOK_SECONDS = 0.02


class DhcpApplier:
    """dnsmasq of every router here.

    Args:
        folder_of: the folder that a router shares with the agent.
    """

    def __init__(self, folder_of: Callable[[InstanceId], Path]) -> None:
        self._folder_of = folder_of

    async def apply(self, bundle: RouterBundle) -> str | None:
        """As Applier.apply."""
        try:
            wanted = configuration(bundle)
        except NotRenderable as exc:
            return str(exc)
        root = self._folder_of(bundle.instance_id)
        if wanted is None and not root.exists():
            return None  # nor is there a container
        try:
            with Folder.at(root) as shared, shared.sub(_NAME) as folder:
                if wanted is None:
                    return await _remove(folder, Entrypoint(root))
                return await _Change(folder, Entrypoint(root), wanted).carry_out()
        except OSError as exc:
            raise Unavailable(f"the router's folder: {exc}", reason="ROUTER_NOT_RUNNING") from exc

    def forget(self, instance_id: InstanceId) -> None:
        """As Applier.forget: what is kept of a router is in its folder."""


async def _remove(folder: Folder, entrypoint: Entrypoint) -> str | None:
    if CONFIGURATION_FILE in folder.names():
        folder.remove(CONFIGURATION_FILE)
        folder.remove(_READ_FILE)
        await entrypoint.sync()
    return None


class _Change:
    """From what dnsmasq has read to what it shall read."""

    def __init__(self, folder: Folder, entrypoint: Entrypoint, wanted: DnsmasqConfiguration) -> None:
        self._folder = folder
        self._entrypoint = entrypoint
        self._wanted = wanted
        text, files = _digest(wanted.text), _digest(*(f"{name}\n{wanted.files[name]}" for name in sorted(wanted.files)))
        self._read = f"{text} {files}\n"
        before = (folder.read(_READ_FILE) or "").split()
        self._has_text, self._has_files = (
            len(before) == 2 and before[0] == text,
            len(before) == 2 and before[1] == files,
        )

    async def carry_out(self) -> str | None:
        """Returns what dnsmasq has against it."""
        if self._has_text and self._has_files:
            return None
        if (problem := await self._check()) is not None:
            return problem
        if not self._has_text:
            return await self._replace()
        self._write_files()
        await self._entrypoint.reload(_NAME)
        self._folder.write(_READ_FILE, self._read)
        return None

    async def _check(self) -> str | None:
        self._folder.write(_CANDIDATE, self._wanted.trial, mode=0o644)
        try:
            return await self._entrypoint.check(_NAME, _CANDIDATE) or None
        finally:
            self._folder.remove(_CANDIDATE)

    async def _replace(self) -> str | None:
        folder = self._folder
        before = {name: folder.read(name) for name in (CONFIGURATION_FILE, *self._wanted.files)}
        folder.remove(_READ_FILE)
        self._write_files()
        folder.write(CONFIGURATION_FILE, self._wanted.text, mode=0o644)
        if (problem := await self._begin_anew()) is None:
            folder.write(_READ_FILE, self._read)
            return None
        for name, text in before.items():
            if text is None:
                folder.remove(name)
            else:
                folder.write(name, text, mode=0o644)
        if before[CONFIGURATION_FILE] is None:
            await self._entrypoint.sync()
        else:
            await self._entrypoint.restart(_NAME)
        return problem

    async def _begin_anew(self) -> str | None:
        """Returns why it does not stay: an address that is taken is seen only by trying."""
        await self._entrypoint.restart(_NAME)
        deadline = asyncio.get_running_loop().time() + _STEADY_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if self._entrypoint.status(_NAME).get("state") == "WAITING":
                return (
                    await self._entrypoint.last_words(_NAME)
                ).strip() or "dnsmasq ends by itself, and does not say why"
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    def _write_files(self) -> None:
        for name, text in self._wanted.files.items():
            if self._folder.read(name) != text:
                self._folder.write(name, text, mode=0o644)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()

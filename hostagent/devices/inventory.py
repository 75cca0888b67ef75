"""Looks at the host for devices: CDI specifications that the engine reads, GPUs of NVIDIA, and what the configuration names."""

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from hostagent.devices.cdi import cdi_devices
from hostagent.devices.handing import combined
from hostagent.devices.nvidia import QUERY, nvidia_devices
from hostagent.domain import FoundDevice
from hostagent.engine.values import EngineInfo

log = logging.getLogger(__name__)

_SMI_SECONDS = 10.0
_HOOK = "nvidia-container-runtime-hook"  # dockerd has its driver `nvidia` only where this is installed


class DeviceInventory:
    """What devices there are now.

    Args:
        configured: what the agent's configuration names.
        info: asks the engine.
    """

    def __init__(self, configured: Sequence[FoundDevice], info: Callable[[], Awaitable[EngineInfo]]) -> None:
        self._configured = configured
        self._info = info
        self._found: tuple[FoundDevice, ...] | None = None
        self._told_problems: frozenset[str] = frozenset()

    async def current(self) -> tuple[FoundDevice, ...]:
        """As last looked at. Raises EngineUnavailable at the first time."""
        return await self.look(await self._info()) if self._found is None else self._found

    async def look(self, info: EngineInfo) -> tuple[FoundDevice, ...]:
        """Look again."""
        documents, problems = read_specifications(info.cdi_folders)
        readable: list[Any] = []
        for path, document in documents:
            try:
                cdi_devices([document])
            except ValueError as exc:
                problems.append(f"{path}: {exc}")
            else:
                readable.append(document)
        nvidia = await self._nvidia(info, problems)
        self._found = combined(self._configured, cdi_devices(readable), nvidia)
        self._tell(frozenset(problems))
        return self._found

    async def _nvidia(self, info: EngineInfo, problems: list[str]) -> tuple[FoundDevice, ...]:
        if shutil.which(QUERY[0]) is None or not ("nvidia" in info.runtimes or shutil.which(_HOOK)):
            return ()
        process = await asyncio.create_subprocess_exec(
            *QUERY, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(_SMI_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            problems.append(f"{QUERY[0]} did not answer within {_SMI_SECONDS:.0f} s")
            return ()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            problems.append(f"{QUERY[0]} failed with {process.returncode}")
        return nvidia_devices(output.decode(errors="replace"))

    def _tell(self, problems: frozenset[str]) -> None:
        for problem in sorted(problems - self._told_problems):
            log.warning("some devices are not offered", extra={"problem": problem})
        self._told_problems = problems


def read_specifications(folders: Iterable[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """CDI specifications in the folders, the later ones of which win, and what could not be read."""
    documents: list[tuple[str, Any]] = []
    problems: list[str] = []
    for folder in folders:
        for path in sorted(p for p in Path(folder).glob("*") if p.suffix in (".json", ".yaml")):
            try:
                text = path.read_text()
                documents.append((str(path), json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)))
            except (OSError, ValueError, yaml.YAMLError) as exc:
                problems.append(f"{path} cannot be read: {exc}")
    return documents, problems

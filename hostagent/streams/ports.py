"""What side streams need of the engine and the network."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hostagent.domain import HostVolume
from hostagent.engine.values import ContainerStats, LogChunk
from moorage.ids import ContainerId, InstanceId
from moorage.router_bundle import PoolFigure, RuleFigure


class Terminal(Protocol):
    """A program that somebody talks to (hostagent/engine/sessions.py)."""

    async def read(self) -> Any: ...  # (stream, data), None at the end
    async def write(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    async def resize(self, rows: int, cols: int) -> None: ...
    async def exit_code(self) -> int: ...
    async def kill(self) -> None: ...
    async def close(self) -> None: ...


class StreamEngine(Protocol):
    """Looking into containers."""

    def logs(
        self,
        container_id: str,
        *,
        follow: bool = False,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> AsyncIterator[LogChunk]: ...

    async def exec(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        user: str = "",
        rows: int = 0,
        cols: int = 0,
    ) -> Terminal: ...

    async def attach(self, container_id: str, *, rows: int = 0, cols: int = 0, logs: bool = False) -> Terminal: ...
    async def copy_in(self, container_id: str, path: str, chunks: AsyncIterable[bytes]) -> None: ...
    def copy_out(self, container_id: str, path: str) -> AsyncIterator[bytes]: ...
    async def stats(self, container_id: str) -> ContainerStats: ...


class Counters(Protocol):
    """Totals of one interface."""

    @property
    def rx_bytes(self) -> int: ...
    @property
    def tx_bytes(self) -> int: ...
    @property
    def rx_packets(self) -> int: ...
    @property
    def tx_packets(self) -> int: ...


class StreamFabric(Protocol):
    """Network counters, which Docker does not have of containers whose networking is off."""

    async def counters(self, instance_id: InstanceId) -> Mapping[str, Counters]: ...


class RouterCounts(Protocol):
    """What routers counted. NotFound: the instance is no router of this host."""

    async def rules(self, instance_id: InstanceId) -> Sequence[RuleFigure]: ...
    async def pools(self, instance_id: InstanceId) -> Sequence[PoolFigure]: ...


class VolumeFiles(Protocol):
    """The host's volumes."""

    async def remove(self, volume: HostVolume) -> None:
        """Remove a volume's files; NotReady (VOLUME_IN_USE)."""
        ...

    def read(self, volume: HostVolume, *, no_pause: bool, snapshot_id: str = "") -> AsyncGenerator[bytes, None]:
        """Its files, or those of a snapshot, as a tar."""
        ...

    async def write(self, volume: HostVolume, chunks: AsyncIterable[bytes]) -> None:
        """Put the files of a tar in place of its own; NotReady (VOLUME_IN_USE), InvalidSpec (ARCHIVE_INVALID)."""
        ...

    async def copy(self, volume: HostVolume, source: HostVolume, snapshot_id: str) -> None:
        """Put a copy of what another volume or snapshot has in place of its own; NotReady (VOLUME_IN_USE)."""
        ...

    async def snapshot(self, volume: HostVolume, snapshot_id: str, *, no_pause: bool) -> None:
        """Keep what it has now."""
        ...

    async def remove_snapshot(self, volume: HostVolume, snapshot_id: str) -> None:
        """Remove a snapshot."""
        ...


class Instances(Protocol):
    """Where an instance is on this host."""

    def container_of(self, instance_id: InstanceId) -> ContainerId:
        """Its container; NotFound, NotReady (NO_CONTAINER)."""
        ...

    def namespace_of(self, instance_id: InstanceId) -> tuple[Path, Sequence[str]]:
        """Its network namespace, and its addresses; NotFound, NotReady."""
        ...

"""Waiting for what was asked for: an operation, instances, interfaces. Groups: `client_group_waits`, hosts: `client_host_waits`,
jobs: `client_job_waits`, routers: `client_router_waits`, volumes: `client_volume_waits`.

Owns the watch that every wait follows, and what each of them waits for. Invariants: waiting never polls, and survives
compacted history and a control plane that is away for a while; one that runs out of time says what it waited for.
Generated code is imported when first needed: importing all of it costs the command line a fifth of its start.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from moorage.errors import (
    DeadlineExceeded,
    HistoryCompacted,
    Internal,
    InvalidSpec,
    NotFound,
    NotReady,
    Unavailable,
)
from moorage.status import error_from_status

if TYPE_CHECKING:
    from moorage.v1 import instances_pb2, operations_pb2, watch_pb2
    from moorage.v1.instances_pb2_grpc import InstanceServiceAsyncStub
    from moorage.v1.operations_pb2_grpc import OperationServiceAsyncStub
    from moorage.v1.watch_pb2_grpc import WatchServiceAsyncStub

_AWAY_SECONDS = 60.0  # how long a wait without a time limit goes on trying to reach the control plane

_T = TypeVar("_T")


class Waits(ABC):
    """The waiting half of `moorage.client.Client`, which has the stubs that are declared first."""

    @property
    @abstractmethod
    def instances(self) -> "InstanceServiceAsyncStub": ...

    @property
    @abstractmethod
    def operations(self) -> "OperationServiceAsyncStub": ...

    @property
    @abstractmethod
    def watch(self) -> "WatchServiceAsyncStub": ...

    async def revision(self, parent: str) -> int:
        """Revision of the store now; `parent` is a project that the caller may read (projects/{project})."""
        from moorage.v1 import instances_pb2

        request = instances_pb2.ListInstancesRequest(parent=parent, page_size=1)
        return (await self.instances.ListInstances(request)).revision

    async def wait_operation(
        self,
        name: str,
        on_progress: "Callable[[operations_pb2.Operation], None] | None" = None,
        *,
        timeout_seconds: float | None = None,
    ) -> "operations_pb2.Operation":
        """Wait until an operation has succeeded. `on_progress` gets each version that is seen, the last included.

        Args:
            name: projects/{project}/operations/{operation}.
            timeout_seconds: longest wait, in seconds; None: as long as it takes.
        Raises:
            DeadlineExceeded: it still runs.
            NotReady: it was cancelled.
            MoorageError: it failed; the class that its error stands for. `metadata["operation"]` is its name.
        """
        from moorage.v1 import operations_pb2

        async def read() -> "list[operations_pb2.Operation]":
            return [await self.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))]

        following = aclosing(self._follow(project_of(name), "operations", read, lambda change: change.operation))
        async with Limit(timeout_seconds, f"operation {name}"), following as versions:
            async for _, operation in versions:
                if operation.name != name:
                    continue
                if on_progress is not None:
                    on_progress(operation)
                if operation.state == operations_pb2.OPERATION_STATE_SUCCEEDED:
                    return operation
                if operation.state == operations_pb2.OPERATION_STATE_CANCELLED:
                    raise NotReady(
                        f"{operation.verb or name} was cancelled", reason="CANCELLED", metadata={"operation": name}
                    )
                if operation.state == operations_pb2.OPERATION_STATE_FAILED:
                    error = error_from_status(operation.error)
                    error.metadata["operation"] = name
                    raise error
        raise Internal("a watch ended without an error")  # _follow never ends by itself

    async def wait_instance(
        self,
        name: str,
        states: "Collection[instances_pb2.InstanceState.ValueType]",
        timeout_seconds: float | None = None,
        *,
        after_run: int = -1,
        on_change: "Callable[[instances_pb2.Instance], None] | None" = None,
    ) -> "instances_pb2.Instance":
        """`wait_instances` for one."""
        found = await self.wait_instances(
            [name], states, timeout_seconds, after_runs={name: after_run}, on_change=on_change
        )
        return found[name]

    async def wait_instances(
        self,
        names: Collection[str],
        states: "Collection[instances_pb2.InstanceState.ValueType]",
        timeout_seconds: float | None = None,
        *,
        after_runs: dict[str, int] | None = None,
        on_change: "Callable[[instances_pb2.Instance], None] | None" = None,
    ) -> "dict[str, instances_pb2.Instance]":
        """Wait, by one watch, until each instance has been seen in one of `states`; their versions then, by name.

        Args:
            names: projects/{project}/instances/{instance}; all of one project.
            timeout_seconds: longest wait for all of them, in seconds; None: as long as it takes.
            after_runs: by name, the run before the start that is waited for; what is reported of it does not count.
            on_change: called with each version of one of them that is seen.
        Raises:
            DeadlineExceeded: not all are there yet; the message says what the first of them waits for.
            NotReady: one is FAILED, and neither that nor DELETED (which one that has failed can still become) is one of
            `states`.
            NotFound: one is gone and DELETED is not one of `states`.
        """
        from moorage.v1 import instances_pb2, watch_pb2

        deleted = instances_pb2.INSTANCE_STATE_DELETED
        done: dict[str, instances_pb2.Instance] = {}
        latest: dict[str, instances_pb2.Instance] = {}
        runs = after_runs or {}
        if not names:
            return done

        async def read_one(name: str) -> instances_pb2.Instance:
            try:
                return await self.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name))
            except NotFound:
                if deleted not in states:
                    raise
                return instances_pb2.Instance(name=name, status=instances_pb2.InstanceStatus(state=deleted))

        async def read() -> list[instances_pb2.Instance]:
            return list(await asyncio.gather(*(read_one(name) for name in names if name not in done)))

        def waits_for() -> str:
            name = next(name for name in names if name not in done)
            seen = latest.get(name)
            state = instances_pb2.InstanceState.Name(seen.status.state)[15:] if seen else "not seen"
            return f"instance {name} ({state}{': ' + seen.status.message if seen and seen.status.message else ''})"

        project = project_of(next(iter(names)))
        following = aclosing(self._follow(project, "instances", read, lambda change: change.instance))
        wanted = frozenset(names)
        async with Limit(timeout_seconds, waits_for), following as versions:
            async for kind, instance in versions:
                if instance.name not in wanted or instance.name in done:
                    continue
                latest[instance.name] = instance
                if on_change is not None:
                    on_change(instance)
                state = instance.status.state
                if kind == watch_pb2.CHANGE_TYPE_DELETED or state == deleted:
                    if deleted not in states:
                        raise NotFound(f"{instance.name} was deleted meanwhile", metadata={"name": instance.name})
                    done[instance.name] = instance
                elif instance.status.run > runs.get(instance.name, -1):
                    if state in states:
                        done[instance.name] = instance
                    elif state == instances_pb2.INSTANCE_STATE_FAILED and deleted not in states:
                        raise NotReady(
                            f"{instance.name} failed: {instance.status.message or instance.status.reason}",
                            reason=instance.status.reason or "INSTANCE_FAILED",
                            metadata={"name": instance.name},
                        )
                if len(done) == len(wanted):
                    return done
        raise Internal("a watch ended without an error")

    async def wait_nics(self, name: str, timeout_seconds: float | None = None) -> "instances_pb2.Instance":
        """Wait until an instance's host has its interfaces and addresses and no others; one without a host is not waited for.

        Raises:
            DeadlineExceeded: it is not so yet. NotFound: the instance is gone.
        """
        from moorage.v1 import instances_pb2, watch_pb2

        said = "the host has not said"

        async def read() -> list[instances_pb2.Instance]:
            return [await self.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name))]

        following = aclosing(self._follow(project_of(name), "instances", read, lambda change: change.instance))
        async with Limit(timeout_seconds, lambda: f"the interfaces of {name} ({said})"), following as versions:
            async for kind, instance in versions:
                if instance.name != name:
                    continue
                if kind == watch_pb2.CHANGE_TYPE_DELETED:
                    raise NotFound(f"{name} was deleted meanwhile", metadata={"name": name})
                if instance.status.nics_ready or not instance.status.host:
                    return instance
                said = instance.status.message or said
        raise Internal("a watch ended without an error")

    async def _follow(
        self,
        parent: str,
        kinds: str | tuple[str, ...],
        read: Callable[[], Awaitable[list[_T]]],
        pick: "Callable[[watch_pb2.Change], _T]",
    ) -> AsyncGenerator[tuple[int, _T], None]:
        """What `read` gives, then every change: gap-free, for the revision is asked for before reading. Never ends."""
        from moorage.retry import Backoff
        from moorage.v1 import watch_pb2

        delays = Backoff().delays()
        away_since: float | None = None
        while True:
            try:
                revision = await self.revision(parent)
                for item in await read():
                    yield watch_pb2.CHANGE_TYPE_EXISTING, item
                away_since = None
                # Revision 0 would mean "first everything": on an empty store that is nothing.
                wanted = (kinds,) if isinstance(kinds, str) else kinds
                request = watch_pb2.WatchRequest(kinds=wanted, parent=parent, from_revision=revision)
                # Closed by hand: who stops reading early would else leave the stream open until the garbage is collected.
                async with aclosing(aiter(self.watch.Watch(request))) as responses:  # type: ignore[type-var]
                    async for response in responses:
                        delays = Backoff().delays()
                        if response.HasField("change"):
                            yield response.change.type, pick(response.change)
            except HistoryCompacted:
                pass  # read again, then watch from there
            except Unavailable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _AWAY_SECONDS:
                    raise
            await asyncio.sleep(next(delays))


def project_of(name: str) -> str:
    """projects/{project} of a full name. Raises InvalidSpec."""
    parts = name.split("/")
    if len(parts) < 3 or parts[0] != "projects":
        raise InvalidSpec.of("name", f"{name!r} is not the full name of an object in a project")
    return "/".join(parts[:2])


class Limit:
    """`asyncio.timeout` whose end is a DeadlineExceeded that says what was waited for."""

    def __init__(self, seconds: float | None, what: str | Callable[[], str]) -> None:
        self._seconds = seconds
        self._what = what
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            what = self._what if isinstance(self._what, str) else self._what()
            raise DeadlineExceeded(
                f"after {self._seconds:g} s still waiting for {what}", reason="WAIT_TIMEOUT"
            ) from exc

"""Builds and snapshots on hosts: sent over the session, followed by the agent's reports, ended by its last one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.dispatch.dispatcher import Dispatcher
from moorage.errors import DeadlineExceeded, Forbidden, MoorageError, NotFound, Unavailable

LONGEST_SECONDS = 3600.0  # a build has its own, shorter limit on the host; this one is for agents that fall silent


@dataclass(frozen=True, slots=True)
class BuildTask:
    """A build; mirrors moorage.v1.BuildTask."""

    repository: str
    tag: str
    dockerfile: str = ""
    path: str = ""
    has_context: bool = False
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    memory_bytes: int = 0
    cpu_millis: int = 0
    egress: bool = False
    timeout_seconds: float = 0.0
    base_images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SnapshotTask:
    """A snapshot; mirrors moorage.v1.SnapshotTask."""

    instance_id: str
    repository: str
    tag: str
    no_pause: bool = False


@dataclass(frozen=True, slots=True)
class SentTask:
    """What the session carries. `work` None: give the task up."""

    task_id: str
    work: BuildTask | SnapshotTask | None


@dataclass(frozen=True, slots=True)
class TaskReport:
    """How a task goes; `error` only in the last one."""

    task_id: str
    phase: str = ""
    percent: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    log: str = ""
    done: bool = False
    error: MoorageError | None = None


class Context(Protocol):
    """What a build reads besides its Dockerfile."""

    def stream(self) -> AsyncIterator[bytes]:
        """The tar from its start."""


@dataclass
class _Running:
    host_uid: str
    work: BuildTask | SnapshotTask
    context: Context | None
    on_report: Callable[[TaskReport], None]
    ended: "asyncio.Future[None]"


class HostTasks:
    """Every task that runs on a host now. A task does not outlive its session: its agent gives it up as well."""

    def __init__(self, dispatcher: Dispatcher, new_id: Callable[[], str]) -> None:
        self._dispatcher = dispatcher
        self._new_id = new_id
        self._running: dict[str, _Running] = {}

    def is_connected(self, host_uid: str) -> bool:
        """Whether a host could be given work now."""
        return any(session.host_uid == host_uid for session in self._dispatcher.sessions())

    async def run(
        self,
        host_uid: str,
        work: BuildTask | SnapshotTask,
        on_report: Callable[[TaskReport], None],
        context: Context | None = None,
    ) -> None:
        """Have a host do the work; returns when it has ended well.

        Raises:
            Unavailable: HOST_AWAY, the host is not connected or went away meanwhile.
            DeadlineExceeded: TASK_TIMEOUT.
            MoorageError: what the agent says went wrong.
        """
        session = self._dispatcher.session(host_uid)
        task_id = self._new_id()
        ended = asyncio.get_running_loop().create_future()
        self._running[task_id] = _Running(host_uid, work, context, on_report, ended)
        try:
            session.request(SentTask(task_id, work))
            async with asyncio.timeout(LONGEST_SECONDS):
                await ended
        except TimeoutError:
            session.request(SentTask(task_id, None))
            raise DeadlineExceeded(
                "the host did not finish in time; see its agent's log", reason="TASK_TIMEOUT"
            ) from None
        except asyncio.CancelledError:
            session.request(SentTask(task_id, None))
            raise
        finally:
            del self._running[task_id]

    def report(self, host_uid: str, report: TaskReport) -> None:
        """What the agent says; unknown tasks and other hosts' tasks are ignored."""
        running = self._running.get(report.task_id)
        if running is None or running.host_uid != host_uid or running.ended.done():
            return
        running.on_report(report)
        if report.error is not None:
            running.ended.set_exception(report.error)
        elif report.done:
            running.ended.set_result(None)

    def session_lost(self, host_uid: str) -> None:
        """The host went away: its tasks have failed."""
        for running in self._running.values():
            if running.host_uid == host_uid and not running.ended.done():
                running.ended.set_exception(Unavailable("the host went away meanwhile; try again", reason="HOST_AWAY"))

    def context(self, host_uid: str, task_id: str) -> Context:
        """The context of a build of this host.

        Raises:
            NotFound: there is no such build here, or it has no context.
        """
        running = self._running.get(task_id)
        if running is None or running.host_uid != host_uid or running.context is None:
            raise NotFound("this host has no such build with a context", reason="TASK_UNKNOWN")
        return running.context

    def require_push(self, host_uid: str, repository: str) -> None:
        """Let a host write only where its own running task goes.

        Raises:
            Forbidden: NOT_YOUR_REPOSITORY.
        """
        if not any(r.host_uid == host_uid and r.work.repository == repository for r in self._running.values()):
            raise Forbidden("no build or snapshot of this host goes there", reason="NOT_YOUR_REPOSITORY")

    def base_repositories(self, host_uid: str) -> set[str]:
        """Repositories that the host's running builds begin from."""
        return {
            image.partition("@")[0]
            for r in self._running.values()
            if r.host_uid == host_uid and isinstance(r.work, BuildTask)
            for image in r.work.base_images.values()
        }

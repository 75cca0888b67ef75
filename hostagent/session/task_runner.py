"""Carries out tasks (builds, snapshots) and reports how they go, until they end or are cancelled."""

import asyncio
import logging
from collections.abc import Callable

from hostagent.engine.values import PullProgress
from hostagent.executor.image_tasks import BuildOrder, ImageMaker
from hostagent.session.outbox import Outbox
from hostagent.session.unary import AgentCalls
from moorage.clock import Clock
from moorage.errors import Internal, MoorageError, NotReady
from moorage.ids import ContainerId, InstanceId
from moorage.protoconv import from_proto
from moorage.status import status_of
from moorage.tasks import TaskOwner
from moorage.v1 import agent_pb2

log = logging.getLogger(__name__)

BUILDS_AT_ONCE = 2
_REPORT_SECONDS = 0.2
_LOG_PIECE = 48 * 1024


class _Reporter:
    """Gathers progress and log of one task, and sends them at most every `_REPORT_SECONDS`."""

    def __init__(self, task_id: str, outbox: Outbox, clock: Clock) -> None:
        self._task_id = task_id
        self._outbox = outbox
        self._clock = clock
        self._phase = ""
        self._percent = self._done = self._total = 0
        self._log = ""
        self._is_new = False

    def phase(self, name: str) -> None:
        """A new phase begins."""
        self._phase, self._percent, self._done, self._total = name, 0, 0, 0
        self.flush()

    def progress(self, progress: PullProgress) -> None:
        """The engine moved bytes."""
        self._percent, self._done, self._total = progress.percent, progress.current_bytes, progress.total_bytes
        self._is_new = True

    def output(self, text: str) -> None:
        """The build said something."""
        self._log += text
        self._is_new = True
        if len(self._log) > _LOG_PIECE:
            self.flush()

    def flush(self, error: MoorageError | None = None, *, is_done: bool = False) -> None:
        """Send what there is."""
        pieces = [self._log[start : start + _LOG_PIECE] for start in range(0, len(self._log), _LOG_PIECE)] or [""]
        self._log, self._is_new = "", False
        for number, piece in enumerate(pieces, 1):
            report = agent_pb2.TaskReport(
                task_id=self._task_id,
                phase=self._phase,
                percent=self._percent,
                done_bytes=self._done,
                total_bytes=self._total,
                log=piece,
                done=is_done and number == len(pieces),
            )
            if error is not None and report.done:
                report.error.CopyFrom(status_of(error))
            self._outbox.notify(agent_pb2.SessionRequest(task=report))

    async def run(self) -> None:
        """Send what has come up, again and again until cancelled: the last words before a long silence too."""
        while True:
            await self._clock.sleep(_REPORT_SECONDS)
            if self._is_new:
                self.flush()


class TaskRunner:
    """Runs tasks; `close` ends them all.

    Args:
        container_of: the container of an instance; raises MoorageError.
    """

    def __init__(
        self,
        *,
        maker: ImageMaker,
        calls: AgentCalls,
        outbox: Outbox,
        clock: Clock,
        container_of: Callable[[InstanceId], ContainerId],
    ) -> None:
        self._maker = maker
        self._calls = calls
        self._outbox = outbox
        self._clock = clock
        self._container_of = container_of
        self._tasks = TaskOwner("tasks")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._builds = asyncio.Semaphore(BUILDS_AT_ONCE)

    def take(self, task: agent_pb2.Task) -> None:
        """Begin a task, or give one up. One that runs already is not begun again."""
        running = self._running.get(task.task_id)
        if task.WhichOneof("kind") == "cancel":
            if running is not None:
                running.cancel()
            return
        if running is None:
            self._running[task.task_id] = self._tasks.spawn(self._run(task), name=f"task {task.task_id}")

    async def close(self) -> None:
        """Give all tasks up."""
        await self._tasks.close()

    async def _run(self, task: agent_pb2.Task) -> None:
        reporter = _Reporter(task.task_id, self._outbox, self._clock)
        reporting = self._tasks.spawn(reporter.run(), name=f"reports of task {task.task_id}")
        try:
            match task.WhichOneof("kind"):
                case "build":
                    async with self._builds:
                        await self._build(task.task_id, task.build, reporter)
                case "snapshot":
                    await self._snapshot(task.snapshot, reporter)
                case _:
                    raise NotReady("this agent does not know this kind of task", reason="AGENT_VERSION")
            reporter.flush(is_done=True)
        except asyncio.CancelledError:
            reporter.flush(NotReady("the task was given up", reason="CANCELLED"), is_done=True)
            raise
        except MoorageError as exc:
            reporter.flush(exc, is_done=True)
        except Exception as exc:
            log.exception("a task failed unexpectedly", extra={"task": task.task_id})
            reporter.flush(Internal(f"the task failed on its host: {exc}"), is_done=True)
        finally:
            reporting.cancel()
            self._running.pop(task.task_id, None)

    async def _build(self, task_id: str, message: agent_pb2.BuildTask, reporter: _Reporter) -> None:
        order = from_proto(BuildOrder, message)
        context = self._calls.build_context(task_id) if message.has_context else None
        reporter.phase("build")
        is_pushing = False

        def on_push(progress: PullProgress) -> None:
            nonlocal is_pushing
            if not is_pushing:
                is_pushing = True
                reporter.phase("push")
            reporter.progress(progress)

        await self._maker.build(order, context, on_output=reporter.output, on_push=on_push)

    async def _snapshot(self, message: agent_pb2.SnapshotTask, reporter: _Reporter) -> None:
        container_id = self._container_of(InstanceId(message.instance_id))
        reporter.phase("push")
        await self._maker.snapshot(
            container_id,
            message.repository,
            message.tag,
            pause=not message.no_pause,
            on_push=reporter.progress,
        )

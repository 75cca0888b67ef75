"""Asyncio tasks with an owner: the only place that starts one.

Invariants: every task has a name and an owner that awaits it; a task that fails is logged and reported once, never
lost; after `close()` no task of the owner is left. Cancellation is passed on, never swallowed.
"""

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from moorage.clock import Clock, SystemClock
from moorage.retry import Backoff, RandomFraction

log = logging.getLogger(__name__)

T = TypeVar("T")
OnFailure = Callable[[str, BaseException], None]


class TaskOwner:
    """Starts tasks and ends them all. Use as an async context manager, or call `close()`.

    Args:
        name: for the log.
        on_failure: called with the task's name and exception when one fails; typically ends the program.
        cancel_again_seconds: in `close()`, tasks that have not ended after this long are named in the log and
            cancelled once more.
    """

    def __init__(self, name: str, *, on_failure: OnFailure | None = None, cancel_again_seconds: float = 5.0) -> None:
        self._name = name
        self._on_failure = on_failure
        self._cancel_again_seconds = cancel_again_seconds
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a set that keeps the order of starting
        self._is_closed = False

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the tasks that have not ended, sorted."""
        return tuple(sorted(task.get_name() for task in self._tasks))

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a task. It ends by itself or with the owner.

        Raises:
            RuntimeError: the owner is closed.
        """
        if self._is_closed:
            coroutine.close()  # else Python warns that it was never awaited
            raise RuntimeError(f"{self._name} is closed and cannot start {name}")
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def supervise(
        self,
        function: Callable[[], Awaitable[None]],
        *,
        name: str,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
        random: RandomFraction = random_module.random,
    ) -> asyncio.Task[None]:
        """Start a task that runs `function` until it returns, and again after a delay whenever it fails.

        A run that lasted longer than the greatest delay was healthy: the delays start anew after it.
        """
        return self.spawn(
            _restart_on_failure(function, name, backoff or Backoff(), clock or SystemClock(), random), name=name
        )

    async def close(self) -> None:
        """Cancel every task, in the order of starting, and wait until all have ended.

        Can be called again, and by a task of the owner itself.
        """
        self._is_closed = True
        while waiting := [task for task in self._tasks if task is not asyncio.current_task()]:
            for task in waiting:
                task.cancel()
            _, late = await asyncio.wait(waiting, timeout=self._cancel_again_seconds)
            if late:
                # Cancelled again in the next round: some libraries lose a cancellation that meets a result.
                names = ",".join(sorted(task.get_name() for task in late))
                log.warning("tasks do not end after they were cancelled", extra={"owner": self._name, "tasks": names})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        log.error("task failed", exc_info=error, extra={"owner": self._name, "task": task.get_name()})
        if self._on_failure is not None:
            self._on_failure(task.get_name(), error)


async def _restart_on_failure(
    function: Callable[[], Awaitable[None]], name: str, backoff: Backoff, clock: Clock, random: RandomFraction
) -> None:
    delays = backoff.delays(random)
    while True:
        started_at = clock.monotonic()
        try:
            await function()
        except Exception as exc:
            if clock.monotonic() - started_at > backoff.maximum:
                delays = backoff.delays(random)
            delay = next(delays)
            log.error(
                "loop failed and will be started again",
                exc_info=exc,
                extra={"loop": name, "delay_seconds": round(delay, 3)},
            )
        else:
            return
        await clock.sleep(delay)

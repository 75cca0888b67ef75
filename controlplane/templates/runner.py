"""Owns the work of every running operation: one task each, progress written a few times a second, an end that is always written.

After a restart of the control plane, work whose source is still at hand begins again; an upload that was cut short has failed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from controlplane.dispatch.tasks import TaskReport
from controlplane.domain.hosts import HostLinkState
from controlplane.domain.kinds import HOST, OPERATION, TEMPLATE
from controlplane.domain.operations import HostProgress, Operation, OperationState, failure_error
from controlplane.domain.templates import Template, TemplateState
from controlplane.images.model import Progress
from controlplane.services.templates import MadeImage, TemplateService
from controlplane.templates.builds import Builder
from controlplane.templates.importer import Importer
from moorage.clock import Clock
from moorage.errors import Internal, MoorageError, NotReady, Unavailable
from moorage.store.base import Store
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

_TELL_SECONDS = 0.3
_PIPE_CHUNKS = 8  # an upload is at most so many messages ahead of what is done with it

#: Where each phase lies on the way from 0 to 100.
_PHASES = {
    "waiting": (0, 0),
    "receiving": (0, 30),
    "unpacking": (30, 35),
    "reading": (35, 40),
    "compressing": (40, 70),
    "copying": (0, 99),
    "uploading": (70, 99),
    "pull": (0, 20),
    "build": (20, 80),
    "commit": (0, 50),
    "push": (80, 99),
}


class TemplateRunner:
    """Begins, follows, cancels and undoes the making of images."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        templates: TemplateService,
        importer: Importer,
        builder: Builder,
        tasks: TaskOwner,
    ) -> None:
        self._store = store
        self._clock = clock
        self._templates = templates
        self._importer = importer
        self._builder = builder
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()

    async def resume(self) -> None:
        """Go on with what an earlier control plane left."""
        view = self._store.view()
        for found in view.find(OPERATION, "state", OperationState.RUNNING.name):
            operation = found.value
            template = self._templates.template_of(operation)
            if template is None or _was_upload(template):
                error = Unavailable(
                    "the control plane was restarted during the upload; upload again", reason="INTERRUPTED"
                )
                await self._templates.fail(operation, error)
            else:
                self.begin(operation)
        for item in view.find(TEMPLATE, "state", TemplateState.DELETING.name):
            self.remove(item.value)

    def begin(self, operation: Operation, content: AsyncIterator[bytes] | None = None) -> "asyncio.Task[None]":
        """Start the work of an operation."""
        task = self._tasks.spawn(self._work(operation, content), name=f"operation {operation.uid}")
        self._running[operation.uid] = task
        task.add_done_callback(lambda _: self._running.pop(operation.uid, None))
        return task

    async def receive(self, operation: Operation, chunks: AsyncIterator[bytes]) -> None:
        """Start the work of an upload and feed it. Returns when the caller has sent everything.

        Raises:
            MoorageError: the work failed before that; the rest of the upload is of no use.
        """
        pipe: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_PIPE_CHUNKS)

        async def content() -> AsyncIterator[bytes]:
            while (item := await pipe.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item

        work = self.begin(operation, content())
        try:
            async for chunk in chunks:
                if not await _put(pipe, chunk, work):
                    break
            await _put(pipe, None, work)
        except BaseException as error:
            cut = Unavailable("the upload was cut short; upload again", reason="INTERRUPTED")
            await _put(pipe, error if isinstance(error, MoorageError) else cut, work)
            raise
        if work.done():
            self._raise_failure(operation)

    def _raise_failure(self, operation: Operation) -> None:
        found = self._store.view().get(OPERATION, OPERATION.key(operation))
        if found is not None and found.value.failure is not None:
            failure = found.value.failure
            raise failure_error(failure)

    async def cancel(self, operation: Operation) -> None:
        """Stop the work; the operation ends as CANCELLED."""
        task = self._running.get(operation.uid)
        if task is not None:
            self._cancelled.add(operation.uid)
            task.cancel()
            await asyncio.wait([task])
            self._cancelled.discard(operation.uid)
        # A task that had not begun yet has written nothing; for one that has, this changes nothing.
        await self._templates.fail(operation, _cancelled(), cancelled=True)

    def remove(self, template: Template) -> None:
        """Free the space of a template that is being deleted."""
        self._tasks.spawn(self._remove(template), name=f"remove template {template.uid}")

    async def _remove(self, template: Template) -> None:
        try:
            await self._importer.forget(template.repository, template.status.digest or None)
        except MoorageError as error:
            # The next start tries again: the template stays DELETING until its space is free.
            log.warning("the image of %s could not be removed: %s", template.name, error)
            return
        await self._templates.forget(template)

    async def _work(self, operation: Operation, content: AsyncIterator[bytes] | None) -> None:
        teller = _Teller(self._templates, operation)
        telling = self._tasks.spawn(teller.run(self._clock), name=f"progress {operation.uid}")
        try:
            template = self._templates.template_of(operation)
            if template is None:
                raise Internal(f"{operation.name} has no template")
            image = await self._make(template, content, teller)
            await self._templates.succeed(operation, image, teller.take_log())
        except MoorageError as error:
            await self._fail(operation, error, teller.take_log())
        except asyncio.CancelledError:
            if operation.uid in self._cancelled:
                self._cancelled.discard(operation.uid)
                await self._fail(operation, _cancelled(), teller.take_log(), cancelled=True)
            raise
        except Exception as error:
            log.exception("%s failed unexpectedly", operation.name)
            internal = Internal(f"something went wrong here: {type(error).__name__}; see the control plane's log")
            await self._fail(operation, internal, teller.take_log())
        finally:
            telling.cancel()

    async def _fail(self, operation: Operation, error: MoorageError, text: str, *, cancelled: bool = False) -> None:
        template = self._templates.template_of(operation)
        await self._templates.fail(operation, error, text, cancelled=cancelled)
        if template is not None:
            # What was pushed of it is of no use to anybody; the next collection would keep it for its manifest's sake.
            self._tasks.spawn(self._sweep(template.repository), name=f"sweep {template.uid}")

    async def _sweep(self, repository: str) -> None:
        try:
            await self._importer.forget(repository, None)
        except MoorageError as error:
            log.warning("what was left of %s could not be removed: %s", repository, error)

    async def _make(self, template: Template, content: AsyncIterator[bytes] | None, teller: "_Teller") -> MadeImage:
        source = template.source
        if source.repository is not None:
            platforms = source.repository.platforms or self._platforms()
            return await self._importer.from_repository(
                source.repository, template.repository, platforms, teller.progress
            )
        if source.tar is not None:
            stream = self._importer.fetch(source.tar.url) if content is None else content
            return await self._importer.from_tar(stream, source.tar, template.repository, teller.progress)
        if source.dockerfile is not None:
            stream_ = content
            if stream_ is None and source.dockerfile.context_url:
                stream_ = self._importer.fetch(source.dockerfile.context_url)
            return await self._builder.build(template, source.dockerfile, stream_, teller.progress, teller.report)
        if source.snapshot is not None:
            return await self._builder.snapshot(template, source.snapshot, teller.report)
        raise Internal(f"{template.name} has no source")

    def _platforms(self) -> tuple[str, ...]:
        """Those of the fleet's hosts; none yet: all that the image offers."""
        hosts = [found.value for found in self._store.view().all(HOST)]
        found = {h.facts.platform for h in hosts if h.facts.platform and h.link_state is not HostLinkState.CONNECTING}
        return tuple(sorted(found))


class _Teller:
    """Collects progress as it comes and writes it a few times a second."""

    def __init__(self, templates: TemplateService, operation: Operation) -> None:
        self._templates = templates
        self._operation = operation
        self._phase, self._percent, self._done, self._total = "waiting", 0, 0, 0
        self._log = ""
        self._hosts: dict[str, HostProgress] = {}
        self._is_new = False

    def progress(self, progress: Progress) -> None:
        """From importing."""
        share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
        self._set(progress.phase, share, progress.done_bytes, progress.total_bytes)

    def report(self, host: str, report: TaskReport) -> None:
        """From a host."""
        self._log += report.log
        self._hosts[host] = HostProgress(report.phase, 100 if report.done and report.error is None else report.percent)
        self._set(report.phase or self._phase, report.percent / 100, report.done_bytes, report.total_bytes)

    def _set(self, phase: str, share: float, done: int, total: int) -> None:
        first, last = _PHASES.get(phase, (0, 99))
        percent = int(first + (last - first) * min(max(share, 0.0), 1.0))
        self._phase, self._percent, self._done, self._total = phase, max(self._percent, percent), done, total
        self._is_new = True

    def take_log(self) -> str:
        """What was printed since the last time."""
        text, self._log = self._log, ""
        return text

    async def run(self, clock: Clock) -> None:
        """Write until cancelled."""
        while True:
            await clock.sleep(_TELL_SECONDS)
            if self._is_new:
                self._is_new = False
                await self._templates.progress(
                    self._operation, self._phase, self._percent, self._done, self._total, self.take_log(), self._hosts
                )


async def _put(
    pipe: "asyncio.Queue[bytes | BaseException | None]",
    item: bytes | BaseException | None,
    work: "asyncio.Task[None]",
) -> bool:
    """Hand one item over; False when the work has ended and nobody takes it any more."""
    putting = asyncio.ensure_future(pipe.put(item))
    done, _ = await asyncio.wait((putting, work), return_when=asyncio.FIRST_COMPLETED)
    if putting in done:
        return True
    putting.cancel()
    return False


def _was_upload(template: Template) -> bool:
    source = template.source
    if source.tar is not None:
        return not source.tar.url
    return source.dockerfile is not None and not source.dockerfile.inline and not source.dockerfile.context_url


def _cancelled() -> MoorageError:
    return NotReady("cancelled on request", reason="CANCELLED")

"""The work behind templates: each operation gets an end, whatever happens to its work."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controlplane.dispatch.tasks import TaskReport
from controlplane.domain.kinds import OPERATION, TEMPLATE
from controlplane.domain.operations import Operation, OperationState
from controlplane.domain.templates import DockerfileSource, TarSource, TemplateSource
from controlplane.images.model import Progress
from controlplane.services.templates import MadeImage
from controlplane.templates.runner import TemplateRunner
from moorage.errors import InvalidSpec, NotFound, Unavailable
from moorage.tasks import TaskOwner
from tests.unit.controlplane.test_templates import IMAGE, new_template
from tests.unit.controlplane.world import P, World


class Images:
    """Importer and builder in one. `work` is what making an image is."""

    def __init__(self) -> None:
        self.work: Callable[..., Any] = self._at_once
        self.forgotten: list[str] = []
        self.forget_fails = False

    async def _at_once(self, *_: Any) -> MadeImage:
        return IMAGE

    async def from_repository(self, source: Any, repository: str, platforms: Any, progress: Any) -> MadeImage:
        return await self.work(progress, None)  # type: ignore[no-any-return]

    async def from_tar(self, stream: Any, source: Any, repository: str, progress: Any) -> MadeImage:
        return await self.work(progress, stream)  # type: ignore[no-any-return]

    async def build(self, template: Any, source: Any, stream: Any, progress: Any, on_report: Any) -> MadeImage:
        return await self.work(on_report, stream)  # type: ignore[no-any-return]

    async def forget(self, repository: str, *_: Any) -> None:
        if self.forget_fails:
            raise Unavailable("the registry is away")
        self.forgotten.append(repository)


class Bench:
    """A runner at work in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.images = Images()
        self.owner = TaskOwner("test")
        self.runner = self.new_runner()

    def new_runner(self) -> TemplateRunner:
        images: Any = self.images
        return TemplateRunner(self.world.store, self.world.clock, self.world.templates, images, images, self.owner)

    async def begin(self, template_id: str = "t", source: TemplateSource | None = None) -> Operation:
        wanted = new_template(template_id) if source is None else new_template(template_id, source=source)
        operation, _ = await self.world.templates.create(P, wanted, "ann", is_upload=source is not None)
        return operation

    def state(self, operation: Operation) -> OperationState:
        return self.world.operations.get(P, operation.uid).state

    async def ended(self, operation: Operation) -> Operation:
        async with asyncio.timeout(30):
            return await self.world.operations.wait(P, operation.uid)


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    bench = Bench(world)
    yield bench
    await bench.owner.close()


async def test_an_image_is_had(bench: Bench) -> None:
    operation = await bench.begin()
    bench.runner.begin(operation)
    assert (await bench.ended(operation)).state is OperationState.SUCCEEDED
    await bench.world.clock.settle()
    assert bench.owner.running == ()


async def test_progress_is_told_a_few_times_a_second(bench: Bench) -> None:
    go = asyncio.Event()

    async def work(progress: Callable[[Progress], None], _: Any) -> MadeImage:
        for done in range(5):
            progress(Progress("copying", done, 10))
        await go.wait()
        return IMAGE

    bench.images.work = work
    operation = await bench.begin()
    bench.runner.begin(operation)
    await bench.world.clock.settle()
    revision = bench.world.store.view().revision
    await bench.world.clock.run_for(0.4)
    found = bench.world.operations.get(P, operation.uid)
    assert (found.phase, found.percent, found.done_bytes) == ("copying", 39, 4)
    assert bench.world.store.view().revision == revision + 1, "five steps, one commit"
    await bench.world.clock.run_for(5)
    assert bench.world.store.view().revision == revision + 1, "no news, no commit"
    go.set()
    await bench.ended(operation)


@pytest.mark.parametrize("error", [NotFound("no such image"), RuntimeError("a bug")])
async def test_work_that_fails(bench: Bench, error: Exception) -> None:
    async def work(*_: Any) -> MadeImage:
        raise error

    bench.images.work = work
    operation = await bench.begin()
    repository = bench.world.templates.get(P, "t").repository
    bench.runner.begin(operation)
    ended = await bench.ended(operation)
    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert ended.failure.kind == ("NotFound" if isinstance(error, NotFound) else "Internal")
    assert "a bug" not in ended.failure.message
    await bench.world.clock.settle()
    assert bench.images.forgotten == [repository], "what was pushed of it goes as well"
    assert bench.world.store.view().get(TEMPLATE, f"{P}/t") is None


async def test_the_log_of_a_build_that_fails_is_kept(bench: Bench) -> None:
    async def work(on_report: Any, _: Any) -> MadeImage:
        on_report("hosts/a", TaskReport("x", "build", 50, log="step 1\n"))
        on_report("hosts/a", TaskReport("x", "build", 60, log="boom\n"))
        raise InvalidSpec.of("dockerfile", "RUN failed", "BUILD_FAILED")

    bench.images.work = work
    operation = await bench.begin("t", TemplateSource(dockerfile=DockerfileSource("FROM x")))
    bench.runner.begin(operation)
    ended = await bench.ended(operation)
    assert ended.log == "step 1\nboom\n"
    assert ended.failure is not None
    assert ended.failure.reason == "BUILD_FAILED"


async def test_cancel(bench: Bench) -> None:
    async def work(*_: Any) -> MadeImage:
        await asyncio.Event().wait()
        raise AssertionError

    bench.images.work = work
    for name, turns in (("at-once", 0), ("later", 20)):
        operation = await bench.begin(name)
        bench.runner.begin(operation)
        await bench.world.clock.settle(turns)
        await bench.runner.cancel(operation)
        assert bench.state(operation) is OperationState.CANCELLED, name
        assert bench.world.store.view().get(TEMPLATE, f"{P}/{name}") is None
    orphan = await bench.begin("orphan")
    await bench.runner.cancel(orphan)
    assert bench.state(orphan) is OperationState.CANCELLED, "also one whose work is not running here"


async def _read_all(_: Any, stream: AsyncIterator[bytes]) -> MadeImage:
    size = 0
    async for chunk in stream:
        size += len(chunk)
    assert size == 30
    return IMAGE


async def _chunks(count: int, error: BaseException | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x"
    if error is not None:
        raise error


async def test_an_upload(bench: Bench) -> None:
    bench.images.work = _read_all
    operation = await bench.begin("t", TemplateSource(tar=TarSource()))
    await bench.runner.receive(operation, _chunks(30))
    assert (await bench.ended(operation)).state is OperationState.SUCCEEDED


async def test_an_upload_that_is_cut_short(bench: Bench) -> None:
    bench.images.work = _read_all
    operation = await bench.begin("t", TemplateSource(tar=TarSource()))
    with pytest.raises(ConnectionError):
        await bench.runner.receive(operation, _chunks(3, ConnectionError()))
    ended = await bench.ended(operation)
    assert ended.failure is not None
    assert (ended.state, ended.failure.reason) == (OperationState.FAILED, "INTERRUPTED")


async def test_an_upload_of_what_is_no_good_ends_at_once(bench: Bench) -> None:
    """However much is still to come."""

    async def work(_: Any, stream: AsyncIterator[bytes]) -> MadeImage:
        await anext(stream)
        raise InvalidSpec.of("tar", "is no tar", "NOT_A_TAR")

    bench.images.work = work
    operation = await bench.begin("t", TemplateSource(tar=TarSource()))
    with pytest.raises(InvalidSpec) as caught:
        await bench.runner.receive(operation, _chunks(10**9))
    assert caught.value.reason == "NOT_A_TAR"
    assert bench.state(operation) is OperationState.FAILED


async def test_after_a_restart(bench: Bench) -> None:
    again = await bench.begin("again")
    upload = await bench.begin("upload", TemplateSource(tar=TarSource()))
    done = await bench.begin("done")
    await bench.world.templates.succeed(done, IMAGE)
    await bench.world.templates.delete(P, "done")
    await bench.new_runner().resume()
    assert (await bench.ended(again)).state is OperationState.SUCCEEDED
    ended = await bench.ended(upload)
    assert ended.failure is not None
    assert ended.failure.reason == "INTERRUPTED"
    await bench.world.clock.settle()
    assert bench.world.store.view().get(TEMPLATE, f"{P}/done") is None
    assert not bench.world.store.view().find(OPERATION, "state", OperationState.RUNNING.name)


async def test_space_that_cannot_be_freed_yet(bench: Bench) -> None:
    operation = await bench.begin()
    await bench.world.templates.succeed(operation, IMAGE)
    template = await bench.world.templates.delete(P, "t")
    bench.images.forget_fails = True
    bench.runner.remove(template)
    await bench.world.clock.settle()
    assert bench.world.templates.get(P, "t") == template, "it is tried again at the next start"
    bench.images.forget_fails = False
    await bench.new_runner().resume()
    await bench.world.clock.settle()
    assert bench.images.forgotten == [template.repository]
    assert bench.world.store.view().get(TEMPLATE, f"{P}/t") is None

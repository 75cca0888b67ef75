"""The engines under test: the fake always, a real Docker Engine where this machine can run one."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hostagent.domain import ContainerObservation, ContainerPhase, ContainerSpec
from hostagent.engine.docker_engine import DockerEngine
from tests.fakes.engine import FakeEngine, FakeProgram
from tests.integration.engine_bed import BASE_IMAGE, REGISTRY, EngineBed, require_engine

Engine = DockerEngine | FakeEngine
DEADLINE_SECONDS = 20.0

# Commands for busybox; the fake is told what they do.
FOREVER = ("sleep", "600")  # process 1 without a handler: only SIGKILL ends it
POLITE = ("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done")
FAILS = ("sh", "-c", "echo out; echo err >&2; exit 3")
CAT = ("sh", "-c", "cat; exit 5")
# Waits until the terminal has a size: engines before 23 set it after the start only.
SIZE = ("sh", "-c", 'while size=$(stty size 2>/dev/null); [ -z "$size" ]; do sleep 0.02; done; echo $size')
HUNGRY = ("sh", "-c", "tail /dev/zero")
PROGRAMS = {
    FOREVER: FakeProgram(ignores_signals=True),
    POLITE: FakeProgram(output=(("stdout", b"ready\n"),), on_signal=7),
    FAILS: FakeProgram(output=(("stdout", b"out\n"), ("stderr", b"err\n")), exit_code=3),
    CAT: FakeProgram(echoes_stdin=True, exit_code=5),
    SIZE: FakeProgram(prints_size=True, exit_code=0),
    HUNGRY: FakeProgram(exit_code=137, oom_killed=True),
}


@dataclass
class Bench:
    """An engine with an image in its store, and what the suite needs around it."""

    engine: Engine
    image: str
    registry: str  # host:port of a registry that the engine can push to

    @property
    def fake(self) -> FakeEngine | None:
        """The fake, for what a real engine does by itself."""
        return self.engine if isinstance(self.engine, FakeEngine) else None

    def spec(self, name: str, command: tuple[str, ...] = FOREVER, **values: Any) -> ContainerSpec:
        """A container of the suite."""
        return ContainerSpec(name=name, image=self.image, command=command, labels={"suite": name}, **values)

    async def run(self, name: str, command: tuple[str, ...] = FOREVER, **values: Any) -> str:
        """Create and start; for POLITE also wait until it listens to signals."""
        container_id = await self.engine.create(self.spec(name, command, **values), runtime="")
        await self.engine.start(container_id)
        if command == POLITE:
            await self.until(lambda: self._wrote(container_id, b"ready"))
        return container_id

    async def ended(self, container_id: str) -> ContainerObservation:
        """Wait for the end of its process."""

        async def has_ended() -> ContainerObservation | None:
            seen = await self.engine.inspect(container_id)
            return seen if seen is not None and seen.phase is ContainerPhase.EXITED else None

        seen = await self.until(has_ended)
        assert isinstance(seen, ContainerObservation)
        return seen

    async def until(self, condition: Callable[[], Awaitable[object]]) -> object:
        """Wait for a condition, and give up after the deadline."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (result := await condition()):
            assert time.monotonic() < deadline, "the condition did not come true in time"
            await asyncio.sleep(0.01)
        return result

    async def _wrote(self, container_id: str, words: bytes) -> bool:
        return words in b"".join([chunk.data async for chunk in self.engine.logs(container_id)])


@pytest.fixture(scope="session")
def bed() -> Iterator[EngineBed]:
    """One real engine for the whole run."""
    require_engine()
    with EngineBed() as bed:
        if shutil.which("docker-registry"):
            bed.start_registry()
        yield bed


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The fake, then the real engine; every container is gone afterwards."""
    if request.param == "fake":
        fake = FakeEngine()
        fake.add_image(BASE_IMAGE)
        fake.programs.update(PROGRAMS)
        yield Bench(fake, BASE_IMAGE, REGISTRY)
        await fake.close()
        return
    bed = request.getfixturevalue("bed")
    engine = await DockerEngine.connect(bed.url)
    try:
        yield Bench(engine, BASE_IMAGE, REGISTRY)
    finally:
        for seen in await engine.list():
            await engine.remove(seen.container_id)
        await engine.close()

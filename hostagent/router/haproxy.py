"""A router's HAProxy: makes a set of balancers its configuration, without refusing a connection or losing a request.

Every change is tried by HAProxy itself first (`haproxy -c` on a candidate beside the real files). What its runtime API can do is done by
it, and looked at afterwards; else the master is told to reload: a new process takes the listeners over, learns the tables of clients
from the old one and the health of the servers from a file; the old one ends when its connections have ended, at the latest after the
drain time, for which HAProxy itself sees (`hard-stop-after`), so also without this agent. When a new process does not come, the files are
put back as they were and the old process goes on.

The running process says what it is (its *shape*, see `haproxy_config.py`), so nothing here has to be remembered over a restart of the agent
but what processes that have gone had counted.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hostagent.router import haproxy_answers, haproxy_figures
from hostagent.router.folder import Folder, NotOurs
from hostagent.router.haproxy_answers import Stats, Workers
from hostagent.router.haproxy_config import (
    CONFIGURATION_FILE,
    DEFAULT_LIMITS,
    FOLDER,
    MASTER_SOCKET,
    RUNTIME_SOCKET,
    SERVER_STATE_FILE,
    HaproxyConfiguration,
    HaproxyLimits,
    NotRenderable,
    configuration,
)
from hostagent.router.haproxy_plan import LiveConfiguration, RuntimeChanges, plan
from moorage.errors import Unavailable
from moorage.router_bundle import BalancerBundle, PoolFigure

_PROGRAM = "haproxy"  # its folder, too
_CANDIDATE = "candidate"
_ANSWER_SECONDS = 5.0
_LARGEST_ANSWER = 64 * 1024 * 1024
_READY_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_SAMPLE_SECONDS = 1.0
_NO_STATE = "1\n"
_FILE_PREFIXES = ("certificate-", "routes-")


class HaproxyRefused(Exception):
    """HAProxy does not take this configuration; what it had goes on. The text is its own."""


class HaproxyUnreachable(Unavailable):
    """HAProxy does not answer where it should: its container is about to start or to end, or it is overwhelmed. To be tried again."""


class RouterPrograms(Protocol):
    """The first process of the router's container."""

    async def check(self, program: str, file: str) -> str:
        """What a program says against a file of its folder; empty: nothing."""

    async def sync(self) -> None:
        """Programs with a configuration are started, those without are stopped."""

    async def last_words(self, program: str) -> str:
        """The end of what a program wrote to standard error."""


class Haproxy:
    """HAProxy of one router. Calls may come at once; changes are made one after the other."""

    def __init__(
        self, folder: Path, programs: RouterPrograms, *, limits: HaproxyLimits = DEFAULT_LIMITS, inside: str = FOLDER
    ) -> None:
        """Args:
        folder: the folder that the container shares with the agent.
        programs: who starts and checks.
        limits: what it may take.
        inside: HAProxy's folder in it, as HAProxy sees it.
        """
        self._path = folder
        self._programs = programs
        self._limits = limits
        self._inside = inside
        self._changes = asyncio.Lock()
        self._samples = asyncio.Lock()
        self._history = haproxy_figures.History()

    async def apply(self, balancers: Sequence[BalancerBundle], *, drain_time_seconds: float) -> bool:
        """Makes these balancers the ones that serve; returns when they do. None: HAProxy is stopped.

        Returns: whether an old process may have been left to finish what it has.
        Raises:
            HaproxyRefused: it does not take them; what it had goes on.
            HaproxyUnreachable: try again.
        """
        async with self._changes:
            with Folder.at(self._path) as shared, shared.sub(_PROGRAM) as folder:
                if not balancers:
                    if self._ours(folder):
                        folder.remove(CONFIGURATION_FILE)
                        await self._programs.sync()
                        self._clean(folder, {})
                    return False
                try:
                    wanted = configuration(
                        balancers, drain_time_seconds=drain_time_seconds, limits=self._limits, folder=self._inside
                    )
                    candidate = configuration(
                        balancers,
                        drain_time_seconds=drain_time_seconds,
                        limits=self._limits,
                        folder=f"{self._inside}/{_CANDIDATE}",
                    )
                except NotRenderable as error:
                    raise HaproxyRefused(str(error)) from error
                return await self._apply(folder, wanted, candidate)

    async def figures(self, balancers: Sequence[BalancerBundle]) -> tuple[PoolFigure, ...]:
        """Figures of each pool now, old processes included.

        Raises:
            HaproxyUnreachable: it does not answer.
        """
        with Folder.at(self._path) as shared, shared.sub(_PROGRAM) as folder:
            await self._sample(folder)
        return haproxy_figures.pool_figures(balancers, self._history)

    async def draining(self, balancers: Sequence[BalancerBundle]) -> tuple[str, ...]:
        """Instances that are behind none of these balancers and still have connections, of old processes too.

        Raises:
            HaproxyUnreachable: it does not answer.
        """
        with Folder.at(self._path) as shared, shared.sub(_PROGRAM) as folder:
            await self._sample(folder)
        return haproxy_figures.draining(balancers, self._history)

    async def watch_old_processes(self) -> None:
        """Samples old processes until there are none, so that what they count is not lost with them. To be run after each change."""
        while True:
            with Folder.at(self._path) as shared, shared.sub(_PROGRAM) as folder:
                if not (await self._sample(folder)).old:
                    return
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def _apply(self, folder: Folder, wanted: HaproxyConfiguration, candidate: HaproxyConfiguration) -> bool:
        live = await self._live(folder, wanted)
        changes = plan(live, wanted, self._inside) if live else None
        if isinstance(changes, RuntimeChanges) and changes.is_settled and self._is_written(folder, wanted):
            await self._change_at_run_time(folder, changes, wanted)  # what waited for its end may have come to it
            return False
        await self._check(folder, candidate)
        if isinstance(changes, RuntimeChanges) and await self._change_at_run_time(folder, changes, wanted):
            self._write(folder, wanted)
            self._clean(folder, wanted.files())
            return False
        await self._load(folder, wanted, live)
        self._clean(folder, wanted.files())
        return live is not None

    async def _check(self, folder: Folder, candidate: HaproxyConfiguration) -> None:
        with folder.sub(_CANDIDATE, mode=0o700) as place:
            files = {**candidate.files(), SERVER_STATE_FILE: _NO_STATE, CONFIGURATION_FILE: candidate.text}
            try:
                for name, content in files.items():
                    place.write(name, content)
                words = await self._programs.check(_PROGRAM, f"{_CANDIDATE}/{CONFIGURATION_FILE}")
            finally:
                for name in files:
                    place.remove(name)
        if words:
            raise HaproxyRefused(_alerts(words).replace(f"/{_CANDIDATE}/", "/"))

    async def _change_at_run_time(self, folder: Folder, changes: RuntimeChanges, wanted: HaproxyConfiguration) -> bool:
        """Carries the commands out; False if one of them was refused or did not do what it should."""
        for command in changes.commands:
            text = f"{command.text} <<\n{command.payload}" if command.payload else command.text
            answer = await self._ask(folder, RUNTIME_SOCKET, text)
            if not command.succeeded(answer) and not command.may_fail:
                return False
        # certificates are compared with their files, which are written after this
        live = await self._live(folder, wanted, certificates=wanted.certificates)
        settled = plan(live, wanted, self._inside) if live else None
        return isinstance(settled, RuntimeChanges) and settled.is_settled

    async def _load(self, folder: Folder, wanted: HaproxyConfiguration, live: LiveConfiguration | None) -> None:
        """Starts a process with this configuration, or a new one in place of the running one."""
        before = {name: folder.read(name) for name in self._ours(folder)}
        state = _NO_STATE
        if live and live.shape:
            await self._sample(folder)
            state = haproxy_answers.server_state_file(
                await self._ask(folder, RUNTIME_SOCKET, "show servers state"), wanted
            )
        try:
            folder.write(SERVER_STATE_FILE, state)
            self._write(folder, wanted)
            failure = await (self._reload(folder, wanted.shape) if live else self._start(folder, wanted.shape))
            if failure is None:
                return
            self._put_back(folder, before)
            if live:
                await self._reload(folder, live.shape)
            else:
                await self._programs.sync()
            raise HaproxyRefused(failure)
        finally:
            folder.write(SERVER_STATE_FILE, _NO_STATE)  # what it says is soon wrong: it is for this process only

    async def _start(self, folder: Folder, shape: str) -> str | None:
        """None when it serves, else why it does not."""
        await self._programs.sync()
        if await self._until(lambda: self._is_new(folder, shape, 0)):
            return None
        return _last_alerts(await self._programs.last_words(_PROGRAM)) or "HAProxy does not start, and does not say why"

    async def _reload(self, folder: Folder, shape: str) -> str | None:
        """None when a new process serves, else why none does."""
        before = await self._workers_when_back(folder)
        answer = await self._ask(folder, MASTER_SOCKET, "reload", is_reload=True)
        if "Success=0" in answer:  # 2.7 and later answer when it is done
            return _alerts(answer.partition("--")[2].strip()) or answer

        async def is_decided() -> bool:
            return await self._is_new(folder, shape, before.current) or await self._has_failed(folder, before)

        await self._until(is_decided)
        if await self._is_new(folder, shape, before.current):
            return None
        return (
            _last_alerts(await self._programs.last_words(_PROGRAM)) or "HAProxy does not reload, and does not say why"
        )

    async def _is_new(self, folder: Folder, shape: str, old_pid: int) -> bool:
        """Whether another process than the old one serves, with this shape, and its master answers again."""
        try:
            info = haproxy_answers.info(await self._ask(folder, RUNTIME_SOCKET, "show info"))
            if info.get("description") != shape or info.get("Pid") == str(old_pid):
                return False
            return (await self._workers(folder)).current not in (0, old_pid)
        except HaproxyUnreachable:
            return False

    async def _has_failed(self, folder: Folder, before: Workers) -> bool:
        try:
            workers = await self._workers(folder)
        except HaproxyUnreachable:  # the master is a new program just now
            return False
        return workers.has_failed and workers.reloads > before.reloads

    async def _live(
        self, folder: Folder, wanted: HaproxyConfiguration, *, certificates: Mapping[str, str] | None = None
    ) -> LiveConfiguration | None:
        """What runs; None: nothing does."""
        try:
            shape = haproxy_answers.info(await self._ask(folder, RUNTIME_SOCKET, "show info")).get("description", "")
        except HaproxyUnreachable:
            try:
                await self._workers(folder)
            except HaproxyUnreachable:
                return None
            return LiveConfiguration("")  # a master without a process that serves
        if shape != wanted.shape:
            return LiveConfiguration(shape)
        servers = haproxy_answers.servers(await self._ask(folder, RUNTIME_SOCKET, "show servers state"))
        maps = {
            name: haproxy_answers.table(await self._ask(folder, RUNTIME_SOCKET, f"show map {self._inside}/{name}"))
            for name in wanted.maps
        }
        on_disk = {name: folder.read(name) or "" for name in wanted.certificates}
        return LiveConfiguration(shape, servers, maps, on_disk if certificates is None else certificates)

    async def _workers(self, folder: Folder) -> Workers:
        return haproxy_answers.workers(await self._ask(folder, MASTER_SOCKET, "show proc"))

    async def _workers_when_back(self, folder: Folder) -> Workers:
        """As `_workers`; waits for a master that replaces itself just now, as it does at every reload."""
        deadline = asyncio.get_running_loop().time() + _ANSWER_SECONDS
        while True:
            try:
                return await self._workers(folder)
            except HaproxyUnreachable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_LOOK_SECONDS)

    async def _sample(self, folder: Folder) -> Workers:
        async with self._samples:
            workers = await self._workers_when_back(folder)
            samples: dict[int, Stats] = {}
            for pid in (*workers.old, workers.current):
                answer = await self._ask(folder, MASTER_SOCKET, f"@!{pid} show stat") if pid else ""
                if answer.startswith("#"):  # else it has just ended
                    samples[pid] = haproxy_answers.stats(answer)
            self._history = self._history.seen(samples)
            return workers

    async def _ask(self, folder: Folder, name: str, command: str, *, is_reload: bool = False) -> str:
        """One command of one of HAProxy's sockets, and its answer."""
        try:
            async with asyncio.timeout(_READY_SECONDS if is_reload else _ANSWER_SECONDS):
                reader, writer = await folder.connect(name)
                try:
                    writer.write(f"{command}\n".encode())
                    await writer.drain()
                    writer.write_eof()
                    answer = await _all_of(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise HaproxyUnreachable(f"HAProxy's {name} does not answer: {str(error) or 'too slow'}") from error
        return answer.decode("utf-8", "replace")

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> bool:
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while not await condition():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    def _ours(self, folder: Folder) -> set[str]:
        return {name for name in folder.names() if name == CONFIGURATION_FILE or name.startswith(_FILE_PREFIXES)}

    def _is_written(self, folder: Folder, wanted: HaproxyConfiguration) -> bool:
        files = {**wanted.files(), CONFIGURATION_FILE: wanted.text}
        return all(folder.read(name) == content for name, content in files.items())

    def _write(self, folder: Folder, wanted: HaproxyConfiguration) -> None:
        for name, content in wanted.files().items():
            if folder.read(name) != content:
                folder.write(name, content)
        if SERVER_STATE_FILE not in folder.names():
            folder.write(SERVER_STATE_FILE, _NO_STATE)
        folder.write(CONFIGURATION_FILE, wanted.text)

    def _put_back(self, folder: Folder, before: Mapping[str, str | None]) -> None:
        for name in self._ours(folder) - before.keys():
            folder.remove(name)
        for name, content in before.items():
            if content is not None:
                folder.write(name, content)

    def _clean(self, folder: Folder, files: Mapping[str, str]) -> None:
        for name in self._ours(folder) - files.keys() - {CONFIGURATION_FILE}:
            folder.remove(name)


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    """Everything until the end, within a limit: the other side is not trusted."""
    parts: list[bytes] = []
    length = 0
    while part := await reader.read(65536):
        length += len(part)
        if length > _LARGEST_ANSWER:
            raise NotOurs(errno.EMSGSIZE, "an endless answer")
        parts.append(part)
    return b"".join(parts)


def _alerts(words: str) -> str:
    """What HAProxy says against a configuration, without what it says besides."""
    lines = words.splitlines()
    return "\n".join([line for line in lines if "[ALERT]" in line] or lines)


def _last_alerts(words: str) -> str:
    """The same of a log, in which older ones may be."""
    lines = words.splitlines()
    marks = [number for number, line in enumerate(lines) if "[ALERT]" in line]
    first = next((number for number in reversed(marks) if number - 1 not in marks), None)
    return words.strip() if first is None else "\n".join(lines[first : marks[-1] + 1])

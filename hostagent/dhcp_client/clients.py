"""The DHCP clients of this host: one process (busybox's udhcpc) for each interface that is to ask, in the instance's namespace.

udhcpc speaks the protocol; it changes nothing, but tells each event on its standard output, and the agent does the rest with
the same calls as for every other address. Why it: small, in every distribution, and configurable to do only that.

A client ends with the agent, however that ends (the kernel sees to it), and gives nothing back then: the address goes on with
the lifetime of its lease, in the kernel, and the next agent's client asks for the same one. It gives the address back when the
interface goes.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from hostagent.dhcp_client.lease import Lease, LeaseFiles, read_event
from moorage.clock import Clock
from moorage.errors import NotSupported
from moorage.ids import InstanceId
from moorage.retry import Backoff
from moorage.tasks import TaskOwner

log = logging.getLogger(__name__)

FIRST_ANSWER_SECONDS = 10.0  # for so long the process waits for an address
_RELEASE_SECONDS = 3.0
_BETWEEN_ATTEMPTS = ("-t", "4", "-T", "1", "-A", "3")


@dataclass(slots=True)
class _Client:
    """One interface's."""

    instance_id: InstanceId
    interface: str
    hostname: str
    namespace: Path
    identity: tuple[int, int]  # of the namespace
    started_at: float  # monotonic
    lease: Lease | None = None
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None


class DhcpClients:
    """Starts, follows and ends the clients.

    Args:
        folder: for leases and the script; not on a file system without execution.
        on_change: called when an interface was given an address, renewed it, or lost it.
    """

    def __init__(
        self, folder: Path, *, tasks: TaskOwner, clock: Clock, on_change: Callable[[InstanceId], None]
    ) -> None:
        self._files = LeaseFiles(folder)
        self._tasks = tasks
        self._clock = clock
        self._on_change = on_change
        self._clients: dict[tuple[InstanceId, str], _Client] = {}
        self._known = self._files.load(self._now())  # from before
        self._script: Path | None = None

    def leases(self, instance_id: InstanceId) -> dict[str, Lease]:
        """What an instance's interfaces have now."""
        found = {name: lease for (owner, name), lease in self._known.items() if owner == instance_id}
        found |= {c.interface: c.lease for c in self._of(instance_id) if c.lease is not None}
        now = self._now()
        return {name: lease for name, lease in found.items() if lease.expires > now}

    def wait_seconds(self, instance_id: InstanceId) -> float:
        """How long the instance's process should still wait for a first address; 0: no more."""
        have = self.leases(instance_id)
        started = [c.started_at for c in self._of(instance_id) if c.interface not in have]
        if not started:
            return 0.0
        return max(0.0, max(started) + FIRST_ANSWER_SECONDS - self._clock.monotonic())

    def follow(self, instance_id: InstanceId, namespace: Path, wanted: Mapping[str, str]) -> None:
        """Have a client for each of these interfaces (name to host name).

        Raises:
            NotSupported: DHCP_CLIENT_MISSING.
        """
        if wanted:
            client_command()
        seen = namespace.stat() if wanted else None
        for interface, hostname in wanted.items():
            assert seen is not None
            identity = (seen.st_dev, seen.st_ino)
            known = self._clients.get((instance_id, interface))
            if known is not None:
                if known.identity == identity:
                    continue
                self._end(known)  # its namespace was made anew
            lease = self.leases(instance_id).get(interface)
            client = _Client(instance_id, interface, hostname, namespace, identity, self._clock.monotonic(), lease)
            self._clients[instance_id, interface] = client
            client.task = self._tasks.spawn(self._run(client), name=f"dhcp {instance_id} {interface}")

    async def release(self, instance_id: InstanceId, keep: Collection[str] = ()) -> None:
        """End the clients of an instance but those of `keep`, which give their addresses back."""
        going = [client for client in self._of(instance_id) if client.interface not in keep]
        for client in going:
            self._clients.pop((instance_id, client.interface), None)
            if client.process is not None and client.process.returncode is None:
                client.process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.process.wait(), _RELEASE_SECONDS)
            if client.task is not None:
                client.task.cancel()
        gone = {name for owner, name in self._known if owner == instance_id and name not in keep}
        for interface in gone | {client.interface for client in going}:
            self._known.pop((instance_id, interface), None)
            self._files.keep(instance_id, interface, None)

    def forget_others(self, known: Collection[InstanceId]) -> None:
        """Drop what is kept of instances that are not on this host any more."""
        self._known = {key: lease for key, lease in self._known.items() if key[0] in known}
        self._files.forget_others(known)

    def _of(self, instance_id: InstanceId) -> list[_Client]:
        return [client for (owner, _), client in self._clients.items() if owner == instance_id]

    def _end(self, client: _Client) -> None:
        self._clients.pop((client.instance_id, client.interface), None)
        if client.task is not None:
            client.task.cancel()

    async def _run(self, client: _Client) -> None:
        delays = Backoff(initial=0.5, maximum=30.0).delays()
        while True:
            try:
                await self._run_once(client)
            except (OSError, ValueError) as exc:  # it does not start, or wrote a line without end
                log.warning("a DHCP client has failed", extra={"instance": client.instance_id, "problem": str(exc)})
            await self._clock.sleep(next(delays))

    async def _run_once(self, client: _Client) -> None:
        if self._script is None:
            self._script = self._files.write_script()
        argv = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={client.namespace}", *client_command()]
        argv += ["-f", "-R", "-i", client.interface, "-s", str(self._script), *_BETWEEN_ATTEMPTS]
        argv += ["-x", f"hostname:{client.hostname}"]
        if client.lease is not None:
            argv += ["-r", client.lease.address.partition("/")[0]]
        client.process = process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        try:
            was_given = False
            while line := await self._next_line(client, process.stdout):
                event = read_event(line, self._now())
                if event is None or (event.lease is None and not was_given):
                    continue  # each client begins by saying that it has none: what the one before got is good until it ends
                was_given = event.lease is not None
                self._set(client, event.lease)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _next_line(self, client: _Client, output: asyncio.StreamReader) -> str:
        """The next line; when a lease ends meanwhile, it is dropped."""
        while True:
            left = client.lease.expires - self._now() if client.lease is not None else None
            try:
                async with asyncio.timeout(left):
                    return (await output.readline()).decode(errors="replace")
            except TimeoutError:
                self._set(client, None)

    def _set(self, client: _Client, lease: Lease | None) -> None:
        if self._clients.get((client.instance_id, client.interface)) is not client:
            return  # it is being released
        client.lease = lease
        self._known.pop((client.instance_id, client.interface), None)
        self._files.keep(client.instance_id, client.interface, lease)
        self._on_change(client.instance_id)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def client_command() -> list[str]:
    """How udhcpc is called on this host. Raises NotSupported."""
    for words in (["udhcpc"], ["busybox", "udhcpc"]):
        if (path := shutil.which(words[0])) is not None:
            return [path, *words[1:]]
    raise NotSupported(
        "this host has no DHCP client; install the package udhcpc or busybox", reason="DHCP_CLIENT_MISSING"
    )

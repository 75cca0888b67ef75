"""`moorage-hostagent`: run the agent of this host, or make the host fit for one.

The composition root: the only file that picks the real engine, network and runtime, and that reads configuration.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from hostagent import config as configuration
from hostagent.agent import Agent, World
from hostagent.config import Config
from hostagent.engine.docker_engine import DockerEngine
from hostagent.enroll import IdentityStore, ensure_enrolled, keep_renewed
from hostagent.facts import Site, boot_id
from hostagent.journal.journal import Journal
from hostagent.netlink.fabric import LinuxFabric
from hostagent.registry_door import RegistryDoor
from hostagent.runtime import wrapper
from hostagent.secret_files import SecretFiles
from hostagent.session.channel import Dialer
from hostagent.setup import command as setup
from moorage import __version__, core_dumps, logs
from moorage.clock import SystemClock
from moorage.errors import MoorageError, NotReady
from moorage.retry import Backoff, retry
from moorage.tasks import OnFailure, TaskOwner

log = logging.getLogger("hostagent")

_M_ARENA_MAX = -8  # malloc.h


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moorage-hostagent")
def main() -> None:
    """The agent of one Moorage host."""


@main.command()
@click.option("--config", "config_path", required=True, type=click.Path(path_type=Path), help="Configuration file.")
def run(config_path: Path) -> None:
    """Run the agent until SIGTERM; instances run on without it."""
    try:
        config = configuration.load(config_path)
        _save_memory()
        _allow_files()
        core_dumps.forbid()
        logs.configure("moorage-hostagent", level=config.log_level, format=config.log_format)  # type: ignore[arg-type]
        asyncio.run(run_agent(config))
    except MoorageError as exc:
        raise click.ClickException(exc.message) from exc


@main.command("setup")
@click.option("--config", "config_path", required=True, type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--check", "is_check", is_flag=True, help="Change nothing; say what would be changed.")
@click.option("--remove", "is_removal", is_flag=True, help="Take back what an earlier setup changed.")
def setup_command(config_path: Path, *, is_check: bool, is_removal: bool) -> None:
    """Make this machine fit to be a host; can be run again."""
    try:
        config = configuration.load(config_path)
        asyncio.run(setup.run(config, config_path, is_check=is_check, is_removal=is_removal, say=click.echo))
    except MoorageError as exc:
        raise click.ClickException(exc.message) from exc


async def run_agent(config: Config) -> None:
    """Run until a signal, or until a part fails in a way that nobody expected.

    Raises:
        MoorageError: it could not begin, or had to end.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    def fail(name: str, error: BaseException) -> None:
        if not stopped.done():
            stopped.set_exception(NotReady(f"{name} failed: {error}", reason="AGENT_FAILED"))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_only_one(config.data_dir))
        beginning = asyncio.ensure_future(_begin(config, stack, fail))
        await asyncio.wait({beginning, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not beginning.done():
            beginning.cancel()
            await asyncio.wait({beginning})
        if not beginning.cancelled():
            beginning.result()
        await stopped
        log.info("the agent ends; instances run on")


async def _begin(config: Config, stack: contextlib.AsyncExitStack, fail: OnFailure) -> None:
    clock = SystemClock()
    journal = Journal.open(config.data_dir, now=time.time())
    stack.callback(journal.close)
    engine = await retry(
        lambda: DockerEngine.connect(config.docker_host),
        clock=clock,
        deadline_seconds=float("inf"),
        backoff=Backoff(initial=0.2, maximum=5.0),
    )
    stack.push_async_callback(engine.close)
    wrapper.install(config.runtime_path, run_dir=config.run_dir)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    fabric = LinuxFabric(run_dir=config.run_dir, underlay_address=config.underlay_address, vxlan_port=config.vxlan_port)
    await fabric.start()
    stack.push_async_callback(fabric.close)
    secrets = SecretFiles(config.run_dir / "secrets")
    secrets.prepare()
    store = IdentityStore(config.data_dir)
    membership = await ensure_enrolled(config, store, clock)
    world = World(
        engine=engine,
        fabric=fabric,
        keys=wrapper.RuntimeKeys(config.run_dir),
        secrets=secrets,
        clock=clock,
        data_dir=config.data_dir,
        run_dir=config.run_dir,
        boot_id=boot_id(),
        site=Site(
            config.underlay_address,
            config.vxlan_port,
            config.registry_proxy_port,
            config.devices,
            config.neighbour_port,
        ),
    )
    dialer = Dialer(endpoints=membership.agent_endpoints, identity=store.identity, authority_pem=store.authority_pem)
    door = RegistryDoor(config.registry_proxy_port, store, journal, lambda *wanted: agent.calls.registry_token(*wanted))
    stack.push_async_callback(door.close)
    agent = Agent(world, journal, connect=dialer, door=door, on_failure=fail)
    stack.push_async_callback(agent.close)
    await agent.start()
    tasks = await stack.enter_async_context(TaskOwner("housekeeping", on_failure=fail))
    tasks.supervise(
        lambda: keep_renewed(store, agent.calls.renew_certificate, clock, on_renewed=door.refresh),
        name="certificate renewal",
    )


def _save_memory() -> None:
    """Let all threads share one heap: with one for each of its dozen threads the agent grew from 80 to 95 MB.

    glibc only; elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _allow_files() -> None:
    """As many open files as this process may have: three sockets for each instance are more than the usual 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, so that no second agent works on it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Containers mount files below it: others must be able to pass through, not to look.
    data_dir.chmod(0o711)
    handle = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise NotReady(f"another agent works on {data_dir}", reason="ALREADY_RUNNING") from exc
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main())

"""A whole control plane in the test's own process and event loop, on real TLS ports, over a store in memory.

All of it is the real thing but the registry, which would be a child process: `NoRegistry` stands in. The clock stands still
at the machine's own time (certificates must be valid in the handshake) until a test advances it.

    @pytest.fixture
    async def plane(keys_folder): ...        # tests/unit/api/conftest.py
        async with running(keys_folder) as plane:
            yield plane
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from controlplane.access import keys
from controlplane.access.roles import Role
from controlplane.config import Config
from controlplane.dispatch.tasks import HostTasks
from controlplane.domain.hosts import Host, HostFacts, HostLinkState
from controlplane.domain.instances import InstanceState, Observed
from controlplane.domain.kinds import ALL_KINDS, API_KEY, HOST, INSTANCE, MEMBER, PROJECT, TEMPLATE
from controlplane.domain.projects import Member, Project
from controlplane.domain.templates import RepositorySource, Template, TemplateSource, TemplateState, TemplateStatus
from controlplane.main import ControlPlane
from controlplane.sealing import Sealer
from moorage.clock import ManualClock
from moorage.store import MemoryStore
from moorage.store.base import Transaction
from moorage.tls import Authority, generate_request
from moorage.v1 import agent_pb2, agent_pb2_grpc, instances_pb2
from tests.support.free_ports import free_ports

M = TypeVar("M", bound=Message)

DIGEST = "sha256:" + "5" * 64
MIB = 1024 * 1024
_WAIT_SECONDS = 5.0


class NoRegistry:
    """Has an address that nothing listens on; remembers what was to be forgotten."""

    def __init__(self, **_: object) -> None:
        self.url = "http://127.0.0.1:9"
        self.forgotten: list[str] = []

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Always at once."""
        yield

    async def forget(self, repository: str, digest: str | None) -> None:
        """Remember the name."""
        self.forgotten.append(repository)


@dataclass(frozen=True)
class Agent:
    """A host that has joined, with what proves it."""

    name: str
    uid: str
    key_pem: bytes
    certificate_pem: bytes


@dataclass
class Plane:
    """A running control plane and the ways into it."""

    controlplane: ControlPlane
    store: MemoryStore
    clock: ManualClock
    registry: NoRegistry
    tasks: HostTasks
    api_address: str
    agent_address: str
    authority: Authority
    admin_key: str
    data_dir: Path
    _channels: list[Any] = field(default_factory=list)

    def channel(self) -> "grpc.aio.Channel":
        """To the API's port, without a key."""
        credentials = grpc.ssl_channel_credentials(self.authority.cert_pem)
        return self._keep(grpc.aio.secure_channel(self.api_address, credentials))

    def agent_channel(self, agent: Agent | None, trusted: bytes | None = None) -> "grpc.aio.Channel":
        """To the agents' port, with the agent's certificate."""
        credentials = grpc.ssl_channel_credentials(
            trusted or self.authority.cert_pem,
            None if agent is None else agent.key_pem,
            None if agent is None else agent.certificate_pem,
        )
        return self._keep(grpc.aio.secure_channel(self.agent_address, credentials))

    def agent_stub(self, agent: Agent | None) -> Any:
        """AgentService as this agent."""
        stub: Any = agent_pb2_grpc.AgentServiceStub(self.agent_channel(agent))
        return stub

    def _keep(self, channel: "grpc.aio.Channel") -> "grpc.aio.Channel":
        self._channels.append(channel)
        return channel

    async def close_channels(self) -> None:
        """All that were given out."""
        for channel in self._channels:
            await channel.close()

    async def key(
        self, user: str, roles: Mapping[str, Role] | None = None, *, fleet_admin: bool = False
    ) -> tuple[tuple[str, str], ...]:
        """Metadata of a new key for `user`, who gets these roles."""
        record, text = keys.mint(user, now=self.clock.now(), fleet_admin=fleet_admin)

        def write(tx: Transaction) -> None:
            tx.put(API_KEY, record)
            for project, role in (roles or {}).items():
                tx.put(MEMBER, Member(project, user, role))

        await self.store.update(write)
        return bearer(text)

    async def project(self, project_id: str, **fields: Any) -> None:
        """A project."""
        record = Project(f"uid-{project_id}", project_id, self.clock.now(), **fields)
        await self.store.update(lambda tx: tx.put(PROJECT, record))

    async def template(self, project_id: str = "default", template_id: str = "web", repository: str = "") -> None:
        """A template that is ready."""
        record = ready_template(project_id, template_id, self.clock.now(), repository)

        def write(tx: Transaction) -> None:
            found = tx.get(PROJECT, project_id)
            assert found is not None
            usage = replace(found.value.usage, templates=found.value.usage.templates + 1)
            tx.put(PROJECT, replace(found.value, usage=usage))
            tx.put(TEMPLATE, record)

        await self.store.update(write)

    async def agent(self, name: str, *, is_up: bool = True) -> Agent:
        """A host with a certificate, as if it had joined."""
        key_pem, request_pem = generate_request(name)
        uid = f"uid-{name}"
        certificate = self.authority.sign_host_request(request_pem, uid, name, now=self.clock.now())
        host = make_host(name, self.clock.now(), is_up=is_up)
        await self.store.update(lambda tx: tx.put(HOST, host))
        return Agent(name, uid, key_pem, certificate)

    async def running(self, name: str, container_id: str = "c" * 64) -> Any:
        """Mark an instance as running in a container; waits for its placement. Returns the record."""
        project, _, instance_id = name.removeprefix("projects/").partition("/instances/")
        await self.eventually(lambda: bool(self.record(project, instance_id).host_uid))

        def write(tx: Transaction) -> None:
            found = tx.get(INSTANCE, f"{project}/{instance_id}")
            assert found is not None
            observed = Observed(InstanceState.RUNNING, run=1, container_id=container_id)
            tx.put(INSTANCE, replace(found.value, observed=observed))

        await self.store.update(write)
        return self.record(project, instance_id)

    def record(self, project: str, instance_id: str) -> Any:
        """An instance as it is stored."""
        found = self.store.view().get(INSTANCE, f"{project}/{instance_id}")
        assert found is not None, f"{project}/{instance_id} is gone"
        return found.value

    async def eventually(self, is_so: Callable[[], bool]) -> None:
        """Return when the condition holds; looks after every turn of the event loop."""
        async with asyncio.timeout(_WAIT_SECONDS):
            while not is_so():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    """Metadata that carries a key."""
    return (("authorization", f"Bearer {text}"),)


def ready_template(project_id: str, template_id: str, now: datetime, repository: str = "") -> Template:
    """A template that can be used."""
    return Template(
        f"uid-{project_id}-{template_id}",
        project_id,
        template_id,
        now,
        TemplateSource(repository=RepositorySource("docker.io/library/busybox:latest")),
        repository or f"uid-{project_id}/uid-{template_id}",
        status=TemplateStatus(TemplateState.READY, digest=DIGEST, platforms=("linux/amd64",)),
    )


def make_host(name: str, now: datetime, *, is_up: bool = True, **fields: Any) -> Host:
    """A host of 8 cores and 16 GiB."""
    facts = HostFacts(
        platform="linux/amd64",
        cpu_millis=8000,
        memory_bytes=16 * 1024 * MIB,
        underlay_address=f"192.0.2.{sum(map(ord, name)) % 250 + 1}",
        vxlan_port=4789,
    )
    link = HostLinkState.UP if is_up else HostLinkState.CONNECTING
    return Host(**{"uid": f"uid-{name}", "id": name, "create_time": now, "facts": facts, "link_state": link, **fields})


def hello(epoch: int = 1, nonce: str = "nonce", **fields: Any) -> agent_pb2.SessionRequest:
    """The first message of a session."""
    return agent_pb2.SessionRequest(
        hello=agent_pb2.AgentHello(**{"protocol_version": 1, "epoch": epoch, "host_nonce": nonce, **fields})
    )


def instance(template: str = "web", **spec: Any) -> instances_pb2.Instance:
    """What a create asks for."""
    return instances_pb2.Instance(spec=instances_pb2.InstanceSpec(template=template, **spec))


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                continue
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call was let through")


def detail(error: grpc.aio.AioRpcError, kind: type[M]) -> M | None:
    """One of the details of an error, or None."""
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The word for programs."""
    info = detail(error, error_details_pb2.ErrorInfo)
    return "" if info is None else info.reason


@contextlib.asynccontextmanager
async def running(
    keys_folder: Path, *, settings: Mapping[str, str] | None = None, **limits: int
) -> AsyncIterator[Plane]:
    """A control plane that serves.

    Args:
        keys_folder: keys and certificates are made in it once and used again; making them takes most of a start.
        settings: of its configuration, besides folders and addresses.
        limits: of the store's history, as in MemoryStore.
    """
    clock = ManualClock(datetime.now(UTC))
    store = MemoryStore(ALL_KINDS, **limits)
    api_address, agent_address = (f"127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        (data_dir / "keys").symlink_to(keys_folder)
        config = Config(data_dir, (api_address,), (agent_address,), "127.0.0.1:9", **(settings or {}))
        with mock.patch("controlplane.main.ManagedRegistry", NoRegistry):
            controlplane = ControlPlane(config, store, clock, Sealer(None))
        registry: Any = controlplane._registry
        made: list[HostTasks] = []

        def make_tasks(*arguments: Any) -> HostTasks:
            made.append(HostTasks(*arguments))
            return made[0]

        with (
            mock.patch("controlplane.main._STOP_SECONDS", 0.0),
            mock.patch("controlplane.main.HostTasks", make_tasks),
        ):
            async with controlplane:
                admin, text = keys.mint("root", now=clock.now(), fleet_admin=True)
                await store.update(lambda tx: tx.put(API_KEY, admin))
                plane = Plane(
                    controlplane,
                    store,
                    clock,
                    registry,
                    made[0],
                    api_address,
                    agent_address,
                    Authority.load_folder(keys_folder),
                    text,
                    data_dir,
                )
                try:
                    yield plane
                finally:
                    await plane.close_channels()
    await store.close()

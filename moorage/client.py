"""The client library: one connection to a control plane, typed stubs, and errors as the classes of `moorage.errors`.

Owns the credentials on every call, and waiting by watch. It decides nothing. Invariants: a program never sees a gRPC
error, only `MoorageError`; waiting never polls, and survives compacted history and a control plane that is away for a
while. The connection is always TLS: the API is never open.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Generator, Iterable
from contextlib import aclosing
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import grpc

from moorage.errors import (
    DeadlineExceeded,
    HistoryCompacted,
    Internal,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    Unavailable,
)
from moorage.status import error_from_rpc, error_from_status

if TYPE_CHECKING:
    from moorage.v1 import instances_pb2, operations_pb2, router_rules_pb2, routers_pb2, watch_pb2
    from moorage.v1.access_pb2_grpc import AccessServiceAsyncStub
    from moorage.v1.balancers_pb2_grpc import BalancerServiceAsyncStub
    from moorage.v1.dns_pb2_grpc import DnsServiceAsyncStub
    from moorage.v1.enrollment_pb2_grpc import EnrollmentServiceAsyncStub
    from moorage.v1.events_pb2_grpc import EventServiceAsyncStub
    from moorage.v1.hosts_pb2_grpc import HostServiceAsyncStub
    from moorage.v1.instance_streams_pb2_grpc import InstanceStreamServiceAsyncStub
    from moorage.v1.instances_pb2_grpc import InstanceServiceAsyncStub
    from moorage.v1.networks_pb2_grpc import NetworkServiceAsyncStub
    from moorage.v1.operations_pb2_grpc import OperationServiceAsyncStub
    from moorage.v1.projects_pb2_grpc import ProjectServiceAsyncStub
    from moorage.v1.public_addresses_pb2_grpc import PublicAddressServiceAsyncStub
    from moorage.v1.router_rules_pb2_grpc import RouterRuleServiceAsyncStub
    from moorage.v1.routers_pb2_grpc import RouterServiceAsyncStub
    from moorage.v1.security_groups_pb2_grpc import SecurityGroupServiceAsyncStub
    from moorage.v1.templates_pb2_grpc import TemplateServiceAsyncStub
    from moorage.v1.watch_pb2_grpc import WatchServiceAsyncStub
    from moorage.v1.zones_pb2_grpc import ZoneServiceAsyncStub

TRACE_KEY = "x-trace-id"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # a page of 1000 instances is more than gRPC's default of 4 MiB
_LOST = "Internal error from Core"  # grpc.aio's words
_ASK_TIMES = 5
_AWAY_SECONDS = 60.0  # how long a wait without a time limit goes on trying to reach the control plane

_T = TypeVar("_T")
_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)


class Client:
    """A connection to a control plane. Make it with `connect`; use it as an async context manager, or call `close`.

    The attributes `hosts`, `zones`, `projects`, `access`, `enrollment`, `templates`, `instances`, `streams`,
    `networks`, `dns`, `security_groups`, `operations`, `events` and `watch` are the services' stubs. Their calls raise `MoorageError`s.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, metadata: "_Metadata", timeout_seconds: float) -> None:
        self.address = address
        self._inner = channel
        # The stubs take anything that has the four methods of a channel.
        self._channel = cast(grpc.aio.Channel, _Channel(channel, address, metadata, timeout_seconds))

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        api_key: str = "",
        ca_file: Path | None = None,
        ca_pem: bytes | None = None,
        timeout_seconds: float = 30.0,
        keepalive_seconds: float = 30.0,
        trace_id: str = "",
    ) -> "Client":
        """A client of the control plane at `address` (host:port). Nothing is sent before the first call.

        Args:
            api_key: sent with every call; empty for the calls that need none.
            ca_file, ca_pem: authority that signed the server's certificate; neither: those of the system.
            timeout_seconds: limit of calls that are not streams, in seconds, unless the call names another.
            keepalive_seconds: time between pings on a quiet connection, in seconds.
            trace_id: sent as x-trace-id with every call; empty: each call gets one of its own.
        Raises:
            InvalidSpec: the CA file cannot be read, or the address is empty.
        """
        if not address:
            raise InvalidSpec.of("address", "an address (host:port) is needed")
        if ca_file is not None:
            try:
                ca_pem = ca_file.read_bytes()
            except OSError as exc:
                raise InvalidSpec.of("ca_file", f"{ca_file} cannot be read: {exc.strerror}") from exc
        options = [
            ("grpc.keepalive_time_ms", int(keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        channel = grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(root_certificates=ca_pem), options=options
        )
        return cls(channel, address, _Metadata(api_key, trace_id), timeout_seconds)

    async def close(self) -> None:
        """End the connection and every call on it."""
        await self._inner.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # The stubs are made when first used: importing all of them costs the command line a fifth of its start.

    @cached_property
    def hosts(self) -> "HostServiceAsyncStub":
        """Machines with an agent."""
        from moorage.v1.hosts_pb2_grpc import HostServiceStub

        return HostServiceStub(self._channel)

    @cached_property
    def zones(self) -> "ZoneServiceAsyncStub":
        """Failure domains."""
        from moorage.v1.zones_pb2_grpc import ZoneServiceStub

        return ZoneServiceStub(self._channel)

    @cached_property
    def projects(self) -> "ProjectServiceAsyncStub":
        """Tenants."""
        from moorage.v1.projects_pb2_grpc import ProjectServiceStub

        return ProjectServiceStub(self._channel)

    @cached_property
    def access(self) -> "AccessServiceAsyncStub":
        """API keys."""
        from moorage.v1.access_pb2_grpc import AccessServiceStub

        return AccessServiceStub(self._channel)

    @cached_property
    def enrollment(self) -> "EnrollmentServiceAsyncStub":
        """Join tokens."""
        from moorage.v1.enrollment_pb2_grpc import EnrollmentServiceStub

        return EnrollmentServiceStub(self._channel)

    @cached_property
    def templates(self) -> "TemplateServiceAsyncStub":
        """Images with defaults."""
        from moorage.v1.templates_pb2_grpc import TemplateServiceStub

        return TemplateServiceStub(self._channel)

    @cached_property
    def instances(self) -> "InstanceServiceAsyncStub":
        """Containers."""
        from moorage.v1.instances_pb2_grpc import InstanceServiceStub

        return InstanceServiceStub(self._channel)

    @cached_property
    def streams(self) -> "InstanceStreamServiceAsyncStub":
        """Looking into instances."""
        from moorage.v1.instance_streams_pb2_grpc import InstanceStreamServiceStub

        return InstanceStreamServiceStub(self._channel)

    @cached_property
    def networks(self) -> "NetworkServiceAsyncStub":
        """Networks."""
        from moorage.v1.networks_pb2_grpc import NetworkServiceStub

        return NetworkServiceStub(self._channel)

    @cached_property
    def dns(self) -> "DnsServiceAsyncStub":
        """Extra names of networks."""
        from moorage.v1.dns_pb2_grpc import DnsServiceStub

        return DnsServiceStub(self._channel)

    @cached_property
    def security_groups(self) -> "SecurityGroupServiceAsyncStub":
        """Security groups."""
        from moorage.v1.security_groups_pb2_grpc import SecurityGroupServiceStub

        return SecurityGroupServiceStub(self._channel)

    @cached_property
    def operations(self) -> "OperationServiceAsyncStub":
        """Long work."""
        from moorage.v1.operations_pb2_grpc import OperationServiceStub

        return OperationServiceStub(self._channel)

    @cached_property
    def events(self) -> "EventServiceAsyncStub":
        """What happened."""
        from moorage.v1.events_pb2_grpc import EventServiceStub

        return EventServiceStub(self._channel)

    @cached_property
    def watch(self) -> "WatchServiceAsyncStub":
        """Every change."""
        from moorage.v1.watch_pb2_grpc import WatchServiceStub

        return WatchServiceStub(self._channel)

    @cached_property
    def routers(self) -> "RouterServiceAsyncStub":
        """Virtual routers."""
        from moorage.v1.routers_pb2_grpc import RouterServiceStub

        return RouterServiceStub(self._channel)

    @cached_property
    def router_rules(self) -> "RouterRuleServiceAsyncStub":
        """What routers let through, and where it leads."""
        from moorage.v1.router_rules_pb2_grpc import RouterRuleServiceStub

        return RouterRuleServiceStub(self._channel)

    @cached_property
    def balancers(self) -> "BalancerServiceAsyncStub":
        """Balancers of routers."""
        from moorage.v1.balancers_pb2_grpc import BalancerServiceStub

        return BalancerServiceStub(self._channel)

    @cached_property
    def public_addresses(self) -> "PublicAddressServiceAsyncStub":
        """Addresses of outside networks that projects hold."""
        from moorage.v1.public_addresses_pb2_grpc import PublicAddressServiceStub

        return PublicAddressServiceStub(self._channel)

    async def revision(self, parent: str) -> int:
        """Revision of the store now; `parent` is a project that the caller may read (projects/{project})."""
        from moorage.v1 import instances_pb2

        request = instances_pb2.ListInstancesRequest(parent=parent, page_size=1)
        return (await self.instances.ListInstances(request)).revision

    async def wait_operation(
        self,
        name: str,
        on_progress: "Callable[[operations_pb2.Operation], None] | None" = None,
        *,
        timeout_seconds: float | None = None,
    ) -> "operations_pb2.Operation":
        """Wait until an operation has succeeded. `on_progress` gets each version that is seen, the last included.

        Args:
            name: projects/{project}/operations/{operation}.
            timeout_seconds: longest wait, in seconds; None: as long as it takes.
        Raises:
            DeadlineExceeded: it still runs.
            NotReady: it was cancelled.
            MoorageError: it failed; the class that its error stands for. `metadata["operation"]` is its name.
        """
        from moorage.v1 import operations_pb2

        async def read() -> "list[operations_pb2.Operation]":
            return [await self.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))]

        following = aclosing(self._follow(_project_of(name), "operations", read, lambda change: change.operation))
        async with _Limit(timeout_seconds, f"operation {name}"), following as versions:
            async for _, operation in versions:
                if operation.name != name:
                    continue
                if on_progress is not None:
                    on_progress(operation)
                if operation.state == operations_pb2.OPERATION_STATE_SUCCEEDED:
                    return operation
                if operation.state == operations_pb2.OPERATION_STATE_CANCELLED:
                    raise NotReady(
                        f"{operation.verb or name} was cancelled", reason="CANCELLED", metadata={"operation": name}
                    )
                if operation.state == operations_pb2.OPERATION_STATE_FAILED:
                    error = error_from_status(operation.error)
                    error.metadata["operation"] = name
                    raise error
        raise Internal("a watch ended without an error")  # _follow never ends by itself

    async def wait_instance(
        self,
        name: str,
        states: "Collection[instances_pb2.InstanceState.ValueType]",
        timeout_seconds: float | None = None,
        *,
        after_run: int = -1,
        on_change: "Callable[[instances_pb2.Instance], None] | None" = None,
    ) -> "instances_pb2.Instance":
        """`wait_instances` for one."""
        found = await self.wait_instances(
            [name], states, timeout_seconds, after_runs={name: after_run}, on_change=on_change
        )
        return found[name]

    async def wait_instances(
        self,
        names: Collection[str],
        states: "Collection[instances_pb2.InstanceState.ValueType]",
        timeout_seconds: float | None = None,
        *,
        after_runs: dict[str, int] | None = None,
        on_change: "Callable[[instances_pb2.Instance], None] | None" = None,
    ) -> "dict[str, instances_pb2.Instance]":
        """Wait, by one watch, until each instance has been seen in one of `states`; their versions then, by name.

        Args:
            names: projects/{project}/instances/{instance}; all of one project.
            timeout_seconds: longest wait for all of them, in seconds; None: as long as it takes.
            after_runs: by name, the run before the start that is waited for; what is reported of it does not count.
            on_change: called with each version of one of them that is seen.
        Raises:
            DeadlineExceeded: not all are there yet; the message says what the first of them waits for.
            NotReady: one is FAILED, and neither that nor DELETED (which one that has failed can still become) is one of
            `states`.
            NotFound: one is gone and DELETED is not one of `states`.
        """
        from moorage.v1 import instances_pb2, watch_pb2

        deleted = instances_pb2.INSTANCE_STATE_DELETED
        done: dict[str, instances_pb2.Instance] = {}
        latest: dict[str, instances_pb2.Instance] = {}
        runs = after_runs or {}
        if not names:
            return done

        async def read_one(name: str) -> instances_pb2.Instance:
            try:
                return await self.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name))
            except NotFound:
                if deleted not in states:
                    raise
                return instances_pb2.Instance(name=name, status=instances_pb2.InstanceStatus(state=deleted))

        async def read() -> list[instances_pb2.Instance]:
            return list(await asyncio.gather(*(read_one(name) for name in names if name not in done)))

        def waits_for() -> str:
            name = next(name for name in names if name not in done)
            seen = latest.get(name)
            state = instances_pb2.InstanceState.Name(seen.status.state)[15:] if seen else "not seen"
            return f"instance {name} ({state}{': ' + seen.status.message if seen and seen.status.message else ''})"

        project = _project_of(next(iter(names)))
        following = aclosing(self._follow(project, "instances", read, lambda change: change.instance))
        wanted = frozenset(names)
        async with _Limit(timeout_seconds, waits_for), following as versions:
            async for kind, instance in versions:
                if instance.name not in wanted or instance.name in done:
                    continue
                latest[instance.name] = instance
                if on_change is not None:
                    on_change(instance)
                state = instance.status.state
                if kind == watch_pb2.CHANGE_TYPE_DELETED or state == deleted:
                    if deleted not in states:
                        raise NotFound(f"{instance.name} was deleted meanwhile", metadata={"name": instance.name})
                    done[instance.name] = instance
                elif instance.status.run > runs.get(instance.name, -1):
                    if state in states:
                        done[instance.name] = instance
                    elif state == instances_pb2.INSTANCE_STATE_FAILED and deleted not in states:
                        raise NotReady(
                            f"{instance.name} failed: {instance.status.message or instance.status.reason}",
                            reason=instance.status.reason or "INSTANCE_FAILED",
                            metadata={"name": instance.name},
                        )
                if len(done) == len(wanted):
                    return done
        raise Internal("a watch ended without an error")

    async def wait_nics(self, name: str, timeout_seconds: float | None = None) -> "instances_pb2.Instance":
        """Wait until an instance's host has its interfaces and addresses and no others; one without a host is not waited for.

        Raises:
            DeadlineExceeded: it is not so yet. NotFound: the instance is gone.
        """
        from moorage.v1 import instances_pb2, watch_pb2

        said = "the host has not said"

        async def read() -> list[instances_pb2.Instance]:
            return [await self.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name))]

        following = aclosing(self._follow(_project_of(name), "instances", read, lambda change: change.instance))
        async with _Limit(timeout_seconds, lambda: f"the interfaces of {name} ({said})"), following as versions:
            async for kind, instance in versions:
                if instance.name != name:
                    continue
                if kind == watch_pb2.CHANGE_TYPE_DELETED:
                    raise NotFound(f"{name} was deleted meanwhile", metadata={"name": name})
                if instance.status.nics_ready or not instance.status.host:
                    return instance
                said = instance.status.message or said
        raise Internal("a watch ended without an error")

    async def wait_router(self, name: str, timeout_seconds: float | None = None) -> "routers_pb2.Router":
        """Wait until a router runs its newest configuration.

        Raises:
            DeadlineExceeded: it is not so yet. NotFound: the router is gone.
            NotReady: it could not load the configuration; CONFIGURATION_REFUSED, with the tool's words.
        """
        from moorage.v1 import routers_pb2

        said = "not seen"
        async with (
            _Limit(timeout_seconds, lambda: f"router {name} ({said})"),
            aclosing(self._follow_router(name)) as versions,
        ):
            async for router in versions:
                if router.status.state == routers_pb2.ROUTER_STATE_ACTIVE:
                    return router
                _raise_if_refused(router)
                said = router.status.message or routers_pb2.RouterState.Name(router.status.state)[13:]
        raise Internal("a watch ended without an error")

    async def wait_router_rules(
        self, names: Collection[str], timeout_seconds: float | None = None
    ) -> "list[router_rules_pb2.RouterRule]":
        """Wait until rules are in force; their versions then, in the order of the names.

        Args:
            names: projects/{project}/routers/{router}/rules/{rule}; all of one router.
        Raises:
            DeadlineExceeded: not all are; the message says why the first of them is not. NotFound: a rule or the router is gone.
            NotReady: the router could not load its configuration; CONFIGURATION_REFUSED, with the tool's words.
        """
        from moorage.v1 import router_rules_pb2

        active: dict[str, router_rules_pb2.RouterRule] = {}
        if not names:
            return []
        said = "not seen"

        def waits_for() -> str:
            return f"rule {next(name for name in names if name not in active)} ({said})"

        router_name = next(iter(names)).rpartition("/rules/")[0]
        request = router_rules_pb2.ListRouterRulesRequest(parent=router_name, page_size=1000)
        async with (
            _Limit(timeout_seconds, waits_for),
            aclosing(self._follow_router(router_name)) as versions,
        ):
            async for router in versions:
                pages = paginate(self.router_rules.ListRouterRules, request, lambda page: page.rules)
                found = {rule.name: rule async for rule in pages}
                for name in names:
                    if name not in found:
                        raise NotFound(f"{name} does not exist (any more)", metadata={"name": name})
                active = {name: found[name] for name in names if found[name].status.active}
                if len(active) == len(set(names)):
                    return [active[name] for name in names]
                _raise_if_refused(router)
                said = next(found[name].status.message for name in names if name not in active)
        raise Internal("a watch ended without an error")

    async def _follow_router(self, name: str) -> "AsyncGenerator[routers_pb2.Router, None]":
        """The router now, and anew whenever it or one of its containers changes. Raises NotFound."""
        from moorage.v1 import routers_pb2

        async def read() -> list[str]:
            return [name]

        def concerned(change: "watch_pb2.Change") -> str:
            return change.router.name if change.HasField("router") else change.instance.status.owner

        async with aclosing(self._follow(_project_of(name), ("routers", "instances"), read, concerned)) as changes:
            async for _, concerns in changes:
                if concerns == name:
                    yield await self.routers.GetRouter(routers_pb2.GetRouterRequest(name=name))

    async def _follow(
        self,
        parent: str,
        kinds: str | tuple[str, ...],
        read: Callable[[], Awaitable[list[_T]]],
        pick: "Callable[[watch_pb2.Change], _T]",
    ) -> AsyncGenerator[tuple[int, _T], None]:
        """What `read` gives, then every change: gap-free, for the revision is asked for before reading. Never ends."""
        from moorage.retry import Backoff
        from moorage.v1 import watch_pb2

        delays = Backoff().delays()
        away_since: float | None = None
        while True:
            try:
                revision = await self.revision(parent)
                for item in await read():
                    yield watch_pb2.CHANGE_TYPE_EXISTING, item
                away_since = None
                # Revision 0 would mean "first everything": on an empty store that is nothing.
                wanted = (kinds,) if isinstance(kinds, str) else kinds
                request = watch_pb2.WatchRequest(kinds=wanted, parent=parent, from_revision=revision)
                # Closed by hand: who stops reading early would else leave the stream open until the garbage is collected.
                async with aclosing(aiter(self.watch.Watch(request))) as responses:  # type: ignore[type-var]
                    async for response in responses:
                        delays = Backoff().delays()
                        if response.HasField("change"):
                            yield response.change.type, pick(response.change)
            except HistoryCompacted:
                pass  # read again, then watch from there
            except Unavailable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _AWAY_SECONDS:
                    raise
            await asyncio.sleep(next(delays))


class PagedRequest(Protocol):
    """A List request."""

    page_token: str

    def CopyFrom(self, other: Any) -> None: ...  # noqa: N802  protobuf's name


class PagedResponse(Protocol):
    """A List response."""

    @property
    def next_page_token(self) -> str: ...


async def paginate(
    call: Callable[[Any], Awaitable[Any]], request: PagedRequest, pick: Callable[[Any], Iterable[_T]]
) -> AsyncIterator[_T]:
    """Every object of every page: `paginate(client.hosts.ListHosts, ListHostsRequest(), lambda page: page.hosts)`.

    Raises:
        MoorageError: what the call raises.
    """
    page_request = type(request)()
    page_request.CopyFrom(request)
    while True:
        page = await call(page_request)
        for item in pick(page):
            yield item
        if not page.next_page_token:
            return
        page_request.page_token = page.next_page_token


def _raise_if_refused(router: "routers_pb2.Router") -> None:
    """Raises NotReady (CONFIGURATION_REFUSED): the newest configuration could not be loaded."""
    if router.status.reason == "CONFIGURATION_REFUSED":
        raise NotReady(router.status.message, reason="CONFIGURATION_REFUSED", metadata={"name": router.name})


def _project_of(name: str) -> str:
    parts = name.split("/")
    if len(parts) < 3 or parts[0] != "projects":
        raise InvalidSpec.of("name", f"{name!r} is not the full name of an object in a project")
    return "/".join(parts[:2])


class _Limit:
    """`asyncio.timeout` whose end is a DeadlineExceeded that says what was waited for."""

    def __init__(self, seconds: float | None, what: str | Callable[[], str]) -> None:
        self._seconds = seconds
        self._what = what
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            what = self._what if isinstance(self._what, str) else self._what()
            raise DeadlineExceeded(
                f"after {self._seconds:g} s still waiting for {what}", reason="WAIT_TIMEOUT"
            ) from exc


class _Metadata:
    """What every call carries."""

    def __init__(self, api_key: str, trace_id: str) -> None:
        self._key = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._trace_id = trace_id

    def make(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """A trace id and the metadata with it."""
        trace_id = self._trace_id or secrets.token_hex(16)
        return trace_id, (*self._key, (TRACE_KEY, trace_id))


class _Channel:
    """A channel whose calls carry our metadata and raise our errors. Interceptors need a class per kind of call."""

    def __init__(self, channel: grpc.aio.Channel, address: str, metadata: _Metadata, timeout_seconds: float) -> None:
        self._channel = channel
        self._address = address
        self._metadata = metadata
        self._timeout_seconds = timeout_seconds

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        inner = self._channel.unary_unary(*args, **kwargs)
        return partial(self._start, inner, self._timeout_seconds)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        return partial(self._start, self._channel.unary_stream(*args, **kwargs), None)

    def stream_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        return partial(self._start, self._channel.stream_unary(path, *args, **kwargs), None, sends_to=path)

    def stream_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        return partial(self._start, self._channel.stream_stream(path, *args, **kwargs), None, sends_to=path)

    def _start(
        self,
        inner: Callable[..., Any],
        default_timeout: float | None,
        request: Any = None,
        *,
        sends_to: str = "",
        **kwargs: Any,
    ) -> "_Call":
        trace_id, metadata = self._metadata.make()
        kwargs["metadata"] = (*metadata, *(kwargs.get("metadata") or ()))
        kwargs.setdefault("timeout", default_timeout)
        translate = partial(error_from_rpc, address=self._address, trace_id=trace_id)
        if not sends_to:
            return _Call(inner(request, **kwargs), translate)
        again = self._get_instance if sends_to.endswith("/ExecInstance") else inner
        sent = _Sent(request, partial(again, **kwargs) if again is inner else partial(again, metadata))
        return _Call(inner(request if request is None else sent, **kwargs), translate, sent)

    def _get_instance(self, metadata: tuple[tuple[str, str], ...], messages: Iterable[Any]) -> Any:
        """Refused for the same reasons as a command in the instance, which must not be run twice."""
        from moorage.v1 import instances_pb2

        get = self._channel.unary_unary(
            "/moorage.v1.InstanceService/GetInstance",
            request_serializer=instances_pb2.GetInstanceRequest.SerializeToString,
            response_deserializer=instances_pb2.Instance.FromString,
        )
        name = next(iter(messages)).start.name
        return get(instances_pb2.GetInstanceRequest(name=name), metadata=metadata, timeout=self._timeout_seconds)


class _Sent:
    """The messages of a call that sends a stream; remembers the first, which says what is asked for.

    grpc.aio loses the reason of a refusal that arrives while it still writes, and tells an error of its own. Then the call
    is made once more with the first message only, which is refused again, and does no harm where it is not.
    """

    def __init__(self, messages: Any, again: Callable[[Iterable[Any]], Any]) -> None:
        self._messages = messages
        self._again = again
        self.first: Any = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        if hasattr(self._messages, "__aiter__"):
            async for message in self._messages:
                self.note(message)
                yield message
        else:
            for message in self._messages:
                self.note(message)
                yield message

    def note(self, message: Any) -> None:
        """A message is sent."""
        if self.first is None:
            self.first = message

    async def reason(self, lost: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What the call was refused with; `lost` itself when it cannot be found out."""
        for _ in range(_ASK_TIMES if self.first is not None else 0):
            call = self._again([self.first])
            try:
                if hasattr(call, "__aiter__"):
                    await call.read()
                    call.cancel()
                else:
                    await call
            except grpc.aio.AioRpcError as exc:
                if exc.details() != _LOST:
                    return exc
            else:
                break
        return lost


class _Call:
    """A call of any kind, with errors of ours. Everything else is the inner call's."""

    def __init__(
        self, inner: Any, translate: Callable[[grpc.aio.AioRpcError], MoorageError], sent: _Sent | None = None
    ) -> None:
        self._inner = inner
        self._translate = translate
        self._sent = sent
        self._is_answered = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield from self._inner.__await__())
        except grpc.aio.AioRpcError as exc:
            raise (yield from self._error(exc).__await__()) from exc

    async def _error(self, exc: grpc.aio.AioRpcError) -> MoorageError:
        if exc.details() == _LOST and self._sent is not None and not self._is_answered:
            exc = await self._sent.reason(exc)
        if exc.details() == _LOST:
            return Unavailable(
                "the control plane ended the call while it was still sent to, and its reason was lost; try again",
                reason="REASON_LOST",
            )
        return self._translate(exc)

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for response in self._inner:
                self._is_answered = True
                yield response
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc
        finally:
            self._inner.cancel()  # a consumer that stops early must not leave the stream open; a no-op on an ended call

    async def read(self) -> Any:
        try:
            response = await self._inner.read()
            self._is_answered = self._is_answered or response is not grpc.aio.EOF
            return response
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc

    async def write(self, request: Any) -> None:
        if self._sent is not None:
            self._sent.note(request)
        try:
            await self._inner.write(request)
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc

    async def done_writing(self) -> None:
        try:
            await self._inner.done_writing()
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc

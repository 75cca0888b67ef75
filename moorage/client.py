"""The client library: one connection to a control plane, with typed stubs and ways to wait.

Owns the connection and the stubs; what each call carries and raises is in `client_channel`, waiting in `client_waits`
and `client_group_waits`, listings in `client_pages`. It decides nothing. Invariants: a program never sees a gRPC error, only
`MoorageError`. The connection is always TLS: the API is never open.
"""

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import grpc

from moorage.client_channel import CallChannel, CallMetadata
from moorage.client_group_waits import GroupWaits
from moorage.client_host_waits import HostWaits
from moorage.client_job_waits import JobWaits
from moorage.client_pages import paginate
from moorage.client_router_waits import RouterWaits
from moorage.client_volume_waits import VolumeWaits
from moorage.errors import InvalidSpec

if TYPE_CHECKING:
    from moorage.v1.access_pb2_grpc import AccessServiceAsyncStub
    from moorage.v1.balancers_pb2_grpc import BalancerServiceAsyncStub
    from moorage.v1.configs_pb2_grpc import ConfigServiceAsyncStub
    from moorage.v1.dns_pb2_grpc import DnsServiceAsyncStub
    from moorage.v1.enrollment_pb2_grpc import EnrollmentServiceAsyncStub
    from moorage.v1.events_pb2_grpc import EventServiceAsyncStub
    from moorage.v1.groups_pb2_grpc import GroupServiceAsyncStub
    from moorage.v1.hosts_pb2_grpc import HostServiceAsyncStub
    from moorage.v1.instance_streams_pb2_grpc import InstanceStreamServiceAsyncStub
    from moorage.v1.instances_pb2_grpc import InstanceServiceAsyncStub
    from moorage.v1.jobs_pb2_grpc import CronJobServiceAsyncStub, JobServiceAsyncStub
    from moorage.v1.networks_pb2_grpc import NetworkServiceAsyncStub
    from moorage.v1.operations_pb2_grpc import OperationServiceAsyncStub
    from moorage.v1.projects_pb2_grpc import ProjectServiceAsyncStub
    from moorage.v1.public_addresses_pb2_grpc import PublicAddressServiceAsyncStub
    from moorage.v1.router_rules_pb2_grpc import RouterRuleServiceAsyncStub
    from moorage.v1.routers_pb2_grpc import RouterServiceAsyncStub
    from moorage.v1.secrets_pb2_grpc import SecretServiceAsyncStub
    from moorage.v1.security_groups_pb2_grpc import SecurityGroupServiceAsyncStub
    from moorage.v1.templates_pb2_grpc import TemplateServiceAsyncStub
    from moorage.v1.usage_pb2_grpc import UsageServiceAsyncStub
    from moorage.v1.volumes_pb2_grpc import VolumeServiceAsyncStub
    from moorage.v1.watch_pb2_grpc import WatchServiceAsyncStub
    from moorage.v1.zones_pb2_grpc import ZoneServiceAsyncStub

__all__ = ["Client", "paginate"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # a page of 1000 instances is more than gRPC's default of 4 MiB


class Client(GroupWaits, HostWaits, JobWaits, RouterWaits, VolumeWaits):
    """A connection to a control plane. Make it with `connect`; use it as an async context manager, or call `close`.

    Its properties are the services' stubs, whose calls raise `MoorageError`s; how to wait is in `Waits`.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, metadata: CallMetadata, timeout_seconds: float) -> None:
        self.address = address
        self._inner = channel
        # The stubs take anything that has the four methods of a channel.
        self._channel = cast(grpc.aio.Channel, CallChannel(channel, address, metadata, timeout_seconds))

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
        return cls(channel, address, CallMetadata(api_key, trace_id), timeout_seconds)

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
    def groups(self) -> "GroupServiceAsyncStub":
        """Instances that are kept alive and updated together."""
        from moorage.v1.groups_pb2_grpc import GroupServiceStub

        return GroupServiceStub(self._channel)

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
    def jobs(self) -> "JobServiceAsyncStub":
        """Jobs."""
        from moorage.v1.jobs_pb2_grpc import JobServiceStub

        return JobServiceStub(self._channel)

    @cached_property
    def cron_jobs(self) -> "CronJobServiceAsyncStub":
        """Cron jobs."""
        from moorage.v1.jobs_pb2_grpc import CronJobServiceStub

        return CronJobServiceStub(self._channel)

    @cached_property
    def dns(self) -> "DnsServiceAsyncStub":
        """Extra names of networks."""
        from moorage.v1.dns_pb2_grpc import DnsServiceStub

        return DnsServiceStub(self._channel)

    @cached_property
    def secrets(self) -> "SecretServiceAsyncStub":
        """Secrets."""
        from moorage.v1.secrets_pb2_grpc import SecretServiceStub

        return SecretServiceStub(self._channel)

    @cached_property
    def configs(self) -> "ConfigServiceAsyncStub":
        """Configs."""
        from moorage.v1.configs_pb2_grpc import ConfigServiceStub

        return ConfigServiceStub(self._channel)

    @cached_property
    def security_groups(self) -> "SecurityGroupServiceAsyncStub":
        """Security groups."""
        from moorage.v1.security_groups_pb2_grpc import SecurityGroupServiceStub

        return SecurityGroupServiceStub(self._channel)

    @cached_property
    def volumes(self) -> "VolumeServiceAsyncStub":
        """Files that outlive instances."""
        from moorage.v1.volumes_pb2_grpc import VolumeServiceStub

        return VolumeServiceStub(self._channel)

    @cached_property
    def usage(self) -> "UsageServiceAsyncStub":
        """What was used."""
        from moorage.v1.usage_pb2_grpc import UsageServiceStub

        return UsageServiceStub(self._channel)

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

"""WatchService: the store's commits as the caller may see them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from controlplane.access.rules import require_fleet_admin
from controlplane.api import convert, job_messages
from controlplane.api.caller import current_user
from controlplane.domain.kinds import (
    API_KEY,
    BALANCER,
    CONFIG,
    CRON_JOB,
    EVENT,
    GROUP,
    HOST,
    INSTANCE,
    JOB,
    MEMBER,
    NETWORK,
    OPERATION,
    PROJECT,
    PUBLIC_ADDRESS,
    ROUTER,
    ROUTER_RULE,
    SECRET,
    SECURITY_GROUP,
    TEMPLATE,
    VOLUME,
    VOLUME_SNAPSHOT,
)
from controlplane.domain.names import parse_parent
from controlplane.jobs.cron import next_time
from controlplane.rollout.looking import Looking
from controlplane.services.balancers import BalancerService
from controlplane.services.cron_jobs import CronJobService
from controlplane.services.networks import NetworkService
from controlplane.services.public_addresses import PublicAddressService
from controlplane.services.router_rules import RouterRuleService
from controlplane.services.routers import RouterService
from controlplane.services.security_groups import SecurityGroupService
from controlplane.services.volumes import VolumeService
from moorage.errors import FieldViolation, InvalidSpec, Unauthenticated
from moorage.store.base import Change as StoreChange
from moorage.store.base import Kind, Store
from moorage.v1 import watch_pb2, watch_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

_KINDS: Mapping[str, tuple[Kind[Any], str]] = {
    "hosts": (HOST, "host"),
    "instances": (INSTANCE, "instance"),
    "networks": (NETWORK, "network"),
    "operations": (OPERATION, "operation"),
    "projects": (PROJECT, "project"),
    "templates": (TEMPLATE, "template"),
    "routers": (ROUTER, "router"),
    "router_rules": (ROUTER_RULE, "router_rule"),
    "balancers": (BALANCER, "balancer"),
    "public_addresses": (PUBLIC_ADDRESS, "public_address"),
    "security_groups": (SECURITY_GROUP, "security_group"),
    "groups": (GROUP, "group"),
    "jobs": (JOB, "job"),
    "cron_jobs": (CRON_JOB, "cron_job"),
    "secrets": (SECRET, "secret"),
    "configs": (CONFIG, "config"),
    "volumes": (VOLUME, "volume"),
    "volume_snapshots": (VOLUME_SNAPSHOT, "volume_snapshot"),
    "events": (EVENT, "event"),
}
_FLEET_KINDS = frozenset({"hosts"})
_BOOKMARK_SECONDS = 10.0

_Admits = Callable[[Kind[Any], Any, "frozenset[str] | None"], bool]  # kind, record, visible projects


class WatchServicer(watch_pb2_grpc.WatchServiceServicer):
    """Every change, as it is made."""

    def __init__(
        self,
        store: Store,
        networks: NetworkService,
        routers: RouterService,
        rules: RouterRuleService,
        balancers: BalancerService,
        public_addresses: PublicAddressService,
        security_groups: SecurityGroupService,
        groups: Looking,
        cron_jobs: CronJobService,
        volumes: VolumeService,
    ) -> None:
        self._store = store
        self._networks = networks
        self._routers = routers
        self._rules = rules
        self._balancers = balancers
        self._public_addresses = public_addresses
        self._security_groups = security_groups
        self._groups = groups
        self._cron_jobs = cron_jobs
        self._volumes = volumes

    async def Watch(self, request: watch_pb2.WatchRequest, context: _Context) -> AsyncIterator[watch_pb2.WatchResponse]:
        names, admits = self._scope(request)
        fields = {_KINDS[name][0].name: _KINDS[name][1] for name in names}
        kinds = [_KINDS[name][0] for name in names]
        if request.from_revision:
            watch = self._store.watch(kinds, request.from_revision)
            yield watch_pb2.WatchResponse(revision=request.from_revision, synced=True)
        else:
            view, watch = self._store.view_and_watch(kinds)
            visible = self._visible()
            for kind in kinds:
                for found in view.all(kind):
                    if admits(kind, found.value, visible):
                        yield self._message(view.revision, "EXISTING", fields[kind.name], found.value)
            yield watch_pb2.WatchResponse(revision=view.revision, synced=True)
        async with watch:
            while True:
                try:
                    async with asyncio.timeout(_BOOKMARK_SECONDS if request.bookmarks else None):
                        batch = await anext(watch)
                except TimeoutError:
                    yield watch_pb2.WatchResponse(revision=watch.revision)
                    continue
                except StopAsyncIteration:
                    return
                visible = self._visible()  # a watch lives long: what its caller may see can change meanwhile
                for change in batch.changes:
                    record = (change.after or change.before).value  # type: ignore[union-attr]
                    if admits(change.kind, record, visible):
                        yield self._message(batch.revision, _type(change), fields[change.kind.name], record)

    def _visible(self) -> frozenset[str] | None:
        """Projects that the caller may read now; None: all.

        Raises:
            Unauthenticated: KEY_UNKNOWN, the key was deleted.
        """
        caller, view = current_user(), self._store.view()
        if view.get(API_KEY, caller.key_id) is None:
            raise Unauthenticated("this API key was deleted; log in with another", reason="KEY_UNKNOWN")
        if caller.fleet_admin:
            return None
        return frozenset(found.value.project for found in view.find(MEMBER, "user", caller.user))

    def _scope(self, request: watch_pb2.WatchRequest) -> tuple[list[str], _Admits]:
        unknown = [kind for kind in request.kinds if kind not in _KINDS]
        if unknown:
            hint = ", ".join(_KINDS)
            raise InvalidSpec(
                [FieldViolation("kinds", f"{kind!r} is none of {hint}", "KIND_UNKNOWN") for kind in unknown]
            )
        caller = current_user()
        names = list(dict.fromkeys(request.kinds)) or [
            name for name in _KINDS if name not in _FLEET_KINDS or caller.fleet_admin
        ]
        if _FLEET_KINDS.intersection(names):
            require_fleet_admin(caller)
        only = parse_parent(request.parent) if request.parent else "-"

        def admits(kind: Kind[Any], record: Any, visible: frozenset[str] | None) -> bool:
            if kind is HOST:
                return True
            project = record.id if kind is PROJECT else record.project
            return only in ("-", project) and (visible is None or project in visible)

        return names, admits

    def _message(self, revision: int, kind_of_change: str, field: str, record: Any) -> watch_pb2.WatchResponse:
        change = watch_pb2.Change(type=getattr(watch_pb2, f"CHANGE_TYPE_{kind_of_change}"))
        match field:
            case "host":
                carried = self._store.view().find(INSTANCE, "host", record.uid)
                message: Any = convert.host(record, None, tuple(found.value for found in carried))
            case "instance":
                host = self._store.view().get(HOST, record.host) if record.host_uid else None
                is_stale = bool(record.host_uid) and convert.is_away(host.value if host is not None else None)
                message = convert.instance(record, is_stale=is_stale)
            case "network":
                message = convert.network(
                    record, *self._networks.hosts_and_addresses(record), self._networks.router_before(record)
                )
            case "router":
                message = convert.router(record, self._routers.status(record))
            case "router_rule":
                message = convert.router_rule(record, self._rules.status(record))
            case "balancer":
                message = convert.balancer(record, self._balancers.status(record))
            case "public_address":
                message = convert.public_address(record, *self._public_addresses.used_by(record))
            case "security_group":
                message = convert.security_group(record, self._security_groups.members(record))
            case "group":
                message = convert.group(record, self._groups.status(record))
            case "job":
                message = job_messages.job(record)
            case "cron_job":
                message = job_messages.cron_job(
                    record, next_time(record, self._cron_jobs.now()), self._cron_jobs.active(record)
                )
            case "secret":
                message = convert.secret(record, len(self._store.view().find(INSTANCE, "payload", record.uid)))
            case "config":
                message = convert.config(record, len(self._store.view().find(INSTANCE, "payload", record.uid)))
            case "volume":
                message = convert.volume(record, self._volumes.instances(record))
            case _:
                message = getattr(convert, field)(record)
        getattr(change, field).CopyFrom(message)
        return watch_pb2.WatchResponse(revision=revision, change=change)


def _type(change: StoreChange) -> str:
    if change.before is None:
        return "CREATED"
    return "DELETED" if change.after is None else "UPDATED"

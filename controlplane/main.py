"""`moorage-controlplane`: builds everything and passes it in. The only place that reads configuration and environment."""

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import ssl
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from controlplane import config as configuration
from controlplane import history, keys
from controlplane.api import interceptor
from controlplane.api.agent import AgentDeps, AgentServicer, ReleaseBrake
from controlplane.api.balancers import BalancerServicer
from controlplane.api.dns import DnsServicer
from controlplane.api.enrollment import EnrollmentServicer
from controlplane.api.groups import GroupServicer
from controlplane.api.hosts import HostServicer, ZoneServicer
from controlplane.api.instance_streams import InstanceStreamServicer
from controlplane.api.instances import InstanceServicer
from controlplane.api.jobs import CronJobServicer, JobServicer
from controlplane.api.networks import NetworkServicer
from controlplane.api.operations import EventServicer, OperationServicer
from controlplane.api.projects import AccessServicer, ProjectServicer
from controlplane.api.public_addresses import PublicAddressServicer
from controlplane.api.router_rules import RouterRuleServicer
from controlplane.api.routers import RouterServicer
from controlplane.api.secrets import ConfigServicer, SecretServicer
from controlplane.api.security_groups import SecurityGroupServicer
from controlplane.api.server import Port, start
from controlplane.api.templates import TemplateServicer
from controlplane.api.usage import UsageServicer
from controlplane.api.volumes import VolumeServicer
from controlplane.api.watch import WatchServicer
from controlplane.claim_leases.ledger import LeaseLedger
from controlplane.claim_leases.loop import ClaimLeases
from controlplane.config import Config
from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.dispatch.log_tail import LogTails
from controlplane.dispatch.streams import StreamBroker
from controlplane.dispatch.tasks import HostTasks
from controlplane.dispatch.volume_work import HostVolumes
from controlplane.domain.kinds import ALL_KINDS, CONFIG, EPOCH_START, SECRET
from controlplane.domain.lineage import EpochStart
from controlplane.drain.loop import Drains
from controlplane.jobs.loop import Jobs
from controlplane.leaving.loop import Leaving
from controlplane.liveness.loop import Liveness
from controlplane.liveness.rounds import Rounds
from controlplane.rebalance.loop import Rebalancer
from controlplane.registry.external import ExternalRegistry
from controlplane.registry.managed import ManagedRegistry
from controlplane.rollout.looking import Looking
from controlplane.rollout.loop import Rollout
from controlplane.rotation.loop import Rotation
from controlplane.router_members.loop import RouterMembers
from controlplane.scheduler.loop import Scheduler
from controlplane.sealing import Sealer
from controlplane.services import lookup
from controlplane.services.access import AccessService
from controlplane.services.balancers import BalancerService
from controlplane.services.context import Context
from controlplane.services.cron_jobs import CronJobService
from controlplane.services.dns import DnsService
from controlplane.services.enrollment import EnrollmentService
from controlplane.services.group_changes import GroupChanges
from controlplane.services.groups import GroupService
from controlplane.services.host_drains import HostDrains
from controlplane.services.host_losses import HostLosses
from controlplane.services.hosts import HostService, ZoneService
from controlplane.services.instance_changes import InstanceChanges
from controlplane.services.instance_claims import InstanceClaims
from controlplane.services.instance_making import InstanceMaking
from controlplane.services.instance_names import InstanceNames
from controlplane.services.instances import InstanceService
from controlplane.services.jobs import JobService
from controlplane.services.networks import NetworkService
from controlplane.services.operations import EventService, OperationService
from controlplane.services.projects import ProjectService
from controlplane.services.public_addresses import PublicAddressService
from controlplane.services.reports import ReportService
from controlplane.services.router_reports import RouterReports
from controlplane.services.router_rules import RouterRuleService
from controlplane.services.routers import RouterService
from controlplane.services.secrets import Rekeying, SecretService
from controlplane.services.security_groups import SecurityGroupService
from controlplane.services.templates import TemplateService
from controlplane.services.undelete import UndeleteService
from controlplane.services.usage import UsageService, forget_old_days
from controlplane.services.volume_reports import VolumeReports
from controlplane.services.volume_snapshots import VolumeSnapshotService
from controlplane.services.volumes import VolumeService
from controlplane.templates.builds import Builder
from controlplane.templates.importer import Importer, OutboundRules, Registry
from controlplane.templates.runner import TemplateRunner
from controlplane.undelete.loop import Purge
from controlplane.usage.loop import UsageMeters
from controlplane.volumes.loop import VolumeKeeper
from moorage import __version__, core_dumps, logs
from moorage.clock import Clock, SystemClock
from moorage.errors import MoorageError
from moorage.ids import new_id
from moorage.store import SqliteStore, Store
from moorage.tasks import TaskOwner
from moorage.v1 import (
    access_pb2_grpc,
    agent_pb2_grpc,
    balancers_pb2_grpc,
    configs_pb2_grpc,
    dns_pb2_grpc,
    enrollment_pb2_grpc,
    events_pb2_grpc,
    groups_pb2_grpc,
    hosts_pb2_grpc,
    instance_streams_pb2_grpc,
    instances_pb2_grpc,
    jobs_pb2_grpc,
    networks_pb2_grpc,
    operations_pb2_grpc,
    projects_pb2_grpc,
    public_addresses_pb2_grpc,
    router_rules_pb2_grpc,
    routers_pb2_grpc,
    secrets_pb2_grpc,
    security_groups_pb2_grpc,
    templates_pb2_grpc,
    usage_pb2_grpc,
    volumes_pb2_grpc,
    watch_pb2_grpc,
    zones_pb2_grpc,
)

log = logging.getLogger("controlplane")

_HOUSEKEEPING_SECONDS = 60.0
_STOP_SECONDS = 3.0


def main() -> None:
    """The program's entry: runs until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="moorage-controlplane", description="The control plane of Moorage.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file; see docs/configuration.md")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        core_dumps.forbid()
        logs.configure("moorage-controlplane", level=config.log_level, format=config.log_format)
        asyncio.run(run(config))
    except MoorageError as error:
        print(f"moorage-controlplane: {error.message}", file=sys.stderr)
        raise SystemExit(1) from error


async def run(config: Config) -> None:
    """Serve until a signal asks for the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = SystemClock()
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    sealer = Sealer(config.data_dir / "keys")
    store = await SqliteStore.open(config.data_dir / "store.db", ALL_KINDS, cipher=sealer)
    # What was loaded stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        async with ControlPlane(config, store, clock, sealer) as controlplane:
            log.info("ready: API on %s, agents on %s", ", ".join(config.api_listen), ", ".join(config.agent_listen))
            await controlplane.serve(stop)
    finally:
        await store.close()


class _RunningRegistry(Registry, Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class ControlPlane:
    """Everything of one control plane, over a store that is open. An async context manager."""

    def __init__(self, config: Config, store: Store, clock: Clock, sealer: Sealer) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._sealer = sealer
        self._owner = TaskOwner("controlplane", on_failure=self._task_failed)
        self._failed = asyncio.Event()
        self._servers: list[Any] = []
        folder = config.data_dir / "keys"
        self._authority = keys.authority(folder)
        self._identity = keys.server_identity(folder, self._authority, self._names(), clock)
        self._tokens = keys.registry_tokens(folder)
        self._registry_ca_pem = self._authority.cert_pem.decode()
        if config.registry_url:
            self._registry_ca_pem = Path(config.registry_ca_file).read_text() if config.registry_ca_file else ""
        self._registry_trust = ssl.create_default_context(cadata=self._registry_ca_pem or None)
        self._registry = self._make_registry(folder)
        self._session: aiohttp.ClientSession | None = None

    def _make_registry(self, keys_folder: Path) -> _RunningRegistry:
        config = self._config
        if config.registry_url:
            return ExternalRegistry(
                config.registry_url, trust=self._registry_trust, tokens=self._tokens, clock=self._clock
            )
        return ManagedRegistry(
            data_dir=config.data_dir / "registry",
            listen=config.registry_listen,
            certificate_file=keys_folder / "server.crt",
            key_file=keys_folder / "server.key",
            tokens=self._tokens,
        )

    def _names(self) -> tuple[str, ...]:
        listened = (address.rpartition(":")[0].strip("[]") for address in self._config.api_listen)
        found = (*self._config.advertise, *listened, "localhost", "127.0.0.1")
        return tuple(dict.fromkeys(name for name in found if name not in ("0.0.0.0", "::")))

    def _task_failed(self, name: str, error: BaseException) -> None:
        log.error("%s failed and ends the control plane", name, exc_info=error)
        self._failed.set()

    async def __aenter__(self) -> "ControlPlane":
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def serve(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set, or a part that must not fail has failed."""
        waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._failed.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    async def _start(self) -> None:
        config, store, clock = self._config, self._store, self._clock
        context = Context(store, clock, new_id)
        access = AccessService(context)
        projects = ProjectService(context)
        await store.update(lambda tx: tx.put(EPOCH_START, EpochStart(store.epoch, tx.revision)))
        await projects.ensure_default()
        await self._write_admin(await access.ensure_admin())
        # For the configuration of a registry that somebody else runs.
        (config.data_dir / "registry-tokens.crt").write_bytes(self._tokens.trust_bundle_pem)
        # The registry comes up beside the rest: nothing but images needs it.
        starting_registry = self._owner.spawn(self._registry.start(), name="registry start")
        dispatcher = Dispatcher(store, clock)
        reports = ReportService(context)
        claims = InstanceClaims(context)
        making = InstanceMaking(context, claims, config.lease_terms)
        ledger = LeaseLedger(store, clock)
        instances = InstanceService(context, making)
        changes = InstanceChanges(context, claims)
        undelete = UndeleteService(context)
        networks = NetworkService(context)
        routers = RouterService(context)
        router_rules = RouterRuleService(context)
        balancers = BalancerService(context)
        public_addresses = PublicAddressService(context)
        security_groups = SecurityGroupService(context)
        groups = GroupService(context, claims)
        cron_jobs = CronJobService(context, claims)
        volumes = VolumeService(context)
        looking = Looking(context)
        hosts = HostService(context)
        losses = HostLosses(context, making)
        rebalancer = Rebalancer(context, config.rebalancing)
        rounds = Rounds(dispatcher, clock)
        templates = TemplateService(context)
        operations = OperationService(context)
        enrollment = EnrollmentService(context, self._authority)
        broker = StreamBroker(dispatcher, new_id)
        host_volumes = HostVolumes(broker)
        tasks = HostTasks(dispatcher, new_id)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._registry_trust))
        rules = OutboundRules(config.outbound_denied, config.outbound_allowed, config.plain_http_registries)
        importer = Importer(self._registry, self._tokens, clock, self._session, rules)
        runner = TemplateRunner(store, clock, templates, importer, Builder(store, clock, tasks, importer), self._owner)

        def heartbeat_of(host_uid: str) -> datetime | None:
            session = next((s for s in dispatcher.sessions() if s.host_uid == host_uid), None)
            return None if session is None else clock.now() - timedelta(seconds=clock.monotonic() - session.last_heard)

        servicers: list[tuple[Any, Any]] = [
            (access_pb2_grpc.add_AccessServiceServicer_to_server, AccessServicer(access)),
            (projects_pb2_grpc.add_ProjectServiceServicer_to_server, ProjectServicer(projects)),
            (zones_pb2_grpc.add_ZoneServiceServicer_to_server, ZoneServicer(ZoneService(context))),
            (
                hosts_pb2_grpc.add_HostServiceServicer_to_server,
                HostServicer(
                    hosts,
                    HostDrains(context),
                    losses,
                    rebalancer,
                    heartbeat_of,
                    lambda uid: dispatcher.session(uid).request(ReleaseBrake()),
                ),
            ),
            (
                enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server,
                EnrollmentServicer(enrollment, self._agent_endpoints()),
            ),
            (networks_pb2_grpc.add_NetworkServiceServicer_to_server, NetworkServicer(networks, store)),
            (routers_pb2_grpc.add_RouterServiceServicer_to_server, RouterServicer(routers)),
            (balancers_pb2_grpc.add_BalancerServiceServicer_to_server, BalancerServicer(balancers, broker)),
            (router_rules_pb2_grpc.add_RouterRuleServiceServicer_to_server, RouterRuleServicer(router_rules, broker)),
            (
                public_addresses_pb2_grpc.add_PublicAddressServiceServicer_to_server,
                PublicAddressServicer(public_addresses),
            ),
            (dns_pb2_grpc.add_DnsServiceServicer_to_server, DnsServicer(DnsService(context))),
            (
                security_groups_pb2_grpc.add_SecurityGroupServiceServicer_to_server,
                SecurityGroupServicer(security_groups),
            ),
            (
                groups_pb2_grpc.add_GroupServiceServicer_to_server,
                GroupServicer(groups, GroupChanges(context, claims), undelete, looking),
            ),
            (jobs_pb2_grpc.add_JobServiceServicer_to_server, JobServicer(JobService(context, claims))),
            (jobs_pb2_grpc.add_CronJobServiceServicer_to_server, CronJobServicer(cron_jobs)),
            (
                secrets_pb2_grpc.add_SecretServiceServicer_to_server,
                SecretServicer(SecretService(context, self._sealer, SECRET), Rekeying(context, self._sealer)),
            ),
            (
                configs_pb2_grpc.add_ConfigServiceServicer_to_server,
                ConfigServicer(SecretService(context, self._sealer, CONFIG)),
            ),
            (
                volumes_pb2_grpc.add_VolumeServiceServicer_to_server,
                VolumeServicer(volumes, VolumeSnapshotService(context), undelete, host_volumes),
            ),
            (templates_pb2_grpc.add_TemplateServiceServicer_to_server, TemplateServicer(templates, runner)),
            (
                instances_pb2_grpc.add_InstanceServiceServicer_to_server,
                InstanceServicer(instances, changes, InstanceNames(context), undelete, store),
            ),
            (
                instance_streams_pb2_grpc.add_InstanceStreamServiceServicer_to_server,
                InstanceStreamServicer(instances, broker),
            ),
            (
                operations_pb2_grpc.add_OperationServiceServicer_to_server,
                OperationServicer(operations, runner.cancel),
            ),
            (usage_pb2_grpc.add_UsageServiceServicer_to_server, UsageServicer(UsageService(context))),
            (events_pb2_grpc.add_EventServiceServicer_to_server, EventServicer(EventService(context))),
            (
                watch_pb2_grpc.add_WatchServiceServicer_to_server,
                WatchServicer(
                    store,
                    networks,
                    routers,
                    router_rules,
                    balancers,
                    public_addresses,
                    security_groups,
                    looking,
                    cron_jobs,
                    volumes,
                ),
            ),
        ]
        agent = AgentServicer(
            AgentDeps(
                context,
                dispatcher,
                reports,
                RouterReports(context),
                VolumeReports(context),
                enrollment,
                broker,
                tasks,
                rounds,
                self._tokens,
                self._sealer,
                self._registry_url(),
                self._registry_ca_pem,
                config.liveness.heartbeat_seconds,
                config.lease_terms.renewal_seconds,
                ledger,
            )
        )
        scheduler = Scheduler(store, clock, making.ask_leave)
        self._owner.spawn(dispatcher.run(), name="dispatcher")
        self._owner.spawn(scheduler.run(), name="scheduler")
        self._owner.spawn(RouterMembers(context, claims, making).run(), name="router members")
        self._owner.spawn(Rotation(context).run(), name="rotation of secrets")
        meters = UsageMeters(context)
        self._owner.spawn(meters.follow(), name="what is metered")
        self._owner.spawn(meters.run(), name="usage meters")
        self._owner.spawn(Purge(context, making).run(), name="undelete windows")
        leaving = Leaving(context, making)
        self._owner.spawn(leaving.run(), name="leaving")
        self._owner.spawn(leaving.keep_time(), name="time of those that leave")
        rollout = Rollout(context, making, LogTails(broker))
        self._owner.spawn(rollout.run(), name="rollout")
        self._owner.spawn(rollout.keep_time(), name="time of groups")
        drains = Drains(context, making)
        self._owner.spawn(drains.run(), name="drains")
        self._owner.spawn(drains.keep_time(), name="time of drains")
        if rebalancer.is_on:
            self._owner.spawn(rebalancer.run(), name="rebalancing")
        jobs = Jobs(context, making)
        self._owner.spawn(jobs.run(), name="jobs")
        self._owner.spawn(jobs.keep_time(), name="time of jobs")
        volume_keeper = VolumeKeeper(context, host_volumes, self._owner)
        self._owner.spawn(volume_keeper.run(), name="volumes")
        self._owner.spawn(volume_keeper.keep_time(), name="time of volumes")
        claim_leases = ClaimLeases(context, ledger)
        self._owner.spawn(claim_leases.run(), name="claims of lost instances")
        self._owner.spawn(claim_leases.keep_time(), name="ends of leases")
        self._owner.spawn(self._housekeeping(), name="housekeeping")
        self._servers = [
            await start(
                Port(
                    config.api_listen,
                    self._identity,
                    self._authority.cert_pem,
                    False,
                    interceptor.Gate(context, interceptor.users(access), is_audited=True),
                    servicers,
                    _service_names(),
                )
            ),
            await start(
                Port(
                    config.agent_listen,
                    self._identity,
                    self._authority.cert_pem,
                    True,
                    interceptor.Gate(context, interceptor.agents(store), is_audited=False),
                    [(agent_pb2_grpc.add_AgentServiceServicer_to_server, agent)],
                    (),
                )
            ),
        ]
        liveness = Liveness(store, clock, dispatcher, reports, losses, rounds, config.liveness)
        self._owner.spawn(liveness.run(), name="liveness")
        await starting_registry
        await runner.resume()

    async def _close(self) -> None:
        for server in self._servers:
            await server.stop(_STOP_SECONDS if not self._failed.is_set() else 0)
        await self._owner.close()
        await self._registry.stop()
        if self._session is not None:
            await self._session.close()

    async def _housekeeping(self) -> None:
        """Keep what only grows bounded."""
        while True:
            await self._clock.sleep(_HOUSEKEEPING_SECONDS)
            await self._store.update(history.trim)
            await self._store.update(history.trim_operations)
            await self._store.update(lambda tx: forget_old_days(tx, self._clock.now()))
            await self._store.update(lambda tx: lookup.forget_old_requests(tx, self._clock.now()))

    def _agent_endpoints(self) -> tuple[str, ...]:
        return tuple(_reachable(address, self._config.advertise[0]) for address in self._config.agent_listen)

    def _registry_url(self) -> str:
        if self._config.registry_url:
            return self._config.registry_url
        return f"https://{_reachable(self._config.registry_listen, self._config.advertise[0])}"

    async def _write_admin(self, api_key: str | None) -> None:
        """What the operator needs to log in for the first time; readable by root only."""
        if api_key is None:
            return
        folder = self._config.data_dir
        ca_file = folder / "ca.crt"
        ca_file.write_bytes(self._authority.cert_pem)
        content = {"api_key": api_key, "ca_file": str(ca_file), "address": self._config.api_listen[0]}
        handle, name = tempfile.mkstemp(dir=folder)  # 0600
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=2)
        os.replace(name, folder / "admin.json")
        log.info("the first admin key is in %s", folder / "admin.json")


def _reachable(listened: str, advertised: str) -> str:
    """The address that others use: a wildcard is replaced by the advertised name."""
    host, _, port = listened.rpartition(":")
    return f"{advertised if host in ('0.0.0.0', '[::]') else host}:{port}"


def _service_names() -> tuple[str, ...]:
    nouns = (
        "AccessService",
        "BalancerService",
        "CronJobService",
        "ConfigService",
        "DnsService",
        "EnrollmentService",
        "EventService",
        "GroupService",
        "HostService",
        "InstanceService",
        "InstanceStreamService",
        "JobService",
        "NetworkService",
        "OperationService",
        "ProjectService",
        "PublicAddressService",
        "RouterRuleService",
        "RouterService",
        "SecretService",
        "SecurityGroupService",
        "TemplateService",
        "VolumeService",
        "UsageService",
        "WatchService",
        "ZoneService",
    )
    return tuple(f"moorage.v1.{noun}" for noun in nouns)


if __name__ == "__main__":
    main()

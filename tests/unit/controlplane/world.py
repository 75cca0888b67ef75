"""Services over a store in memory, with a clock that stands still, and the short cuts that their tests need."""

import itertools
from dataclasses import replace
from typing import Any

from controlplane.access.quota import Quota
from controlplane.domain.groups import Group, GroupSpec
from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance, InstanceSpec, InstanceState, Nic, Observed
from controlplane.domain.kinds import (
    ADDRESS,
    ALL_KINDS,
    EVENT,
    GROUP,
    GROUP_SLOT,
    HOST,
    INSTANCE,
    NETWORK,
    PROJECT,
    PUBLIC_ADDRESS,
    TEMPLATE,
    VOLUME,
)
from controlplane.domain.networks import Network, NetworkKind, NetworkSpec, Subnet
from controlplane.domain.projects import Project
from controlplane.domain.security_groups import SecurityGroup, SecurityGroupSpec, SecurityRule
from controlplane.services.access import AccessService
from controlplane.services.balancers import BalancerService
from controlplane.services.context import Context
from controlplane.services.cron_jobs import CronJobService
from controlplane.services.dns import DnsService
from controlplane.services.group_changes import GroupChanges
from controlplane.services.groups import GroupService
from controlplane.services.hosts import HostService, ZoneService
from controlplane.services.instance_changes import InstanceChanges
from controlplane.services.instance_claims import InstanceClaims, usage_of
from controlplane.services.instance_making import InstanceMaking, NewInstance
from controlplane.services.instances import InstanceService
from controlplane.services.jobs import JobService
from controlplane.services.networks import NetworkService
from controlplane.services.operations import EventService, OperationService
from controlplane.services.projects import ProjectService
from controlplane.services.public_addresses import PublicAddressService
from controlplane.services.reports import Report, ReportService
from controlplane.services.router_rules import RouterRuleService
from controlplane.services.routers import RouterService
from controlplane.services.security_groups import SecurityGroupService
from controlplane.services.templates import TemplateService
from controlplane.services.volumes import VolumeService
from moorage.clock import ManualClock
from moorage.errors import InvalidSpec
from moorage.store import MemoryStore
from moorage.store.base import Transaction
from tests.support.controlplane import make_host, ready_template

P = "demo"


class World:
    """One project with a template `web`, and every service."""

    def __init__(self) -> None:
        self.store = MemoryStore(ALL_KINDS)
        self.clock = ManualClock()
        numbers = itertools.count(1)
        self.context = Context(self.store, self.clock, lambda: f"i{next(numbers):05x}zzzz")
        self.access = AccessService(self.context)
        self.events = EventService(self.context)
        self.hosts = HostService(self.context)
        claims = InstanceClaims(self.context)
        self.making = InstanceMaking(self.context, claims)
        self.instances = InstanceService(self.context, self.making)
        self.changes = InstanceChanges(self.context, claims)
        self.networks = NetworkService(self.context)
        self.dns = DnsService(self.context)
        self.operations = OperationService(self.context)
        self.projects = ProjectService(self.context)
        self.public_addresses = PublicAddressService(self.context)
        self.reports = ReportService(self.context)
        self.routers = RouterService(self.context)
        self.rules = RouterRuleService(self.context)
        self.balancers = BalancerService(self.context)
        self.templates = TemplateService(self.context)
        self.security_groups = SecurityGroupService(self.context)
        self.groups = GroupService(self.context, claims)
        self.jobs = JobService(self.context, claims)
        self.cron_jobs = CronJobService(self.context, claims)
        self.volumes = VolumeService(self.context)
        self.group_changes = GroupChanges(self.context, claims)
        self.zones = ZoneService(self.context)

    async def begin(self) -> "World":
        await self.project(P)
        return self

    async def project(self, project_id: str, **fields: Any) -> None:
        record = Project(f"uid-{project_id}", project_id, self.clock.now(), **fields)
        template = ready_template(project_id, "web", self.clock.now())

        def write(tx: Transaction) -> None:
            tx.put(PROJECT, replace(record, usage=replace(record.usage, templates=1)))
            tx.put(TEMPLATE, template)

        await self.store.update(write)

    async def host(self, name: str, **fields: Any) -> Host:
        record = make_host(name, self.clock.now(), **fields)
        await self.store.update(lambda tx: tx.put(HOST, record))
        return record

    async def network(self, network_id: str, *cidrs: str, **fields: Any) -> Network:
        spec = NetworkSpec(subnets=tuple(map(Subnet, cidrs)), **fields)
        return await self.networks.create(P, network_id, {}, spec)

    async def security_group(self, group_id: str, *rules: SecurityRule, **fields: Any) -> SecurityGroup:
        return await self.security_groups.create(P, group_id, {}, SecurityGroupSpec(rules=rules, **fields))

    async def group(self, group_id: str, replicas: int = 3, **fields: Any) -> Group:
        spec = GroupSpec(**{"replicas": replicas, "instance": InstanceSpec("web"), **fields})
        return await self.groups.create(P, group_id, {}, spec, author="somebody")

    async def shared(self, network_id: str, bridge: str, *cidrs: str) -> Network:
        return await self.network(network_id, *cidrs, kind=NetworkKind.SHARED, bridge=bridge)

    async def create(self, instance_id: str = "", *nics: Nic, **fields: Any) -> Instance:
        spec = InstanceSpec(**{"template": "web", "nics": nics, **fields})
        (made,) = await self.instances.create(P, [NewInstance(instance_id, {}, spec)])
        return made

    async def place(self, instance_id: str, host: str) -> Instance:
        """What the scheduler would write."""

        def write(tx: Transaction) -> Instance:
            found = tx.get(INSTANCE, f"{P}/{instance_id}")
            assert found is not None
            observed = Observed(InstanceState.ASSIGNED)
            placed = replace(found.value, host=host, host_uid=f"uid-{host}", observed=observed)
            tx.put(INSTANCE, placed)
            return placed

        return await self.store.update(write)

    async def report(self, instance: Instance, state: InstanceState, **fields: Any) -> None:
        """What the instance's host says."""
        epoch = fields.pop("epoch", 1)
        report = Report(**{"instance_id": instance.uid, "run": 1, "sequence": 1, "state": state, **fields})
        await self.reports.instances(fields.get("host_uid", instance.host_uid), epoch, [report])

    def get(self, instance_id: str) -> Instance:
        return self.instances.get(P, instance_id)

    def reasons(self) -> list[str]:
        """Of all events, oldest first."""
        found = [e.value for e in self.store.view().all(EVENT)]
        return [e.reason for e in sorted(found, key=lambda e: e.uid)]

    def audit(self) -> None:
        """What must be true whatever has happened: leases are the addresses that somebody holds, and usage is what there is."""
        view = self.store.view()
        instances = [found.value for found in view.all(INSTANCE)]
        wanted = {
            (nic.network_uid, address.split("/")[0]): (instance.uid, nic.interface, nic.mac)
            for instance in instances
            for nic in instance.nics
            for address in nic.addresses
        }
        publics = [found.value for found in view.all(PUBLIC_ADDRESS)]
        wanted |= {(public.network_uid, public.address): (public.uid, "", "") for public in publics}
        slots = [found.value for found in view.all(GROUP_SLOT)]
        wanted |= {
            (nic.network_uid, address.split("/")[0]): (slot.uid, nic.interface, nic.mac)
            for slot in slots
            for nic in slot.nics
            for address in nic.addresses
        }
        all_leases = [found.value for found in view.all(ADDRESS)]
        owners = {owner.uid for owner in (*instances, *publics, *slots)}
        assert all(lease.owner_uid in owners for lease in all_leases)
        leases = [lease for lease in all_leases if not lease.leaving_since]
        assert {(a.network_uid, a.address): (a.owner_uid, a.interface, a.mac) for a in leases} == wanted
        count = sum(len(nic.addresses) for owner in (*instances, *slots) for nic in owner.nics) + len(publics)
        assert len(leases) == count, "no address is given twice"
        macs = [(nic.network_uid, nic.mac) for instance in instances for nic in instance.nics if nic.mac]
        assert len(set(macs)) == len(macs)
        for found in view.all(PROJECT):
            project = found.value
            own = sum(public.project == project.id for public in publics)
            group_uids = {g.value.uid for g in view.all(GROUP) if g.value.project == project.id}
            own += sum(len(n.addresses) for slot in slots if slot.group_uid in group_uids for n in slot.nics)
            used = replace(
                sum((usage_of(i) for i in instances if i.project == project.id), start=Quota(addresses=own)),
                templates=sum(t.value.project == project.id for t in view.all(TEMPLATE)),
                volumes=sum(v.value.project == project.id for v in view.all(VOLUME)),
                volume_bytes=sum(v.value.spec.size_bytes for v in view.all(VOLUME) if v.value.project == project.id),
                networks=sum(n.value.project == project.id for n in view.all(NETWORK)),
            )
            assert project.usage == used


def problems(error: InvalidSpec) -> list[tuple[str, str]]:
    """(field, reason) of each violation."""
    return [(violation.field, violation.reason) for violation in error.violations]

"""Records to messages. What has the same name on both sides is moorage.protoconv's work; here is only what differs."""

from dataclasses import replace
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.access.join_tokens import JoinToken
from controlplane.access.keys import ApiKey
from controlplane.api.errors import status_of
from controlplane.domain.dns import DnsRecord
from controlplane.domain.groups import Group, GroupRevision, GroupStatus
from controlplane.domain.hosts import Host, HostLinkState, Zone, capacity_of
from controlplane.domain.instances import Instance
from controlplane.domain.names import host_name, project_name, zone_name
from controlplane.domain.networks import AddressLease, Network
from controlplane.domain.operations import AuditEvent, Event, Operation, failure_error
from controlplane.domain.projects import Member, Project
from controlplane.domain.readiness import is_ready
from controlplane.domain.routers import Balancer, PublicAddress, Router, RouterRule
from controlplane.domain.secrets import Config, Secret, SecretVersion
from controlplane.domain.security_groups import SecurityGroup
from controlplane.domain.templates import Template
from controlplane.domain.usage import UsageDay, beginning
from controlplane.domain.volumes import Volume, VolumeSnapshot, state_of
from controlplane.networks import attachments
from controlplane.rollout.waves import Wave
from controlplane.routers.balancer_status import BalancerStatus
from controlplane.routers.status import RouterStatus, RuleStatus
from controlplane.services.lookup import etag_of
from controlplane.services.undelete import words_of
from moorage import protoconv
from moorage.v1 import (
    access_pb2,
    balancers_pb2,
    configs_pb2,
    dns_pb2,
    enrollment_pb2,
    events_pb2,
    groups_pb2,
    hosts_pb2,
    instances_pb2,
    networks_pb2,
    operations_pb2,
    projects_pb2,
    public_addresses_pb2,
    router_rules_pb2,
    routers_pb2,
    secrets_pb2,
    security_groups_pb2,
    templates_pb2,
    usage_pb2,
    volumes_pb2,
    zones_pb2,
)


def timestamp(value: datetime | None) -> Timestamp | None:
    """A message, or None for no time."""
    if value is None:
        return None
    message = Timestamp()
    message.FromDatetime(value)
    return message


def instance(record: Instance, *, is_stale: bool = False) -> instances_pb2.Instance:
    """An instance. `is_stale`: its host is away, so what is observed may be old."""
    message = instances_pb2.Instance(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    message.desired_state = getattr(instances_pb2, f"DESIRED_STATE_{record.desired.name}")
    status = message.status
    protoconv.fill(record.observed, status)
    status.host = host_name(record.host) if record.host else ""
    status.image_digest = record.image.partition("@")[2]
    status.stale = is_stale
    status.owner = record.owner
    if record.slot >= 0:
        status.slot = record.slot
    status.revision = record.revision
    status.ready = is_ready(record)
    if record.leave_time is not None:
        status.leave_time.FromDatetime(record.leave_time)
    if record.purge_time is not None:
        status.purge_time.FromDatetime(record.purge_time)
        if not status.reason:
            status.reason = "KEPT"
            status.message = f"deleted, and kept until {words_of(record.purge_time)}; it can be undeleted"
    status.given_up = record.given_up
    status.claims.extend(getattr(instances_pb2, f"CLAIM_{claim.name}") for claim in record.claims)
    if record.lease_seconds:
        status.lease.FromNanoseconds(round(record.lease_seconds * 1e9))
    status.claim_free = record.is_claim_free
    leased = {one.name: one.addresses for one in record.observed.leased}
    for nic in record.nics:
        status.nics.add(
            network=nic.network,
            interface=nic.interface,
            mac=nic.mac,
            addresses=leased.get(nic.interface, ()) if nic.dhcp_client else nic.addresses,
            leased=nic.dhcp_client,
            security_groups=nic.security_groups,
        )
    status.nics_ready = record.observed.network_generation >= record.nics_generation
    if record.placement is not None:
        protoconv.fill(record.placement, status.placement)
    return message


def network(record: Network, hosts: tuple[str, ...], addresses_used: int, router_name: str) -> networks_pb2.Network:
    """A network, with what is counted over its members, and the router that it is behind."""
    message = networks_pb2.Network(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    message.status.vni = record.vni
    message.status.dns_domain = record.dns_domain
    message.status.addresses_used = addresses_used
    message.status.hosts.extend(hosts)
    message.status.router = router_name
    message.status.not_enforced = attachments.not_enforced(record.spec)
    return message


def security_group(record: SecurityGroup, members: int) -> security_groups_pb2.SecurityGroup:
    """A security group, with the number of interfaces that carry it."""
    message = security_groups_pb2.SecurityGroup(
        name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels
    )
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    message.status.members = members
    return message


def group(record: Group, status: GroupStatus) -> groups_pb2.Group:
    """A group of instances, with what is seen of it."""
    message = groups_pb2.Group(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.delete_protection = record.delete_protection
    if record.purge_time is not None:
        message.purge_time.FromDatetime(record.purge_time)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    protoconv.fill(status, message.status)
    return message


def group_revision(record: GroupRevision, group_name: str) -> groups_pb2.GroupRevision:
    """A revision of a group."""
    message = protoconv.to_proto(record, groups_pb2.GroupRevision)
    message.name = f"{group_name}/revisions/{record.number}"
    return message


def secret(record: Secret, users: int) -> secrets_pb2.Secret:
    """A secret, without any bytes, with the number of instances that have it."""
    message = protoconv.to_proto(record, secrets_pb2.Secret)
    message.name, message.etag, message.users = record.name, etag_of(record), users
    return message


def config(record: Config, users: int) -> configs_pb2.Config:
    """A config, without any bytes, with the number of instances that have it."""
    message = protoconv.to_proto(record, configs_pb2.Config)
    message.name, message.etag, message.users = record.name, etag_of(record), users
    return message


def secret_version(record: SecretVersion, users: int) -> secrets_pb2.SecretVersion:
    """A version, without its bytes, with the number of instances that have it."""
    message = protoconv.to_proto(record, secrets_pb2.SecretVersion)
    message.name, message.users = record.name, users
    return message


def config_version(record: SecretVersion, users: int) -> configs_pb2.ConfigVersion:
    """A version, without its bytes, with the number of instances that have it."""
    message = protoconv.to_proto(record, configs_pb2.ConfigVersion)
    message.name, message.users = record.name, users
    return message


def volume(record: Volume, instances: tuple[str, ...]) -> volumes_pb2.Volume:
    """A volume, with the names of the instances that use it."""
    message = volumes_pb2.Volume(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    status = message.status
    status.state = getattr(volumes_pb2, f"VOLUME_STATE_{state_of(record).name}")
    status.reason = "VOLUME_LOST" if record.lost else ""
    if record.purge_time is not None:
        status.purge_time.FromDatetime(record.purge_time)
    status.message = record.lost or record.message
    status.host = host_name(record.host) if record.host else ""
    status.instances.extend(instances)
    status.owner = record.owner
    status.used_bytes = record.used_bytes
    status.capacity_bytes = record.capacity_bytes
    if record.usage_time is not None:
        status.usage_time.FromDatetime(record.usage_time)
    return message


def plan_wave(wave: Wave) -> groups_pb2.PlanWave:
    """What would be done to a group at the same time."""
    message = groups_pb2.PlanWave()
    for step in wave.steps:
        action = groups_pb2.PlanAction.Value(f"PLAN_ACTION_{step.action}")
        made = message.steps.add(action=action, slot=step.slot, instance=step.instance)
        made.revision, made.host, made.why = step.revision, step.host, step.why
    return message


def volume_snapshot(record: VolumeSnapshot) -> volumes_pb2.VolumeSnapshot:
    """A snapshot of a volume."""
    message = volumes_pb2.VolumeSnapshot(
        name=record.name,
        uid=record.uid,
        etag=etag_of(record),
        labels=record.labels,
        message=record.message,
        host=host_name(record.copy.host),
    )
    message.create_time.FromDatetime(record.create_time)
    message.state = getattr(volumes_pb2, f"VOLUME_SNAPSHOT_STATE_{record.state.name}")
    return message


def address_lease(record: AddressLease, network_name: str, owner_name: str) -> networks_pb2.AddressLease:
    """An address that is given out."""
    return networks_pb2.AddressLease(
        address=record.address,
        network=network_name,
        owner=owner_name,
        nic=record.interface,
        mac=record.mac,
        create_time=timestamp(record.create_time),
        leaving=record.leaving_since > 0,
    )


def router(record: Router, status: RouterStatus) -> routers_pb2.Router:
    """A router."""
    message = routers_pb2.Router(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    protoconv.fill(status, message.status)
    return message


def router_rule(record: RouterRule, status: RuleStatus) -> router_rules_pb2.RouterRule:
    """A rule of a router."""
    message = router_rules_pb2.RouterRule(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    protoconv.fill(status, message.status)
    return message


def balancer(record: Balancer, status: BalancerStatus) -> balancers_pb2.Balancer:
    """A balancer; private keys are never given back."""
    message = balancers_pb2.Balancer(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    for listener in message.spec.listeners:
        for certificate in listener.certificates:
            certificate.ClearField("private_key_pem")
    protoconv.fill(status, message.status)
    return message


def public_address(
    record: PublicAddress, router_name: str, used_by: tuple[str, ...]
) -> public_addresses_pb2.PublicAddress:
    """A public address, with who uses it."""
    message = public_addresses_pb2.PublicAddress(
        name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels
    )
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    message.status.address = record.address
    message.status.router = router_name
    message.status.used_by.extend(used_by)
    return message


def dns_record(record: DnsRecord, fqdn: str) -> dns_pb2.DnsRecord:
    """An extra name of a network."""
    message = dns_pb2.DnsRecord(name=record.name, uid=record.uid, etag=etag_of(record), fqdn=fqdn)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    if not record.spec.ttl_seconds:
        message.spec.ClearField("ttl")
    return message


def template(record: Template) -> templates_pb2.Template:
    """A template; a registry's password is never given back."""
    message = templates_pb2.Template(
        name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels, description=record.description
    )
    message.create_time.FromDatetime(record.create_time)
    source = record.source
    if source.repository is not None:
        source = replace(source, repository=replace(source.repository, password=""))
    protoconv.fill(source, message.source)
    protoconv.fill(record.defaults, message.defaults)
    protoconv.fill(record.status, message.status)
    return message


def host(record: Host, heartbeat_time: datetime | None, instances: tuple[Instance, ...]) -> hosts_pb2.Host:
    """A host, with what its instances take."""
    message = hosts_pb2.Host(
        name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels, zone=zone_name(record.zone)
    )
    message.create_time.FromDatetime(record.create_time)
    message.admin_state = getattr(hosts_pb2, f"HOST_ADMIN_STATE_{record.admin_state.name}")
    protoconv.fill(record, message.status)
    beat = timestamp(heartbeat_time)
    if beat is not None:
        message.status.heartbeat_time.CopyFrom(beat)
    protoconv.fill(record.settings, message.settings)
    message.capacity.cpu_millis, message.capacity.memory_bytes = capacity_of(record)
    used = message.status.used
    used.instances = len(instances)
    used.cpu_millis = sum(i.effective.resources.cpu_millis for i in instances)
    used.memory_bytes = sum(i.effective.resources.memory_bytes for i in instances)
    return message


def is_away(record: Host | None) -> bool:
    """Whether what the host reported may be old."""
    return record is None or record.link_state is not HostLinkState.UP


def zone(record: Zone) -> zones_pb2.Zone:
    """A zone."""
    message = zones_pb2.Zone(name=record.name, uid=record.uid, etag=etag_of(record), description=record.description)
    message.create_time.FromDatetime(record.create_time)
    return message


def project(record: Project) -> projects_pb2.Project:
    """A project."""
    message = projects_pb2.Project(
        name=record.name, uid=record.uid, etag=etag_of(record), description=record.description
    )
    message.create_time.FromDatetime(record.create_time)
    for part in ("quota", "policy", "usage"):
        protoconv.fill(getattr(record, part), getattr(message, part))
    if record.undelete_window_seconds:
        message.undelete_window.FromNanoseconds(round(record.undelete_window_seconds * 1e9))
    return message


def member(record: Member) -> projects_pb2.Member:
    """A member."""
    role = getattr(projects_pb2, f"ROLE_{record.role.name}")
    return projects_pb2.Member(name=record.name, role=role, etag=str(record.generation))


def api_key(record: ApiKey) -> access_pb2.ApiKey:
    """A key, without what proves it."""
    return access_pb2.ApiKey(
        name=f"apiKeys/{record.id}",
        user=record.user,
        description=record.description,
        create_time=timestamp(record.created_at),
        expire_time=timestamp(record.expires_at),
        fleet_admin=record.fleet_admin,
    )


def join_token(record: JoinToken) -> enrollment_pb2.JoinToken:
    """A join token, without what proves it."""
    return enrollment_pb2.JoinToken(
        name=f"joinTokens/{record.id}",
        create_time=timestamp(record.created_at),
        expire_time=timestamp(record.expires_at),
        max_uses=record.max_uses,
        used=record.used,
        revoked=record.revoked,
        created_by=record.created_by,
        zone=zone_name(record.zone),
    )


def operation(record: Operation) -> operations_pb2.Operation:
    """An operation."""
    message = operations_pb2.Operation(name=record.name)
    protoconv.fill(record, message)
    if record.failure is not None:
        message.error.CopyFrom(status_of(failure_error(record.failure)))
    return message


def usage(record: UsageDay) -> usage_pb2.UsageRecord:
    """What an object has used in a day."""
    message = usage_pb2.UsageRecord(
        name=record.name,
        uid=record.uid,
        project=project_name(record.project),
        instance_seconds=record.instance_seconds,
        cpu_milli_seconds=record.cpu_milli_seconds,
        memory_byte_seconds=record.memory_byte_seconds,
        address_seconds=record.address_seconds,
    )
    message.day.FromDatetime(beginning(record.day))
    return message


def event(record: Event) -> events_pb2.Event:
    """An event."""
    message = protoconv.to_proto(record, events_pb2.Event)
    message.name = record.name
    return message


def audit_event(record: AuditEvent) -> events_pb2.AuditEvent:
    """An audit event."""
    message = protoconv.to_proto(record, events_pb2.AuditEvent)
    message.name = record.name
    return message

"""Which records the store holds: under which key each is kept, and by what else it is found.

Objects that users name are keyed by project and name, so that a listing in order of name is a range of keys; what refers to
them does so by uid, which an index finds. Names may be used again once the object is gone, uids never.
"""

from typing import Any

from controlplane.access.join_tokens import JoinToken
from controlplane.access.keys import ApiKey
from controlplane.domain.claims import is_kept
from controlplane.domain.dns import DnsRecord
from controlplane.domain.groups import Group, GroupRevision, GroupSlot
from controlplane.domain.hosts import Host, Zone
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.jobs import CronJob, Job
from controlplane.domain.lineage import EpochStart
from controlplane.domain.networks import AddressLease, Network
from controlplane.domain.operations import AuditEvent, Event, Operation, OperationState, RequestRecord
from controlplane.domain.projects import Member, Project
from controlplane.domain.routers import (
    Balancer,
    PublicAddress,
    Router,
    RouterRule,
    public_addresses_of,
    public_addresses_of_balancer,
)
from controlplane.domain.secrets import Config, SealedPayload, Secret, SecretVersion, SecretVersionState
from controlplane.domain.security_groups import SecurityGroup
from controlplane.domain.templates import Template
from controlplane.domain.usage import UsageDay, UsageMeter
from controlplane.domain.volumes import Volume, VolumeSnapshot
from moorage.store.base import Kind


def version_key(owner_uid: str, number: int) -> str:
    """Of a version of a secret or config, in order of number."""
    return f"{owner_uid}/{number:012d}"


def _has_left(instance: Instance) -> bool:
    """Whether nothing is waited for any more: it is being removed, or stands still and is kept."""
    is_kept_still = instance.purge_time is not None and instance.desired is DesiredState.STOPPED
    return instance.desired is DesiredState.DELETED or is_kept_still


PROJECT = Kind("project", Project, key=lambda p: p.id, indexes={"uid": lambda p: (p.uid,)})
MEMBER = Kind("member", Member, key=lambda m: f"{m.project}/{m.user}", indexes={"user": lambda m: (m.user,)})
API_KEY = Kind("api_key", ApiKey, key=lambda k: k.id, indexes={"user": lambda k: (k.user,)})
JOIN_TOKEN = Kind("join_token", JoinToken, key=lambda t: t.id)
ZONE = Kind("zone", Zone, key=lambda z: z.id)
HOST = Kind("host", Host, key=lambda h: h.id, indexes={"uid": lambda h: (h.uid,), "zone": lambda h: (h.zone,)})
TEMPLATE = Kind(
    "template",
    Template,
    key=lambda t: f"{t.project}/{t.id}",
    indexes={
        "uid": lambda t: (t.uid,),
        "repository": lambda t: (t.repository,),
        "state": lambda t: (t.status.state.name,),
    },
    is_sealed=True,  # passwords of registries, until the image is here
)
NETWORK = Kind(
    "network",
    Network,
    key=lambda n: f"{n.project}/{n.id}",
    indexes={"uid": lambda n: (n.uid,), "vni": lambda n: (str(n.vni),) if n.vni else ()},
)
INSTANCE = Kind(
    "instance",
    Instance,
    key=lambda i: f"{i.project}/{i.id}",
    indexes={
        "uid": lambda i: (i.uid,),
        "host": lambda i: (i.host_uid,) if i.host_uid else ("unplaced",),
        "promised": lambda i: (i.promised_uid,) if i.promised_uid and not i.host_uid else (),
        "network": lambda i: tuple({nic.network_uid for nic in i.nics}),
        "template": lambda i: (i.template_uid,),
        "owner": lambda i: (i.owner,) if i.owner else (),
        "leaving": lambda i: ("yes",) if i.leave_time is not None and not _has_left(i) else (),
        "kept": lambda i: ("yes",) if i.purge_time is not None and i.desired is not DesiredState.DELETED else (),
        "volume": lambda i: tuple(dict.fromkeys(i.volume_uids)),
        "security_group": lambda i: tuple({uid for nic in i.nics for uid in nic.security_group_uids}),
        "payload": lambda i: tuple({pin.uid for pin in i.pins}),
        "claim": lambda i: ("kept",) if is_kept(i) else (),
    },
)
# Owner and network find the leases of an instance and the members of a network; the key makes an address unique in its network.
ADDRESS = Kind(
    "address",
    AddressLease,
    key=lambda a: f"{a.network_uid}/{a.address}",
    indexes={
        "owner": lambda a: (a.owner_uid,),
        "network": lambda a: (a.network_uid,),
        "mac": lambda a: (f"{a.network_uid}/{a.mac}",),
    },
)
DNS_RECORD = Kind(
    "dns_record",
    DnsRecord,
    key=lambda r: f"{r.project}/{r.network}/{r.id}",
    indexes={"uid": lambda r: (r.uid,), "network": lambda r: (r.network_uid,)},
)
ROUTER = Kind(
    "router",
    Router,
    key=lambda r: f"{r.project}/{r.id}",
    indexes={
        "uid": lambda r: (r.uid,),
        "network": lambda r: r.network_uids,  # behind it: at most one router a network
        "outside": lambda r: (r.outside_uid,),
    },
)
# Names are below their router's, and a router may be forgotten and its name used again only after them.
ROUTER_RULE = Kind(
    "router_rule",
    RouterRule,
    key=lambda r: f"{r.project}/{r.router}/{r.id}",
    indexes={
        "uid": lambda r: (r.uid,),
        "router": lambda r: (r.router_uid,),
        "public_address": public_addresses_of,
    },
)
BALANCER = Kind(
    "balancer",
    Balancer,
    key=lambda b: f"{b.project}/{b.router}/{b.id}",
    indexes={
        "uid": lambda b: (b.uid,),
        "router": lambda b: (b.router_uid,),
        "public_address": public_addresses_of_balancer,
    },
    is_sealed=True,  # private keys of certificates
)
PUBLIC_ADDRESS = Kind(
    "public_address",
    PublicAddress,
    key=lambda a: f"{a.project}/{a.id}",
    indexes={"uid": lambda a: (a.uid,), "network": lambda a: (a.network_uid,)},
)
SECURITY_GROUP = Kind(
    "security_group",
    SecurityGroup,
    key=lambda g: f"{g.project}/{g.id}",
    indexes={
        "uid": lambda g: (g.uid,),
        "named": lambda g: tuple(g.group_uids.values()),  # by its rules
    },
)
SECRET = Kind("secret", Secret, key=lambda s: f"{s.project}/{s.id}", indexes={"uid": lambda s: (s.uid,)})
CONFIG = Kind("config", Config, key=lambda c: f"{c.project}/{c.id}", indexes={"uid": lambda c: (c.uid,)})
# Versions and sealed bytes of secrets and of configs: uids are never used twice, so both share a kind.
SECRET_VERSION = Kind(
    "secret_version",
    SecretVersion,
    key=lambda v: version_key(v.owner_uid, v.number),
    indexes={
        "owner": lambda v: (v.owner_uid,),
        "held_by": lambda v: () if v.state is SecretVersionState.DESTROYED else (v.project,),  # with bytes
    },
)
SEALED_PAYLOAD = Kind("sealed_payload", SealedPayload, key=lambda p: version_key(p.owner_uid, p.number))
GROUP = Kind(
    "group",
    Group,
    key=lambda g: f"{g.project}/{g.id}",
    indexes={
        "uid": lambda g: (g.uid,),
        "named": lambda g: tuple(d.target for d in g.spec.depends_on),
        "kept": lambda g: ("yes",) if g.purge_time is not None else (),
    },
)
GROUP_REVISION = Kind(
    "group_revision",
    GroupRevision,
    key=lambda r: f"{r.group_uid}/{r.number:012d}",
    indexes={"group": lambda r: (r.group_uid,)},
)
GROUP_SLOT = Kind(
    "group_slot",
    GroupSlot,
    key=lambda s: f"{s.group_uid}/{s.slot:06d}",
    indexes={
        "uid": lambda s: (s.uid,),
        "group": lambda s: (s.group_uid,),
        "network": lambda s: tuple({nic.network_uid for nic in s.nics}),
    },
)
JOB = Kind(
    "job",
    Job,
    key=lambda j: f"{j.project}/{j.id}",
    indexes={
        "uid": lambda j: (j.uid,),
        "cron_job": lambda j: (j.cron_uid,) if j.cron_uid else (),
        "named": lambda j: tuple(d.target for d in j.spec.depends_on),
    },
)
CRON_JOB = Kind("cron_job", CronJob, key=lambda c: f"{c.project}/{c.id}", indexes={"uid": lambda c: (c.uid,)})
VOLUME = Kind(
    "volume",
    Volume,
    key=lambda v: f"{v.project}/{v.id}",
    indexes={
        "uid": lambda v: (v.uid,),
        "owner": lambda v: (v.owner,) if v.owner else (),
        "host": lambda v: (v.host_uid,) if v.host_uid else (),
        "kept": lambda v: ("yes",) if v.purge_time is not None else (),
        # Volume or snapshot that is being copied into it.
        "fills": lambda v: (v.fill.snapshot_uid or v.fill.volume_uid,) if v.fill is not None else (),
    },
)
VOLUME_SNAPSHOT = Kind(
    "volume_snapshot",
    VolumeSnapshot,
    key=lambda s: f"{s.project}/{s.volume}/{s.id}",
    indexes={"uid": lambda s: (s.uid,), "volume": lambda s: (s.volume_uid,)},
)
USAGE_METER = Kind("usage_meter", UsageMeter, key=lambda m: m.uid)
USAGE_DAY = Kind("usage_day", UsageDay, key=lambda d: f"{d.project}/{d.day}/{d.uid}")
OPERATION = Kind(
    "operation",
    Operation,
    key=lambda o: f"{o.project}/{o.uid}",
    indexes={"state": lambda o: (OperationState(o.state).name,), "target": lambda o: (o.target,)},
)
EVENT = Kind("event", Event, key=lambda e: f"{e.project}/{e.uid}", indexes={"age": lambda e: (e.uid[:6],)})
AUDIT_EVENT = Kind("audit_event", AuditEvent, key=lambda e: e.uid)
# Epochs have at most ten digits: seconds since 1970.
EPOCH_START = Kind("epoch_start", EpochStart, key=lambda e: f"{e.epoch:012d}")
REQUEST = Kind("request", RequestRecord, key=lambda r: r.key)

ALL_KINDS: tuple[Kind[Any], ...] = (
    PROJECT,
    MEMBER,
    API_KEY,
    JOIN_TOKEN,
    ZONE,
    HOST,
    TEMPLATE,
    NETWORK,
    INSTANCE,
    ADDRESS,
    DNS_RECORD,
    ROUTER,
    ROUTER_RULE,
    BALANCER,
    PUBLIC_ADDRESS,
    SECURITY_GROUP,
    SECRET,
    CONFIG,
    SECRET_VERSION,
    SEALED_PAYLOAD,
    GROUP,
    GROUP_REVISION,
    GROUP_SLOT,
    JOB,
    CRON_JOB,
    VOLUME,
    USAGE_METER,
    USAGE_DAY,
    VOLUME_SNAPSHOT,
    OPERATION,
    EVENT,
    AUDIT_EVENT,
    REQUEST,
    EPOCH_START,
)
SEALED_KINDS: tuple[Kind[Any], ...] = tuple(kind for kind in ALL_KINDS if kind.is_sealed)

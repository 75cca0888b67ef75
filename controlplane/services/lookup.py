"""Reads that every service needs: an object by its name or uid, its etag, and a retried create."""

import hashlib
from datetime import timedelta
from typing import Any, TypeVar

from controlplane.domain.dns import DnsRecord
from controlplane.domain.groups import Group
from controlplane.domain.hosts import Host
from controlplane.domain.instances import Instance
from controlplane.domain.jobs import CronJob, Job
from controlplane.domain.kinds import (
    BALANCER,
    CRON_JOB,
    DNS_RECORD,
    GROUP,
    HOST,
    INSTANCE,
    JOB,
    NETWORK,
    PROJECT,
    PUBLIC_ADDRESS,
    REQUEST,
    ROUTER,
    ROUTER_RULE,
    SECURITY_GROUP,
    TEMPLATE,
    VOLUME,
    VOLUME_SNAPSHOT,
)
from controlplane.domain.names import child_name, parse_child
from controlplane.domain.networks import Network
from controlplane.domain.operations import RequestRecord
from controlplane.domain.projects import Project
from controlplane.domain.routers import Balancer, PublicAddress, Router, RouterRule
from controlplane.domain.security_groups import SecurityGroup
from controlplane.domain.templates import Template
from controlplane.domain.volumes import Volume, VolumeSnapshot
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, NotReady, VersionConflict
from moorage.store.base import Kind, Transaction, View

T = TypeVar("T")

REQUEST_MEMORY = timedelta(hours=24)  # how long a request id is remembered


def require(view: View, kind: Kind[T], key: str, name: str) -> T:
    """The record.

    Raises:
        NotFound: naming the object.
    """
    found = view.get(kind, key)
    if found is None:
        raise NotFound(f"{name} does not exist", metadata={"name": name})
    return found.value


def project(view: View, project_id: str) -> Project:
    """A project by its id. Raises NotFound."""
    return require(view, PROJECT, project_id, f"projects/{project_id}")


def host(view: View, host_id: str) -> Host:
    """A host by the last part of its name. Raises NotFound."""
    return require(view, HOST, host_id, f"hosts/{host_id}")


def instance(view: View, project_id: str, instance_id: str) -> Instance:
    """An instance by name. Raises NotFound."""
    return require(view, INSTANCE, f"{project_id}/{instance_id}", f"projects/{project_id}/instances/{instance_id}")


def network(view: View, project_id: str, network_id: str) -> Network:
    """A network by name. Raises NotFound."""
    return require(view, NETWORK, f"{project_id}/{network_id}", f"projects/{project_id}/networks/{network_id}")


def dns_record(view: View, project_id: str, network_id: str, record_id: str) -> DnsRecord:
    """A record by name. Raises NotFound."""
    name = f"projects/{project_id}/networks/{network_id}/records/{record_id}"
    return require(view, DNS_RECORD, f"{project_id}/{network_id}/{record_id}", name)


def template(view: View, project_id: str, template_id: str) -> Template:
    """A template by name. Raises NotFound."""
    return require(view, TEMPLATE, f"{project_id}/{template_id}", f"projects/{project_id}/templates/{template_id}")


def group(view: View, project_id: str, group_id: str) -> Group:
    """A group by name. Raises NotFound."""
    return require(view, GROUP, f"{project_id}/{group_id}", f"projects/{project_id}/groups/{group_id}")


def job(view: View, project_id: str, job_id: str) -> Job:
    """A job by name. Raises NotFound."""
    return require(view, JOB, f"{project_id}/{job_id}", f"projects/{project_id}/jobs/{job_id}")


def cron_job(view: View, project_id: str, cron_job_id: str) -> CronJob:
    """A cron job by name. Raises NotFound."""
    name = f"projects/{project_id}/cronJobs/{cron_job_id}"
    return require(view, CRON_JOB, f"{project_id}/{cron_job_id}", name)


def router(view: View, project_id: str, router_id: str) -> Router:
    """A router by name. Raises NotFound."""
    return require(view, ROUTER, f"{project_id}/{router_id}", f"projects/{project_id}/routers/{router_id}")


def living_router(view: View, project_id: str, router_id: str) -> Router:
    """A router that is not being deleted. Raises NotFound, NotReady (ROUTER_DELETING)."""
    found = router(view, project_id, router_id)
    if found.is_deleting:
        raise NotReady(f"{found.name} is being deleted", reason="ROUTER_DELETING", metadata={"name": found.name})
    return found


def router_rule(view: View, project_id: str, router_id: str, rule_id: str) -> RouterRule:
    """A rule by name. Raises NotFound."""
    name = f"projects/{project_id}/routers/{router_id}/rules/{rule_id}"
    return require(view, ROUTER_RULE, f"{project_id}/{router_id}/{rule_id}", name)


def balancer(view: View, project_id: str, router_id: str, balancer_id: str) -> Balancer:
    """A balancer by name. Raises NotFound."""
    name = f"projects/{project_id}/routers/{router_id}/balancers/{balancer_id}"
    return require(view, BALANCER, f"{project_id}/{router_id}/{balancer_id}", name)


def public_address(view: View, project_id: str, address_id: str) -> PublicAddress:
    """A public address by name. Raises NotFound."""
    name = f"projects/{project_id}/publicAddresses/{address_id}"
    return require(view, PUBLIC_ADDRESS, f"{project_id}/{address_id}", name)


def own_id(project_id: str, collection: str, name: str, field: str) -> str:
    """The last part of a full name in this project, or the name as it is when it is only that.

    Raises:
        InvalidSpec: no name of the collection, or one of another project.
    """
    if "/" not in name:
        return name
    owner, own = parse_child(name, collection, field)
    if owner != project_id:
        raise InvalidSpec.of(field, f"is not in projects/{project_id}", "OTHER_PROJECT")
    return own


def network_of(view: View, project_id: str, name: str, field: str) -> Network:
    """A network of the project by its full or last name. Raises NotFound, InvalidSpec."""
    network_id = own_id(project_id, "networks", name, field)
    found = view.get(NETWORK, f"{project_id}/{network_id}")
    if found is None:
        full = child_name(project_id, "networks", network_id)
        raise NotFound(f"{full} does not exist ({field})", metadata={"name": full, "field": field})
    return found.value


def security_group(view: View, project_id: str, group_id: str) -> SecurityGroup:
    """A security group by name. Raises NotFound."""
    name = f"projects/{project_id}/securityGroups/{group_id}"
    return require(view, SECURITY_GROUP, f"{project_id}/{group_id}", name)


def volume(view: View, project_id: str, volume_id: str) -> Volume:
    """A volume by name. Raises NotFound."""
    return require(view, VOLUME, f"{project_id}/{volume_id}", f"projects/{project_id}/volumes/{volume_id}")


def living_volume(view: View, project_id: str, volume_id: str) -> Volume:
    """A volume that is not being deleted. Raises NotFound, NotReady (VOLUME_DELETING)."""
    found = volume(view, project_id, volume_id)
    if found.is_deleting:
        raise NotReady(f"{found.name} is being deleted", reason="VOLUME_DELETING", metadata={"name": found.name})
    return found


def volume_snapshot(view: View, project_id: str, volume_id: str, snapshot_id: str) -> VolumeSnapshot:
    """A snapshot of a volume by name. Raises NotFound."""
    name = f"projects/{project_id}/volumes/{volume_id}/snapshots/{snapshot_id}"
    return require(view, VOLUME_SNAPSHOT, f"{project_id}/{volume_id}/{snapshot_id}", name)


def by_uid(view: View, kind: Kind[T], uid: str) -> T | None:
    """The record with this uid, or None."""
    found = view.find(kind, "uid", uid)
    return found[0].value if found else None


def etag_of(record: Any) -> str:
    """Changes with every change that a call makes; observations do not change it."""
    return f"{record.uid}-{record.generation}"


def check_etag(record: Any, etag: str, name: str) -> None:
    """Let an absent or current etag pass.

    Raises:
        VersionConflict: ETAG_MISMATCH.
    """
    if etag and etag != etag_of(record):
        raise VersionConflict(f"{name} has changed since you read it; read it again", metadata={"name": name})


def remembered(tx: View, key: str, body: bytes) -> tuple[str, ...] | None:
    """Names that the request with this key made before, or None for a new one.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED, the id came with another body.
    """
    found = tx.get(REQUEST, key)
    if found is None:
        return None
    if found.value.body_digest != _digest(body):
        raise AlreadyExists("this request_id was used for another request; use a new one", reason="REQUEST_ID_REUSED")
    return found.value.names


def remember(tx: Transaction, key: str, body: bytes, names: tuple[str, ...], now: Any) -> None:
    """Keep what a request made. Also forgets a few that are too old, so that the table stays bounded."""
    tx.put(REQUEST, RequestRecord(key, _digest(body), names, now))


def forget_old_requests(tx: Transaction, now: Any, limit: int = 1000) -> int:
    """Remove request ids older than REQUEST_MEMORY; at most `limit` in one go. Returns how many."""
    old = [r.value.key for r in tx.all(REQUEST) if now - r.value.time > REQUEST_MEMORY][:limit]
    for key in old:
        tx.delete(REQUEST, key)
    return len(old)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()

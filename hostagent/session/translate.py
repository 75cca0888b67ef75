"""Messages of the control plane to domain values and back. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from hostagent.domain import (
    ContainerSpec,
    DesiredState,
    HealthCheck,
    InstanceAssignment,
    InstanceReport,
    NetworkAssignment,
    NicAssignment,
    PayloadAssignment,
    Peer,
    PublishedPort,
    RestartPolicy,
    SecurityGroup,
    VolumeAssignment,
    VolumeUsage,
)
from hostagent.journal.journal import AssignmentChange, MembersChange, PeerChange, UnreadableRouter
from hostagent.probe_domain import Probes
from moorage.errors import InvalidSpec
from moorage.ids import InstanceId, NetworkId
from moorage.protoconv import from_proto, to_proto
from moorage.router_bundle import RouterBundle, RouterReport
from moorage.v1 import agent_pb2, instances_pb2, networks_pb2, router_bundles_pb2, volume_work_pb2

_DEFAULT_LOG_BYTES = 10 * 1024 * 1024
_DEFAULT_LOG_FILES = 3
_DEFAULT_VXLAN_PORT = 4789
_DESIRED = {
    instances_pb2.DESIRED_STATE_RUNNING: DesiredState.RUNNING,
    instances_pb2.DESIRED_STATE_STOPPED: DesiredState.STOPPED,
    instances_pb2.DESIRED_STATE_PAUSED: DesiredState.PAUSED,
    instances_pb2.DESIRED_STATE_DELETED: DesiredState.DELETED,
}


def change_from_message(
    message: agent_pb2.Assignments, registry: str
) -> tuple[AssignmentChange, list[tuple[InstanceId, int, str]]]:
    """The news in a message, and what of it cannot be understood: (instance, generation, problem).

    Args:
        registry: host:port under which this host's engine reaches the platform's images (the agent's own proxy).
    Raises:
        InvalidSpec: a network cannot be understood, or the message as a whole.
    """
    is_complete = message.type == agent_pb2.Assignments.TYPE_COMPLETE
    if not is_complete and message.type != agent_pb2.Assignments.TYPE_INCREMENTAL:
        raise InvalidSpec.of("type", f"unknown kind of assignments {message.type}", "ASSIGNMENT_INVALID")
    instances: list[InstanceAssignment] = []
    problems: list[tuple[InstanceId, int, str]] = []
    for item in message.instances:
        try:
            instances.append(instance_from_message(item, registry))
        except (ValueError, TypeError, KeyError) as exc:
            problems.append((InstanceId(item.instance_id), item.generation, str(exc)))
    try:
        networks = tuple(network_from_message(item) for item in message.networks)
        peer_changes = tuple(
            PeerChange(
                NetworkId(update.network_id),
                tuple(_peer(peer) for peer in update.upserted),
                tuple(update.removed),
            )
            for update in message.peer_updates
        )
    except (ValueError, TypeError) as exc:
        raise InvalidSpec.of("networks", str(exc), "ASSIGNMENT_INVALID") from exc
    routers, unreadable = _routers(message)
    try:
        groups = tuple(from_proto(SecurityGroup, item) for item in message.security_groups)
    except (ValueError, TypeError) as exc:
        raise InvalidSpec.of("security_groups", str(exc), "ASSIGNMENT_INVALID") from exc
    change = AssignmentChange(
        is_complete=is_complete,
        sequence=message.results_in,
        revision=message.revision,
        instances=tuple(instances),
        networks=networks,
        forgotten_instances=tuple(InstanceId(i) for i in message.forgotten_instances),
        removed_networks=tuple(NetworkId(n) for n in message.removed_networks),
        peer_changes=peer_changes,
        routers=routers,
        unreadable_routers=unreadable,
        security_groups=groups,
        removed_security_groups=tuple(message.removed_security_groups),
        members_changes=tuple(from_proto(MembersChange, item) for item in message.group_members),
    )
    return change, problems


def _routers(message: agent_pb2.Assignments) -> tuple[tuple[RouterBundle, ...], tuple[UnreadableRouter, ...]]:
    routers: list[RouterBundle] = []
    unreadable: list[UnreadableRouter] = []
    for item in message.routers:
        try:
            routers.append(from_proto(RouterBundle, item))
        except ValueError as exc:
            unreadable.append(UnreadableRouter(InstanceId(item.instance_id), item.version, str(exc)))
    return tuple(routers), tuple(unreadable)


def instance_from_message(message: agent_pb2.InstanceAssignment, registry: str) -> InstanceAssignment:
    """One instance.

    Raises:
        ValueError: an enum value that this version does not know, or no desired state.
    """
    spec = message.spec
    if message.desired not in _DESIRED:
        raise ValueError(f"unknown desired state {message.desired}")
    container = from_proto(ContainerSpec, spec)
    hostname = spec.hostname or message.name
    container = replace(
        container,
        image=f"{registry}/{message.image}" if registry else message.image,
        hostname=hostname,
        health_check=_health_check(container.health_check),
        log_max_bytes=container.log_max_bytes or _DEFAULT_LOG_BYTES,
        log_max_files=container.log_max_files or _DEFAULT_LOG_FILES,
    )
    return InstanceAssignment(
        instance_id=InstanceId(message.instance_id),
        name=message.name,
        project=message.project,
        generation=message.generation,
        run_request=message.run_request,
        container_generation=message.container_generation,
        desired=_DESIRED[message.desired],
        container=container,
        nics=tuple(from_proto(NicAssignment, nic) for nic in message.nics),
        published_ports=tuple(_port(from_proto(PublishedPort, port)) for port in spec.published_ports),
        restart=from_proto(RestartPolicy, spec.restart),
        hostname=hostname,
        dns_servers=tuple(spec.dns_servers),
        dns_search=tuple(spec.dns_search),
        extra_hosts=tuple(sorted(spec.extra_hosts.items())),
        force=message.force,
        labels=dict(message.labels),
        zone=message.zone,
        host=message.host,
        user_data=spec.user_data,
        is_router=message.is_router,
        shared_names=tuple(message.shared_names),
        payloads=tuple(from_proto(PayloadAssignment, payload) for payload in message.payloads),
        probes=from_proto(Probes, spec.probes),
        volumes=tuple(from_proto(VolumeAssignment, item) for item in message.volumes),
        lease_seconds=message.lease.ToNanoseconds() / 1e9,
    )


def network_from_message(message: agent_pb2.NetworkAssignment) -> NetworkAssignment:
    """One network.

    Raises:
        ValueError: an enum value that this version does not know.
    """
    if message.kind == networks_pb2.NETWORK_KIND_UNSPECIFIED:
        message = agent_pb2.NetworkAssignment.FromString(message.SerializeToString())
        message.kind = networks_pb2.NETWORK_KIND_ISOLATED
    network = from_proto(NetworkAssignment, message)
    return replace(network, peers=tuple(_with_port(peer) for peer in network.peers))


def report_message(report: InstanceReport) -> agent_pb2.InstanceReport:
    """A report as it is sent."""
    return to_proto(report, agent_pb2.InstanceReport)


def router_report_message(report: RouterReport) -> router_bundles_pb2.RouterReport:
    """A router's report as it is sent."""
    return to_proto(report, router_bundles_pb2.RouterReport)


def volumes_message(found: Sequence[VolumeUsage]) -> agent_pb2.SessionRequest:
    """What volumes take, as it is sent."""
    reports = [to_proto(one, volume_work_pb2.VolumeReport) for one in found]
    return agent_pb2.SessionRequest(volumes=volume_work_pb2.VolumeReports(reports=reports))


def _peer(message: agent_pb2.Peer) -> Peer:
    return _with_port(from_proto(Peer, message))


def _with_port(peer: Peer) -> Peer:
    return peer if peer.host_port else replace(peer, host_port=_DEFAULT_VXLAN_PORT)


def _port(port: PublishedPort) -> PublishedPort:
    return port if port.protocol else replace(port, protocol="tcp")


def _health_check(check: HealthCheck | None) -> HealthCheck | None:
    return replace(check, retries=3) if check is not None and check.retries == 0 else check

"""One connected agent: what it was sent, and what waits to be sent. No gRPC type here; the servicer drains `next_messages`.

Nothing is queued by value: the session keeps which objects are dirty, and what it sends is their newest form. So a slow agent costs
one set of ids, and never falls behind by more than one message.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace

from controlplane.dispatch.assignments import (
    InstanceAssignment,
    NetworkAssignment,
    NicAssignment,
    Peer,
    instance_assignment,
    instances_of_host,
    network_assignment,
    networks_of,
    peers_of,
    router_bundle,
    stations_of,
    zone_of_host,
)
from controlplane.dispatch.security import SecurityChange, SentSecurity
from controlplane.dispatch.volumes import volumes_of
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE, NETWORK
from moorage.router_bundle import RouterBundle
from moorage.store.base import View


@dataclass(frozen=True, slots=True)
class PeerChange:
    """Members of a network on other hosts that came, changed or went."""

    network_id: str
    upserted: tuple[Peer, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AssignmentSet:
    """Everything (`is_complete`), or what changed since `applies_to`."""

    is_complete: bool
    applies_to: int
    results_in: int
    revision: int
    instances: tuple[InstanceAssignment, ...] = ()
    networks: tuple[tuple[NetworkAssignment, tuple[Peer, ...]], ...] = ()
    forgotten_instances: tuple[str, ...] = ()
    removed_networks: tuple[str, ...] = ()
    peer_changes: tuple[PeerChange, ...] = ()
    routers: tuple[RouterBundle, ...] = ()
    security: SecurityChange = SecurityChange()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (
            self.is_complete
            or self.instances
            or self.networks
            or self.forgotten_instances
            or self.removed_networks
            or self.peer_changes
            or self.routers
            or self.security
        )


@dataclass
class Sent:
    """What the agent has been told, so that only differences are sent."""

    instances: dict[str, InstanceAssignment] = field(default_factory=dict)
    networks: dict[str, NetworkAssignment] = field(default_factory=dict)
    peers: dict[str, dict[str, Peer]] = field(default_factory=dict)
    routers: dict[str, RouterBundle] = field(default_factory=dict)
    security: SentSecurity = field(default_factory=SentSecurity)


class HostSession:
    """A host's session. `wake()` after marking; the servicer calls `assignments(view)` when `wait()` returns."""

    def __init__(self, host_uid: str, epoch: int) -> None:
        self.host_uid = host_uid
        self.epoch = epoch
        self.last_heard = 0.0  # monotonic seconds
        self.is_farewell = False  # its agent has said that it ends
        self.dirty_instances: set[str] = set()
        self.dirty_networks: set[str] = set()
        self.dirty_groups: set[str] = set()
        self.dirty_routers: dict[str, bool] = {}  # by uid of the instance: whether it is told even of nothing new
        self.requests: deque[object] = deque()  # stream requests, tasks, brake releases: sent in order, each once
        self.is_closed = False
        self.close_reason = ""
        self._sent = Sent()
        self._sequence = 0
        self._wake = asyncio.Event()

    def mark(self, instance_uid: str = "", network_uid: str = "") -> None:
        """Something that this host knows may have changed."""
        if instance_uid:
            self.dirty_instances.add(instance_uid)
        if network_uid:
            self.dirty_networks.add(network_uid)

    def mark_groups(self, group_uids: Iterable[str]) -> bool:
        """Security groups that may have changed, or their members. Returns whether one of them concerns the host."""
        known = {uid for uid in group_uids if self._sent.security.knows(uid)}
        self.dirty_groups |= known
        return bool(known)

    def mark_router(self, instance_uid: str, *, is_asked_for: bool) -> None:
        """The configuration of a router here may have changed.

        Args:
            is_asked_for: by a call. Its author waits for a version that has it, so one is sent even if nothing in it is new.
        """
        self.dirty_routers[instance_uid] = is_asked_for or self.dirty_routers.get(instance_uid, False)

    def wake(self) -> None:
        """Let the sender look."""
        self._wake.set()

    def request(self, message: object) -> None:
        """Send one message beside the assignments."""
        self.requests.append(message)
        self.wake()

    def close(self, reason: str) -> None:
        """End the session, for example because a newer one has come."""
        self.is_closed, self.close_reason = True, reason
        self.wake()

    async def wait(self) -> None:
        """Return when there may be something to send."""
        await self._wake.wait()
        self._wake.clear()

    def known_instances(self) -> tuple[str, ...]:
        """Uids of what the agent was told of."""
        return tuple(self._sent.instances)

    def known_groups(self, network_uids: Set[str]) -> set[str]:
        """Uids of the security groups whose members on these networks the agent was told."""
        return self._sent.security.groups_on(network_uids)

    def complete(self, view: View) -> AssignmentSet:
        """Everything that the host shall carry."""
        instances = instances_of_host(view, self.host_uid)
        networks = networks_of(view, instances)
        zone = zone_of_host(view, self.host_uid)
        self._sent = Sent(
            {i.uid: instance_assignment(i, zone, stations_of(view, i), volumes_of(view, i)) for i in instances},
            {uid: network_assignment(view, n) for uid, n in networks.items()},
            {uid: peers_of(view, uid, self.host_uid) for uid in networks},
            {i.uid: bundle for i in instances if (bundle := router_bundle(view, i)) is not None},
        )
        security = self._sent.security.update(view, self._nics(), set())
        self._sequence += 1
        self.dirty_instances.clear()
        self.dirty_networks.clear()
        self.dirty_groups.clear()
        self.dirty_routers.clear()
        return AssignmentSet(
            True,
            0,
            self._sequence,
            view.revision,
            tuple(self._sent.instances.values()),
            tuple((n, tuple(self._sent.peers[uid].values())) for uid, n in self._sent.networks.items()),
            routers=tuple(self._sent.routers.values()),
            security=security,
        )

    def incremental(self, view: View) -> AssignmentSet:
        """The newest form of everything dirty that differs from what was sent."""
        changed: list[InstanceAssignment] = []
        forgotten: list[str] = []
        zone = zone_of_host(view, self.host_uid)
        for uid in sorted(self.dirty_instances):
            found = view.find(INSTANCE, "uid", uid)
            if not found or found[0].value.host_uid != self.host_uid:
                self._sent.routers.pop(uid, None)
                if self._sent.instances.pop(uid, None) is not None:
                    forgotten.append(uid)
                continue
            if uid not in self._sent.routers:
                self.dirty_routers.setdefault(uid, False)
            instance = found[0].value
            assignment = instance_assignment(instance, zone, stations_of(view, instance), volumes_of(view, instance))
            if self._sent.instances.get(uid) != assignment:
                self._sent.instances[uid] = assignment
                changed.append(assignment)
        added, removed, peer_changes = self._network_changes(view, bool(changed or forgotten))
        routers = self._router_changes(view)
        security = SecurityChange()
        if changed or forgotten or self.dirty_groups:
            security = self._sent.security.update(view, self._nics(), self.dirty_groups)
        self.dirty_instances.clear()
        self.dirty_networks.clear()
        self.dirty_groups.clear()
        self.dirty_routers.clear()
        result = AssignmentSet(
            False,
            self._sequence,
            self._sequence + 1,
            view.revision,
            tuple(changed),
            tuple(added),
            tuple(forgotten),
            tuple(removed),
            tuple(peer_changes),
            tuple(routers),
            security,
        )
        if not result.is_empty:
            self._sequence += 1
        return result

    def _nics(self) -> list[NicAssignment]:
        return [nic for assignment in self._sent.instances.values() for nic in assignment.nics]

    def _router_changes(self, view: View) -> list[RouterBundle]:
        found: list[RouterBundle] = []
        for uid, is_asked_for in sorted(self.dirty_routers.items()):
            bundle = router_bundle(view, instance) if (instance := self._instance(view, uid)) is not None else None
            if bundle is None:
                continue
            sent = self._sent.routers.get(uid)
            if is_asked_for or sent is None or replace(sent, version=bundle.version) != bundle:
                self._sent.routers[uid] = bundle
                found.append(bundle)
        return found

    def _instance(self, view: View, uid: str) -> Instance | None:
        found = view.find(INSTANCE, "uid", uid)
        return found[0].value if found and found[0].value.host_uid == self.host_uid else None

    def _network_changes(
        self, view: View, members_changed: bool
    ) -> tuple[list[tuple[NetworkAssignment, tuple[Peer, ...]]], list[str], list[PeerChange]]:
        added: list[tuple[NetworkAssignment, tuple[Peer, ...]]] = []
        removed: list[str] = []
        peer_changes: list[PeerChange] = []
        wanted = {nic.network_id for a in self._sent.instances.values() for nic in a.nics} if members_changed else None
        if wanted is not None:
            for uid in sorted(set(self._sent.networks) - wanted):
                del self._sent.networks[uid]
                self._sent.peers.pop(uid, None)
                removed.append(uid)
            self.dirty_networks |= wanted - set(self._sent.networks)
        for uid in sorted(self.dirty_networks):
            is_known = uid in self._sent.networks
            if not is_known and (wanted is None or uid not in wanted):
                continue  # a network without a member here
            found = networks_of_uid(view, uid)
            if found is None:
                continue
            peers = peers_of(view, uid, self.host_uid)
            if self._sent.networks.get(uid) != found:
                added.append((found, tuple(peers.values()) if not is_known else ()))
            if is_known:
                before = self._sent.peers[uid]
                upserted = tuple(p for mac, p in peers.items() if before.get(mac) != p)
                gone = tuple(sorted(set(before) - set(peers)))
                if upserted or gone:
                    peer_changes.append(PeerChange(uid, upserted, gone))
            self._sent.networks[uid] = found
            self._sent.peers[uid] = peers
        return added, removed, peer_changes


def networks_of_uid(view: View, uid: str) -> NetworkAssignment | None:
    """One network by its uid."""
    found = view.find(NETWORK, "uid", uid)
    return network_assignment(view, found[0].value) if found else None

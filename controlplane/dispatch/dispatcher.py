"""Turns the store's changes into marks on the sessions that they concern, and keeps the set of sessions.

Which host cares about what: an instance's host about the instance; every host with a member of an isolated network about the
members elsewhere and about the network; the host of an interface about its security groups, and about the members of those that their
rules name, wherever they are; the host of a router's container about all that its configuration depends on; nobody else.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.dispatch.assignments import hosts_of_network, shared_names
from controlplane.dispatch.sessions import HostSession
from controlplane.domain.hosts import Host
from controlplane.domain.instances import DesiredState, Instance
from controlplane.domain.kinds import (
    BALANCER,
    DNS_RECORD,
    HOST,
    INSTANCE,
    NETWORK,
    PUBLIC_ADDRESS,
    ROUTER,
    ROUTER_RULE,
    SECURITY_GROUP,
)
from controlplane.domain.readiness import refuses_traffic, takes_traffic
from controlplane.domain.routers import Router
from controlplane.routers.scene import dependents
from moorage.clock import Clock
from moorage.errors import HistoryCompacted, Unavailable
from moorage.store.base import Batch, Kind, Store

log = logging.getLogger(__name__)

_ROUTER_KINDS: tuple[Kind[Any], ...] = (ROUTER, ROUTER_RULE, BALANCER, PUBLIC_ADDRESS)


@dataclass(frozen=True, slots=True)
class Departure:
    """How a host's last session ended: when its agent was heard last (monotonic seconds), and whether it said that it ends."""

    heard_at: float
    is_farewell: bool


class Dispatcher:
    """All sessions. At most one a host: a newer one ends the older."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sessions: dict[str, HostSession] = {}
        self._departures: dict[str, Departure] = {}
        self.on_sessions: Callable[[], None] = lambda: None  # called whenever one begins or ends

    @property
    def store_id(self) -> str:
        """Tells agents whether the control plane's memory is the one that they know."""
        return self._store.id

    @property
    def term(self) -> int:
        """Of this control plane; raised at every start."""
        return self._store.epoch

    def open(self, host_uid: str, epoch: int) -> HostSession:
        """A new session, instead of the one that the host may have had."""
        old = self._sessions.get(host_uid)
        if old is not None:
            old.close("a newer session of this host has begun")
        session = HostSession(host_uid, epoch)
        session.last_heard = self._clock.monotonic()
        self._sessions[host_uid] = session
        self._departures.pop(host_uid, None)
        self.on_sessions()
        return session

    def closed(self, session: HostSession) -> bool:
        """The session has ended. Returns whether it was the host's newest, so that the host is away now."""
        if self._sessions.get(session.host_uid) is session:
            del self._sessions[session.host_uid]
            self._departures[session.host_uid] = Departure(session.last_heard, session.is_farewell)
            self.on_sessions()
            return True
        return False

    def departure(self, host_uid: str) -> Departure | None:
        """How the last session of a host without one ended; None if it had none since this control plane began."""
        return self._departures.get(host_uid)

    def session(self, host_uid: str) -> HostSession:
        """The host's session.

        Raises:
            Unavailable: HOST_AWAY.
        """
        found = self._sessions.get(host_uid)
        if found is None:
            raise Unavailable("the host's agent is not connected; try again when it is", reason="HOST_AWAY")
        return found

    def sessions(self) -> list[HostSession]:
        """Those that are open."""
        return list(self._sessions.values())

    def end(self, host_uid: str, reason: str) -> None:
        """End a host's session, for example because the host was removed."""
        found = self._sessions.get(host_uid)
        if found is not None:
            found.close(reason)

    async def run(self) -> None:
        """Mark sessions until cancelled."""
        while True:
            _, watch = self._store.view_and_watch((HOST, INSTANCE, NETWORK, DNS_RECORD, SECURITY_GROUP, *_ROUTER_KINDS))
            for session in self._sessions.values():
                self._mark_everything(session)
            async with watch:
                try:
                    async for batch in watch:
                        self._mark(batch)
                except HistoryCompacted:
                    log.info("fell behind the store's history; comparing everything")

    def _mark(self, batch: Batch) -> None:
        touched: set[str] = set()

        def mark(host_uid: str, instance_uid: str = "", network_uid: str = "") -> None:
            session = self._sessions.get(host_uid)
            if session is not None:
                session.mark(instance_uid, network_uid)
                touched.add(host_uid)

        for change in batch.changes:
            before = change.before.value if change.before is not None else None
            after = change.after.value if change.after is not None else None
            if change.kind is INSTANCE:
                self._mark_instance(before, after, mark)
            elif change.kind is NETWORK and after is not None:
                for host_uid in hosts_of_network(self._store.view(), after.uid):
                    mark(host_uid, network_uid=after.uid)
            elif change.kind is DNS_RECORD:
                for uid in {record.network_uid for record in (before, after) if record is not None}:
                    for host_uid in hosts_of_network(self._store.view(), uid):
                        mark(host_uid, network_uid=uid)
            elif change.kind is HOST and _moved(before, after):
                self._mark_neighbours(after or before, mark)
            if change.kind is HOST and before is not None and after is not None and before.zone != after.zone:
                for found in self._store.view().find(INSTANCE, "host", after.uid):
                    mark(after.uid, instance_uid=found.value.uid)
            if change.kind is HOST and after is None and before is not None:
                self.end(before.uid, "this host was removed")
                self._departures.pop(before.uid, None)
            touched |= self._mark_groups(change.kind, before, after)
            if change.kind not in (HOST, DNS_RECORD, SECURITY_GROUP):
                touched |= self._mark_routers(change.kind, before, after)
        for host_uid in touched:
            self._sessions[host_uid].wake()

    def _mark_groups(self, kind: Kind[Any], before: Any, after: Any) -> set[str]:
        """Security groups that changed, or whose members did. Returns the hosts that it concerns."""
        records = [record for record in (before, after) if record is not None]
        groups: set[str] = set()
        networks: set[str] = set()
        if kind is SECURITY_GROUP:
            groups = {record.uid for record in records}
        elif kind is INSTANCE and (before is None or after is None or before.nics != after.nics):
            groups = {uid for record in records for nic in record.nics for uid in nic.security_group_uids}
        elif kind is ROUTER:
            networks = {uid for record in records for uid in record.network_uids}
        if not (groups or networks):
            return set()
        return {
            host_uid
            for host_uid, session in self._sessions.items()
            if session.mark_groups(groups | session.known_groups(networks))
        }

    def _mark_routers(self, kind: Kind[Any], before: Any, after: Any) -> set[str]:
        """Routers whose configuration depends on a record that changed. Returns their hosts."""
        leaves = kind is INSTANCE and after is not None and after.leave_time is not None
        # who leaves waits for a version that is at least as new, whether or not it differs
        is_asked_for = kind in _ROUTER_KINDS or (leaves and (before is None or before.leave_time is None))
        if before is not None and after is not None and _is_observation(kind, before, after):
            return set()
        view = self._store.view()
        touched: set[str] = set()
        routers = {uid for record in (before, after) if record is not None for uid in dependents(view, kind, record)}
        for uid in routers:
            router = next((found.value for found in view.find(ROUTER, "uid", uid)), None)
            for member in view.find(INSTANCE, "owner", router.name) if router is not None else ():
                session = self._sessions.get(member.value.host_uid)
                if session is not None:
                    session.mark_router(member.value.uid, is_asked_for=is_asked_for)
                    touched.add(session.host_uid)
        if kind is ROUTER:
            touched |= self._mark_networks_of(before, after)
        return touched

    def _mark_networks_of(self, before: Router | None, after: Router | None) -> set[str]:
        """A network that comes behind a router, or is no more, has another gateway; so has one whose router becomes a pair."""
        old = set(before.network_uids) if before is not None else set()
        new = set(after.network_uids) if after is not None else set()
        touched: set[str] = set()
        was_redundant = before is not None and before.spec.redundant
        is_redundant = after is not None and after.spec.redundant
        outside = {router.outside_uid for router in (before, after) if router is not None}
        for network_uid in old ^ new if was_redundant == is_redundant else old | new | outside:
            for host_uid in hosts_of_network(self._store.view(), network_uid):
                session = self._sessions.get(host_uid)
                if session is not None:
                    session.mark(network_uid=network_uid)
                    touched.add(host_uid)
        return touched

    def _mark_instance(self, before: Instance | None, after: Instance | None, mark: Callable[..., None]) -> None:
        for instance in (before, after):
            if instance is not None and instance.host_uid:
                mark(instance.host_uid, instance_uid=instance.uid)
        if before is not None and after is not None and _same_place(before, after):
            return
        view = self._store.view()
        networks = {nic.network_uid for instance in (before, after) if instance is not None for nic in instance.nics}
        for network_uid in networks:
            for host_uid in hosts_of_network(view, network_uid):
                mark(host_uid, network_uid=network_uid)

    def _mark_neighbours(self, host: Host | None, mark: Callable[..., None]) -> None:
        """The host's address changed: everybody who sends frames to it must know."""
        if host is None:
            return
        view = self._store.view()
        networks = {nic.network_uid for i in view.find(INSTANCE, "host", host.uid) for nic in i.value.nics}
        for network_uid in networks:
            for host_uid in hosts_of_network(view, network_uid):
                mark(host_uid, network_uid=network_uid)

    def _mark_everything(self, session: HostSession) -> None:
        view = self._store.view()
        for found in view.find(INSTANCE, "host", session.host_uid):
            session.mark(instance_uid=found.value.uid)
            session.mark_router(found.value.uid, is_asked_for=True)
            for nic in found.value.nics:
                session.mark(network_uid=nic.network_uid)
        for uid in session.known_instances():
            session.mark(instance_uid=uid)
        session.mark_groups(found.value.uid for found in view.all(SECURITY_GROUP))
        session.wake()


def _is_observation(kind: Kind[Any], before: Any, after: Any) -> bool:
    """Whether only what agents say has changed, of which no configuration depends."""
    if kind is INSTANCE:
        is_as_good = refuses_traffic(before) == refuses_traffic(after) and takes_traffic(before) == takes_traffic(after)
        return _same_place(before, after) and before.desired is after.desired and is_as_good
    return bool(before.generation == after.generation)


def _same_place(before: Instance, after: Instance) -> bool:
    return before.host_uid == after.host_uid and before.nics == after.nics and _names(before) == _names(after)


def _names(instance: Instance) -> tuple[str, ...]:
    """All that it is found by."""
    if instance.desired is DesiredState.DELETED:
        return ()
    return instance.effective.hostname, instance.id, *shared_names(instance)


def _moved(before: Host | None, after: Host | None) -> bool:
    if before is None or after is None:
        return before is not None
    one, other = before.facts, after.facts
    return (one.underlay_address, one.vxlan_port) != (other.underlay_address, other.vxlan_port)

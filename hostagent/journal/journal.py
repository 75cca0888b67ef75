"""The journal: all that this host was told and did, in memory for reading and in SQLite for surviving.

Changes take effect in memory at once; `commit` returns when everything so far is durable, and whoever acts on a
change calls it first. Losing the newest uncommitted changes is always safe: the control plane sends a COMPLETE set
to each new session, and the host itself is looked at on start.

The host's nonce lies in a file of its own, written once: should the database be lost, our containers are still known
to be ours once the control plane names their instances again (until then they are quarantined, not removed).
"""

import contextlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from hostagent.domain import GroupMembers, InstanceAssignment, NetworkAssignment, Peer, SecurityGroup
from hostagent.journal import codec
from hostagent.journal.state import LinkState, LocalState, PulledImage
from hostagent.journal.writer import GroupWriter, open_database
from moorage.ids import InstanceId, NetworkId
from moorage.router_bundle import RouterBundle

log = logging.getLogger(__name__)

_FILE = "journal.db"
_NONCE_FILE = "nonce"


@dataclass(frozen=True, slots=True)
class PeerChange:
    """Members of one network on other hosts that came, changed or went (by MAC)."""

    network_id: NetworkId
    upserted: tuple[Peer, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnreadableRouter:
    """A configuration of a router that this version of the agent does not understand."""

    instance_id: InstanceId
    version: int
    problem: str


@dataclass(frozen=True, slots=True)
class MembersChange:
    """Members of a security group, as one network reaches them, that came or went; `dropped`: nobody here asks."""

    group_id: str
    network_id: NetworkId
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class AssignmentChange:
    """Some news from the control plane; with `is_complete`, what is not named is not assigned any more."""

    is_complete: bool
    sequence: int
    revision: int
    instances: tuple[InstanceAssignment, ...] = ()
    networks: tuple[NetworkAssignment, ...] = ()  # COMPLETE: with all peers
    forgotten_instances: tuple[InstanceId, ...] = ()
    removed_networks: tuple[NetworkId, ...] = ()
    peer_changes: tuple[PeerChange, ...] = ()
    routers: tuple[RouterBundle, ...] = ()
    unreadable_routers: tuple[UnreadableRouter, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    removed_security_groups: tuple[str, ...] = ()
    members_changes: tuple[MembersChange, ...] = ()  # COMPLETE: all members

    @property
    def touches_security(self) -> bool:
        """Whether interfaces may have to be filtered in another way."""
        return bool(self.security_groups or self.removed_security_groups or self.members_changes)


@dataclass(frozen=True, slots=True)
class _Orphan:
    since: float = 0.0


class Journal:
    """Open one with `Journal.open`; one at a time per folder (main.py holds a lock)."""

    def __init__(self, writer: GroupWriter, nonce: str) -> None:
        self.writer = writer
        self.nonce = nonce
        self.epoch = 0
        self.was_lost = False  # the database could not be read and a new one was begun
        self._link = LinkState()
        self._assignments: dict[InstanceId, InstanceAssignment] = {}
        self._locals: dict[InstanceId, LocalState] = {}
        self._orphans: dict[InstanceId, _Orphan] = {}
        self._networks: dict[NetworkId, NetworkAssignment] = {}
        self._peers: dict[NetworkId, dict[str, Peer]] = {}
        self._groups: dict[str, SecurityGroup] = {}
        self._members: dict[tuple[str, NetworkId], GroupMembers] = {}
        self._images: dict[str, PulledImage] = {}
        self._routers: dict[InstanceId, RouterBundle] = {}
        self._good_routers: dict[InstanceId, RouterBundle] = {}

    @classmethod
    def open(cls, folder: Path, *, now: float) -> Self:
        """Read the journal of a data folder, or begin one.

        Args:
            now: seconds since the epoch. A new epoch is at least this, so that it rises even if the database was lost.
        """
        nonce = _read_nonce(folder / _NONCE_FILE)
        path = folder / _FILE
        was_lost = False
        try:
            connection, rows = open_database(path)
        except sqlite3.DatabaseError as exc:
            aside = _move_aside(path)
            log.error("the journal is damaged and a new one begins", extra={"problem": str(exc), "kept_as": str(aside)})
            was_lost = True
            connection, rows = open_database(path)
        journal = cls(GroupWriter(connection), nonce)
        journal.was_lost = was_lost
        for kind, key, value in rows:
            journal._load(kind, key, value)
        journal.epoch = max(journal.epoch + 1, int(now))
        epoch = journal.epoch
        journal.writer.put("meta", "epoch", lambda: str(epoch))
        return journal

    # Reading.

    @property
    def link(self) -> LinkState:
        """How far the assignments were read."""
        return self._link

    @property
    def assignments(self) -> Mapping[InstanceId, InstanceAssignment]:
        """Every instance that this host carries or still has to remove, orphans included."""
        return MappingProxyType(self._assignments)

    @property
    def orphans(self) -> frozenset[InstanceId]:
        """Instances that the last COMPLETE set no longer named; the sweep decides about them."""
        return frozenset(self._orphans)

    @property
    def networks(self) -> Mapping[NetworkId, NetworkAssignment]:
        """Networks, without their peers."""
        return MappingProxyType(self._networks)

    @property
    def security_groups(self) -> Mapping[str, SecurityGroup]:
        """Security groups that interfaces here carry, by id."""
        return MappingProxyType(self._groups)

    @property
    def group_members(self) -> Mapping[tuple[str, NetworkId], GroupMembers]:
        """Members of groups that rules here name, by group and network."""
        return MappingProxyType(self._members)

    @property
    def images(self) -> Mapping[str, PulledImage]:
        """Images that this agent pulled and did not remove."""
        return MappingProxyType(self._images)

    @property
    def routers(self) -> Mapping[InstanceId, RouterBundle]:
        """The newest configuration of each router here."""
        return MappingProxyType(self._routers)

    def good_router(self, instance_id: InstanceId) -> RouterBundle | None:
        """The configuration of a router that was in force last."""
        return self._good_routers.get(instance_id)

    @property
    def transactions(self) -> int:
        """Transactions since the start, for measurements."""
        return self.writer.transactions

    def peers(self, network_id: NetworkId) -> Mapping[str, Peer]:
        """Members of a network on other hosts, by MAC."""
        return MappingProxyType(self._peers.get(network_id, {}))

    def local(self, instance_id: InstanceId) -> LocalState:
        """What was done for an instance; a fresh value when nothing was."""
        return self._locals.get(instance_id) or LocalState()

    # Writing.

    def set_local(self, instance_id: InstanceId, state: LocalState) -> None:
        """Record what was done for an instance."""
        self._locals[instance_id] = state
        self.writer.put("local", instance_id, lambda: codec.dumps(state))

    def set_good_router(self, bundle: RouterBundle) -> None:
        """Record that a configuration is in force, for the time when a newer one cannot be loaded."""
        self._good_routers[bundle.instance_id] = bundle
        self.writer.put("good_router", bundle.instance_id, lambda: codec.dumps(bundle))

    def set_link(self, link: LinkState) -> None:
        """Record the store, its term and how far it was read."""
        self._link = link
        self.writer.put("link", "", lambda: codec.dumps(link))

    def apply(self, change: AssignmentChange, *, now: float) -> tuple[set[InstanceId], set[NetworkId]]:
        """Take in news. Returns the instances and networks that it touches; call `commit` before acting on them."""
        touched: set[InstanceId] = set()
        networks: set[NetworkId] = set()
        if change.is_complete:
            touched |= self._orphan_all_but({i.instance_id for i in change.instances}, now)
            networks |= self._drop_networks(set(self._networks) - {n.network_id for n in change.networks})
        for network in change.networks:
            networks.add(network.network_id)
            self._set_network(network, with_peers=change.is_complete)
        for peer_change in change.peer_changes:
            networks.add(peer_change.network_id)
            self._change_peers(peer_change.network_id, peer_change.upserted, peer_change.removed)
        for assignment in change.instances:
            touched.add(assignment.instance_id)
            self._set_assignment(assignment)
        for instance_id in change.forgotten_instances:
            touched.add(instance_id)
            self._orphan(instance_id, now)
        self._take_routers(change)
        networks |= self._drop_networks(change.removed_networks)
        self._apply_security(change)
        self.set_link(replace(self._link, revision=change.revision, sequence=change.sequence))
        return touched, networks

    def forget(self, instance_id: InstanceId) -> None:
        """Drop all about an instance of which nothing is left on the host."""
        tables: tuple[tuple[str, dict[InstanceId, Any]], ...] = (
            ("instance", self._assignments),
            ("local", self._locals),
            ("orphan", self._orphans),
            ("router", self._routers),
            ("good_router", self._good_routers),
        )
        for kind, table in tables:
            if table.pop(instance_id, None) is not None:
                self.writer.put(kind, instance_id, None)

    def set_image(self, image: PulledImage) -> None:
        """Record that we pulled or used an image."""
        self._images[image.image] = image
        self.writer.put("image", image.image, lambda: codec.dumps(image))

    def forget_image(self, image: str) -> None:
        """Record that an image is gone."""
        if self._images.pop(image, None) is not None:
            self.writer.put("image", image, None)

    async def commit(self) -> None:
        """Return once all changes so far are durable.

        Raises:
            StoreUnavailable: the disk refused.
        """
        await self.writer.commit()

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

    def _set_assignment(self, assignment: InstanceAssignment) -> None:
        self._assignments[assignment.instance_id] = assignment
        self.writer.put("instance", assignment.instance_id, lambda: codec.dumps(assignment))
        if self._orphans.pop(assignment.instance_id, None) is not None:
            self.writer.put("orphan", assignment.instance_id, None)

    def _orphan_all_but(self, named: set[InstanceId], now: float) -> set[InstanceId]:
        lost = set(self._assignments) - named
        for instance_id in lost:
            self._orphan(instance_id, now)
        return lost

    def _orphan(self, instance_id: InstanceId, now: float) -> None:
        if instance_id in self._assignments and instance_id not in self._orphans:
            orphan = self._orphans[instance_id] = _Orphan(now)
            self.writer.put("orphan", instance_id, lambda: codec.dumps(orphan))

    def _take_routers(self, change: AssignmentChange) -> None:
        """Configurations of those that are not assigned any more stay until nothing of them is left here."""
        if change.is_complete:
            named = {one.instance_id for one in change.routers}
            named |= {one.instance_id for one in change.unreadable_routers}
            for instance_id in self._routers.keys() - named - self._orphans.keys():
                del self._routers[instance_id]
                self.writer.put("router", instance_id, None)
                if self._good_routers.pop(instance_id, None) is not None:
                    self.writer.put("good_router", instance_id, None)
        for bundle in change.routers:
            self._routers[bundle.instance_id] = bundle
            self.writer.put("router", bundle.instance_id, _bundle_text(bundle))

    def _set_network(self, network: NetworkAssignment, *, with_peers: bool) -> None:
        network_id = network.network_id
        bare = self._networks[network_id] = replace(network, peers=())
        self.writer.put("network", network_id, lambda: codec.dumps(bare))
        wanted = {peer.mac: peer for peer in network.peers}
        gone = self._peers.get(network_id, {}).keys() - wanted.keys() if with_peers else ()
        self._change_peers(network_id, wanted.values(), tuple(gone))

    def _change_peers(self, network_id: NetworkId, upserted: Iterable[Peer], removed: Iterable[str]) -> None:
        if network_id not in self._networks:
            return
        peers = self._peers.setdefault(network_id, {})
        for mac in removed:
            if peers.pop(mac, None) is not None:
                self.writer.put("peer", f"{network_id}/{mac}", None)
        for peer in upserted:
            if peers.get(peer.mac) != peer:
                peers[peer.mac] = peer
                self.writer.put("peer", f"{network_id}/{peer.mac}", _later(peer))

    def _drop_networks(self, network_ids: Iterable[NetworkId]) -> set[NetworkId]:
        dropped = {network_id for network_id in network_ids if network_id in self._networks}
        for network_id in dropped:
            self._change_peers(network_id, (), tuple(self._peers.get(network_id, {})))
            self._peers.pop(network_id, None)
            del self._networks[network_id]
            self.writer.put("network", network_id, None)
        return dropped

    def _apply_security(self, change: AssignmentChange) -> None:
        gone_groups, gone_members = (
            set(change.removed_security_groups),
            {(one.group_id, one.network_id) for one in change.members_changes if one.dropped},
        )
        if change.is_complete:
            gone_groups = self._groups.keys() - {group.group_id for group in change.security_groups}
            gone_members = set(self._members)
        for group_id in gone_groups:
            if self._groups.pop(group_id, None) is not None:
                self.writer.put("security_group", group_id, None)
        for pair in gone_members:
            if self._members.pop(pair, None) is not None:
                self.writer.put("group_members", "/".join(pair), None)
        for group in change.security_groups:
            self._groups[group.group_id] = group
            self.writer.put("security_group", group.group_id, _later(group))
        for one in change.members_changes:
            pair = (one.group_id, one.network_id)
            if not one.dropped:
                known = self._members.get(pair)
                addresses = (set(known.addresses if known is not None else ()) - set(one.removed)) | set(one.added)
                members = self._members[pair] = GroupMembers(*pair, tuple(sorted(addresses)))
                self.writer.put("group_members", "/".join(pair), _later(members))

    def _load(self, kind: str, key: str, value: str) -> None:
        try:
            match kind:
                case "meta":
                    self.epoch = int(value)
                case "link":
                    self._link = codec.loads(LinkState, value)
                case "instance":
                    self._assignments[InstanceId(key)] = codec.loads(InstanceAssignment, value)
                case "local":
                    self._locals[InstanceId(key)] = codec.loads(LocalState, value)
                case "orphan":
                    self._orphans[InstanceId(key)] = codec.loads(_Orphan, value)
                case "network":
                    self._networks[NetworkId(key)] = codec.loads(NetworkAssignment, value)
                case "peer":
                    network_id, _, mac = key.partition("/")
                    self._peers.setdefault(NetworkId(network_id), {})[mac] = codec.loads(Peer, value)
                case "router":
                    self._routers[InstanceId(key)] = codec.loads(RouterBundle, value)
                case "good_router":
                    self._good_routers[InstanceId(key)] = codec.loads(RouterBundle, value)
                case "security_group":
                    self._groups[key] = codec.loads(SecurityGroup, value)
                case "group_members":
                    members = codec.loads(GroupMembers, value)
                    self._members[members.group_id, members.network_id] = members
                case "image":
                    self._images[key] = codec.loads(PulledImage, value)
                case _:
                    log.warning("a row of the journal is of a newer version", extra={"kind": kind})
        except ValueError as exc:
            # One unreadable row costs one instance its adoption (it is quarantined), not the agent its start.
            log.error("a row of the journal cannot be read", extra={"kind": kind, "key": key, "problem": str(exc)})


def _later(value: Peer | SecurityGroup | GroupMembers) -> Callable[[], str]:
    return lambda: codec.dumps(value)


def _bundle_text(bundle: RouterBundle) -> Callable[[], str]:
    return lambda: codec.dumps(bundle)


def _read_nonce(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        nonce = path.read_text().strip()
        if nonce:
            return nonce
    nonce = secrets.token_hex(16)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, nonce.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    return nonce


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside

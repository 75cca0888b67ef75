"""The directories of this host's networks, built from the journal when they are asked for and kept until members change."""

from collections.abc import Iterable, Mapping

from hostagent.domain import DesiredState, InstanceAssignment
from hostagent.journal.journal import Journal
from hostagent.names.directory import Directory, Member, build
from hostagent.names.metadata import Response, respond
from hostagent.names.upstream import Upstream, choose
from moorage.ids import InstanceId, NetworkId


class NameBook:
    """What each instance may know: the names of the networks that it is on, and no others."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._directories: dict[NetworkId, Directory] = {}
        self.version = 0  # raised by every change, for whoever keeps what was made of directories

    def forget(self, network_ids: Iterable[NetworkId]) -> None:
        """Members, records or settings of these networks changed."""
        for network_id in network_ids:
            self._directories.pop(network_id, None)
            self.version += 1

    def network_ids(self, instance_id: InstanceId) -> tuple[NetworkId, ...]:
        """The networks of an instance, in the order of its interfaces; none of one that is not assigned here."""
        assignment = self._journal.assignments.get(instance_id)
        return tuple(dict.fromkeys(nic.network_id for nic in assignment.nics)) if assignment else ()

    def describe(self, method: str, path: str, headers: Mapping[str, str], instance_id: InstanceId) -> Response:
        """What an instance is answered about itself."""
        found = self._journal.assignments.get(instance_id)
        return respond(method, path, headers, found, self._journal.networks)

    def directories(self, network_ids: Iterable[NetworkId]) -> list[Directory]:
        """The directories of networks; those that are not known here (yet) are left out."""
        return [directory for network_id in network_ids if (directory := self._directory(network_id)) is not None]

    def upstream(self, instance_id: InstanceId) -> Upstream:
        """Whom an instance's other questions go to."""
        assignment = self._journal.assignments.get(instance_id)
        return choose(assignment, self._journal.networks) if assignment is not None else Upstream()

    def _directory(self, network_id: NetworkId) -> Directory | None:
        found = self._directories.get(network_id)
        network = self._journal.networks.get(network_id)
        if found is None and network is not None:
            found = self._directories[network_id] = build(
                network.domain,
                [subnet.cidr for subnet in network.subnets],
                self._members(network_id),
                network.records,
                self._journal.link.revision,
            )
        return found

    def _members(self, network_id: NetworkId) -> list[Member]:
        members = [
            Member(peer.names + peer.shared_names, peer.addresses) for peer in self._journal.peers(network_id).values()
        ]
        orphans = self._journal.orphans
        for instance_id, assignment in self._journal.assignments.items():
            if instance_id not in orphans and assignment.desired is not DesiredState.DELETED:
                members += _member(assignment, network_id)
        return members


def _member(assignment: InstanceAssignment, network_id: NetworkId) -> list[Member]:
    addresses = [a.partition("/")[0] for nic in assignment.nics if nic.network_id == network_id for a in nic.addresses]
    names = tuple(dict.fromkeys(name for name in (assignment.hostname, assignment.name) if name))
    names += assignment.shared_names
    return [Member(names, tuple(addresses))] if addresses else []

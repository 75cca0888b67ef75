"""The ways in and out of this host's networks: which have an uplink, which ports lead where, and the host's packet
rules.

Blocking; the fabric lets one call run at a time. Keeps in memory, and in `state.py`'s files, what the kernel cannot
tell. Rules are changed by difference where they are as we wrote them, and written whole where they are not.

Invariant: a published port has its reservation, its file and its rules; a call that failed half way is remembered as
unfinished, and the next call for that instance writes its rules whole.
"""

import logging
from collections.abc import Iterable, Sequence

from hostagent.domain import NetworkAssignment, NicAssignment, PublishedPort
from hostagent.netlink import conntrack, docker_user, ports, rules, uplink
from hostagent.netlink.rules import Binding, Transit
from hostagent.netlink.site import Site
from hostagent.netlink.state import NetworkRecord, StateFolder
from moorage.errors import Exhausted, MoorageError
from moorage.ids import InstanceId, NetworkId

_log = logging.getLogger(__name__)


class Gateways:
    """Uplinks and published ports of one host."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = StateFolder(site.run_dir / "state")
        self._reservations = ports.Reservations()
        self._records: dict[NetworkId, NetworkRecord] = {}
        self._bindings: dict[InstanceId, tuple[Binding, ...]] = {}
        self._uplinked: set[NetworkId] = set()  # whose uplink and table this process wrote whole
        self._unfinished: set[InstanceId] = set()
        self._mentioned: set[NetworkId] = set()  # which the host's table knows by more than their ports

    def start(self) -> None:
        """Read what an earlier agent left, reserve its ports again, write the host's rules."""
        self._state.prepare()
        self._records, self._bindings = self._state.load()
        self._forget_vanished()
        for binding in ports.retake(self._reservations, self._all()):
            _log.warning("published port is held by somebody else", extra={"port": binding.host_port})
        self.reassert()

    def close(self) -> None:
        """Free the reservations."""
        self._reservations.close()

    def reassert(self) -> None:
        """Put the host's rules back, whoever removed them."""
        self._write_host_table()
        for problem in docker_user.ensure():
            _log.warning("DOCKER-USER: %s", problem)

    def known(self) -> tuple[set[InstanceId], set[NetworkId]]:
        """Instances with ports, and networks, that are kept here."""
        return set(self._bindings), set(self._records)

    def has_ports(self, instance_id: InstanceId) -> bool:
        """Whether anything is published for an instance."""
        return instance_id in self._bindings or instance_id in self._unfinished

    def destroy(self) -> None:
        """Remove the host's rules and all files. Networks and instances were removed before."""
        self._site.host_nft().run("add table inet moorage\ndelete table inet moorage\n")
        docker_user.remove()
        self._state.destroy()

    # Networks -------------------------------------------------------------------------------------------------------

    def ensure_network(self, assignment: NetworkAssignment) -> None:
        """Bring the uplink of a network that is there in line with the assignment. Raises Exhausted."""
        before = self._records.get(assignment.network_id)
        record = NetworkRecord(
            network_id=assignment.network_id,
            vni=assignment.vni,
            mtu=assignment.mtu,
            subnets=tuple((subnet.cidr, subnet.gateway) for subnet in assignment.subnets),
            egress=assignment.egress,
            transit=before.transit if before is not None else self._free_transit(),
        )
        had_egress = before is not None and before.egress
        if record != before:
            self._records[record.network_id] = record
            self._state.keep_network(record)
        if record.egress or had_egress or self._of(record.network_id):
            self._refresh_uplink(record.network_id)
        if record.egress != had_egress:
            self._write_host_table()

    def forget_network(self, network_id: NetworkId) -> None:
        """Take uplink and ports of a network away, and its transit addresses back. Idempotent."""
        for instance_id, bindings in list(self._bindings.items()):
            rest = tuple(one for one in bindings if one.network_id != network_id)
            if rest != bindings:
                self._replace(instance_id, rest)
        self._uplinked.discard(network_id)
        self._records.pop(network_id, None)
        self._state.drop_network(network_id)
        if network_id in self._mentioned:
            self._write_host_table()

    def _free_transit(self) -> Transit:
        taken = {record.transit.index for record in self._records.values()}
        free = next((index for index in range(rules.TRANSIT_COUNT) if index not in taken), None)
        if free is None:
            raise Exhausted("this host has no transit addresses left for another network")
        return Transit(free)

    def _forget_vanished(self) -> None:
        """Drop what was kept of namespaces that are gone, as after a reboot: the agent makes them anew."""
        site = self._site
        for network_id in [one for one in self._records if not site.host.is_namespace(site.network_path(one))]:
            del self._records[network_id]
            self._state.drop_network(network_id)
        for instance_id, found in list(self._bindings.items()):
            alive = site.host.is_namespace(site.instance_path(instance_id))
            self._keep(instance_id, tuple(one for one in found if alive and one.network_id in self._records))

    # Ports ----------------------------------------------------------------------------------------------------------

    def publish(self, instance_id: InstanceId, wanted: Sequence[PublishedPort], nics: Sequence[NicAssignment]) -> None:
        """Replace the ports of an instance. Raises as LinuxFabric.publish_ports."""
        others = [one for other, found in self._bindings.items() if other != instance_id for one in found]
        after = ports.resolve(wanted, nics, self._records, others, self._bindings.get(instance_id, ()))
        ports.check_free(after, others)
        self._replace(instance_id, after)

    def _replace(self, instance_id: InstanceId, after: tuple[Binding, ...]) -> None:
        """Reserve, keep, then program. A refusal of the reservation changes nothing."""
        before = self._bindings.get(instance_id, ())
        gone, new = ports.moved(before, after)
        if instance_id in self._unfinished:
            self._uplinked -= {one.network_id for one in [*before, *after]}
        elif not gone and not new:
            return
        self._reservations.give_back(gone)
        try:
            self._reservations.take(after)
        except (MoorageError, OSError):
            self._reservations.take(before)
            raise
        was_unfinished = instance_id in self._unfinished
        self._unfinished.add(instance_id)
        self._keep(instance_id, after)
        self._change_uplinks(gone, after if was_unfinished else new)
        delta = rules.host_elements("delete", self._entries(gone)) + rules.host_elements("add", self._entries(new))
        if was_unfinished or not self._site.host_nft().accepts(delta):  # the table is not as we left it
            self._write_host_table()
        self._mentioned |= {one.network_id for one in new}
        self._forget_udp([one for one in [*gone, *new] if one.protocol == "udp"])
        self._unfinished.discard(instance_id)

    def _keep(self, instance_id: InstanceId, bindings: tuple[Binding, ...]) -> None:
        if self._bindings.get(instance_id, ()) == bindings:
            return
        if bindings:
            self._bindings[instance_id] = bindings
        else:
            self._bindings.pop(instance_id, None)
        self._state.keep_ports(instance_id, bindings)

    def _forget_udp(self, changed: Sequence[Binding]) -> None:
        """Let conversations that are under way find the new rules."""
        site = self._site
        conntrack.forget_udp({one.host_port for one in changed})
        for network_id in {one.network_id for one in changed}:
            if site.host.is_namespace(site.network_path(network_id)):
                with site.open_network(network_id) as space, space.entered():
                    conntrack.forget_udp({one.transit_port for one in changed if one.network_id == network_id})

    # Rules ----------------------------------------------------------------------------------------------------------

    def _change_uplinks(self, gone: Sequence[Binding], new: Sequence[Binding]) -> None:
        for network_id in sorted({one.network_id for one in [*gone, *new]}):
            out = [one for one in gone if one.network_id == network_id]
            come = [one for one in new if one.network_id == network_id]
            is_written = network_id in self._uplinked and bool(self._of(network_id))
            if not is_written or not uplink.change(self._site, network_id, out, come):
                self._refresh_uplink(network_id)

    def _refresh_uplink(self, network_id: NetworkId) -> None:
        """Make, repair or remove an uplink, as egress and ports ask for."""
        record, bindings = self._records.get(network_id), self._of(network_id)
        self._uplinked.discard(network_id)
        if record is not None and (record.egress or bindings):
            uplink.enable_forwarding6()
            uplink.ensure(self._site, record, bindings)
            self._uplinked.add(network_id)
        else:
            uplink.remove(self._site, network_id)

    def _write_host_table(self) -> None:
        egress = [record.network_id for record in self._records.values() if record.egress]
        self._site.host_nft().run(rules.host_table(self._entries(self._all()), egress))
        self._mentioned = {*egress, *(one.network_id for one in self._all())}

    def _all(self) -> list[Binding]:
        return [one for _instance, found in sorted(self._bindings.items()) for one in found]

    def _of(self, network_id: NetworkId) -> list[Binding]:
        return [one for one in self._all() if one.network_id == network_id]

    def _entries(self, bindings: Iterable[Binding]) -> list[rules.Entry]:
        known = [(b, self._records[b.network_id]) for b in bindings if b.network_id in self._records]
        return [rules.Entry(b, r.transit, tuple(cidr for cidr, _gateway in r.subnets)) for b, r in known]

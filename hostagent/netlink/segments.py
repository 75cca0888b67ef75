"""The filter before this host's VXLAN segments: which host may send into which network. Blocking; the fabric lets one
call run at a time.

A host is let in before the first forwarding entry that leads to it, and shut out after the last one has gone, so the
filter never stops a frame that could have been answered. What was written is kept in `state.py`'s files: a restarted
agent writes the same again before it knows of any peer, whether the control plane is there or not.

Invariant: a network's VXLAN link exists only while the network has its chain.
"""

from collections.abc import Iterable

from hostagent.domain import Peer
from hostagent.netlink import segment_rules
from hostagent.netlink.segment_rules import Segment, ends_of
from hostagent.netlink.site import Site
from hostagent.netlink.state import StateFolder
from moorage.ids import NetworkId


class Segments:
    """Segments of one host. `start` first."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = StateFolder(site.run_dir / "state")
        self._segments: dict[NetworkId, Segment] = {}

    def start(self) -> None:
        """Read what an earlier agent left and write it again; forget networks that are gone, as after a reboot."""
        for network_id, segment in self._state.load_segments().items():
            if self._site.host.is_namespace(self._site.network_path(network_id)):
                self._segments[network_id] = segment
            else:
                self._state.drop_segment(network_id)
        self.reassert()

    def reassert(self) -> None:
        """Put the rules back, whoever removed them."""
        self._site.host_nft().run(segment_rules.whole(self._site.vxlan_port, self._segments))

    def has(self, network_id: NetworkId) -> bool:
        """Whether a network has its chain."""
        return network_id in self._segments

    def open(self, network_id: NetworkId, vni: int, peers: Iterable[Peer]) -> None:
        """A network with its identifier, before its VXLAN link is made; else as `admit`."""
        known = self._segments.get(network_id, Segment(vni)).ends
        self._put(network_id, Segment(vni, known | ends_of(peers)))

    def admit(self, network_id: NetworkId, peers: Iterable[Peer]) -> None:
        """Let the hosts of these members in, besides those that are: before anything leads to them."""
        self.open(network_id, self._segments[network_id].vni, peers)

    def restrict(self, network_id: NetworkId, peers: Iterable[Peer]) -> None:
        """Shut out all but the hosts of these members: after nothing leads to the others any more."""
        self._put(network_id, Segment(self._segments[network_id].vni, ends_of(peers)))

    def remove(self, network_id: NetworkId) -> None:
        """Forget a network whose VXLAN link is gone. Idempotent."""
        self._put(network_id, None)
        self._state.drop_segment(network_id)

    def destroy(self) -> None:
        """Remove the table; networks were removed before."""
        self._site.host_nft().run(f"add table {segment_rules.TABLE}\ndelete table {segment_rules.TABLE}\n")

    def _put(self, network_id: NetworkId, segment: Segment | None) -> None:
        if self._segments.get(network_id) == segment:
            return
        after = dict(self._segments)
        if segment is None:
            after.pop(network_id)
        else:
            after[network_id] = segment
        delta = segment_rules.difference(self._segments, after)
        if not self._site.host_nft().accepts(delta):  # the table is not as we left it
            self._site.host_nft().run(segment_rules.whole(self._site.vxlan_port, after))
        self._segments = after
        if segment is not None:
            self._state.keep_segment(network_id, segment)

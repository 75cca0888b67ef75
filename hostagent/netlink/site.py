"""What every part of the plumbing needs to know of this host, in one value."""

import contextlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from hostagent.netlink import names
from hostagent.netlink.guard import Family
from hostagent.netlink.namespaces import HostNamespace, Namespace
from hostagent.netlink.nft import Nft, NftContexts
from hostagent.netlink.state import StateFolder
from moorage.ids import InstanceId, NetworkId

OUR_MARK = "moorage:"  # what the alias of a link of any agent's begins with


@dataclass(frozen=True, slots=True)
class Site:
    """One host. `alias` marks links of ours in the host's namespace: another agent's are not ours to remove."""

    host: HostNamespace
    run_dir: Path
    underlay: ipaddress.IPv4Address | ipaddress.IPv6Address
    vxlan_port: int
    guard: Family
    contexts: NftContexts

    @property
    def alias(self) -> str:
        """The mark on links in the host's namespace."""
        return f"{OUR_MARK}{self.run_dir}"

    @property
    def state(self) -> StateFolder:
        """What the kernel cannot tell."""
        return StateFolder(self.run_dir / "state")

    def network_path(self, network_id: NetworkId) -> Path:
        """Where an isolated network's namespace is bound."""
        return names.network_namespace(self.run_dir, network_id)

    def instance_path(self, instance_id: InstanceId) -> Path:
        """Where an instance's namespace is bound."""
        return names.instance_namespace(self.run_dir, instance_id)

    def open_network(self, network_id: NetworkId) -> Namespace:
        """Open an isolated network's namespace. Raises NotFound."""
        return Namespace.open(self.host, self.network_path(network_id))

    def host_nft(self) -> Nft:
        """Packet rules of the host's namespace."""
        return self.contexts.of("host", contextlib.nullcontext)

    def instance_nft(self, space: Namespace) -> Nft:
        """Packet rules of an instance's namespace."""
        return self.contexts.of(space.path.name, space.entered)

    def network_nft(self, space: Namespace) -> Nft:
        """Packet rules of an isolated network's namespace."""
        return self.contexts.of(space.path.name, space.entered)

"""What can be asked of route netlink here: links, addresses, routes, neighbours, forwarding entries. Values in,
messages out.

Only what Moorage needs is here. Each function makes one `Message`; nothing is sent. `parse_*` reads the kernel's
answers.
"""

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hostagent.netlink.rtnl import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Rtnl,
    attr,
    attributes,
    nest,
    text,
    u8,
    u16be,
    u32,
)

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_PROTINFO, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_STATS64 = 12, 18, 20, 23
_IFLA_GROUP, _DOOMED = 27, 0x6D6F6F72
_IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_LINK_NETNSID = 26, 28, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_DATA = 1, 2, 5
_IFLA_OPERSTATE, _OPERSTATE_UP = 16, b"\x06"
_PORT_STATE, _PORT_STATE_FORWARDING = 1, b"\x03"
_READY_SECONDS = 1.0
_IFLA_INET6_ADDR_GEN_MODE = 8
_IFF_UP = 1
_PORT_MODE, _PORT_LEARNING = 4, 8  # IFLA_BRPORT_*
_BRIDGE_AGEING, _BRIDGE_STP, _BRIDGE_MCAST_SNOOPING = 4, 5, 23  # IFLA_BR_*
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PROXY, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 11, 15, 17
_VXLAN_UDP_CSUM = 18
_NDA_DST, _NDA_LLADDR, _NDA_PORT = 1, 2, 6
_NTF_SELF, _NTF_MASTER, _NTF_STICKY = 0x02, 0x04, 0x40
_NUD_REACHABLE, _NUD_NOARP, _NUD_PERMANENT = 0x02, 0x40, 0x80
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_IFA_F_NOPREFIXROUTE = 0x200
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
MAIN_TABLE, _RTN_UNICAST = 254, 1
_LOCAL_TABLE, _RTN_LOCAL = 255, 2
RTPROT_BOOT, _RTPROT_STATIC = 3, 4
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
_LOOPBACK = 1  # the index of lo in every namespace

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL})
FLOOD_MAC = "00:00:00:00:00:00"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def mac_bytes(mac: str) -> bytes:
    """02:00:00:00:00:01 as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(data: bytes) -> str:
    """Six bytes as 02:00:00:00:00:01."""
    return data.hex(":")


def link_down_info(index: int) -> bytes:
    """The head of a message that takes a link down."""
    return struct.pack("=BxHiII", 0, 0, index, 0, _IFF_UP)


def ifinfo(index: int = 0, *, up: bool = False, family: int = 0) -> bytes:
    """The head of a message about a link."""
    flags = _IFF_UP if up else 0
    return struct.pack("=BxHiII", family, 0, index, flags, flags)


# Links --------------------------------------------------------------------------------------------------------------


def veth_add(
    name: str, *, index: int, mac: str, mtu: int, peer: str, peer_mac: str = "", peer_ns_fd: int = -1
) -> Message:
    """A veth pair: `name` here, `peer` in the namespace of `peer_ns_fd` (or here as well). `index` 0 lets the kernel
    choose."""
    other = ifinfo() + text(_IFLA_IFNAME, peer) + u32(_IFLA_MTU, mtu)
    if peer_mac:
        other += attr(_IFLA_ADDRESS, mac_bytes(peer_mac))
    if peer_ns_fd >= 0:
        other += u32(_IFLA_NET_NS_FD, peer_ns_fd)
    body = ifinfo(index) + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu)
    if mac:
        body += attr(_IFLA_ADDRESS, mac_bytes(mac))
    body += nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), nest(_IFLA_INFO_DATA, nest(1, other)))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what=f"add veth {name} - {peer}")


def bridge_add(name: str, *, mac: str, mtu: int) -> Message:
    """A bridge that floods all multicast (no querier lives here, so snooping would starve groups) and runs no STP."""
    data = u32(_BRIDGE_STP, 0) + u8(_BRIDGE_MCAST_SNOOPING, 0)
    body = ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + attr(_IFLA_ADDRESS, mac_bytes(mac))
    body += nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"), nest(_IFLA_INFO_DATA, data))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what=f"add bridge {name}")


def vxlan_add(name: str, *, vni: int, local: Address, port: int, mtu: int, ns_fd: int) -> Message:
    """A VXLAN link in the namespace of `ns_fd` whose UDP socket is in the namespace of the netlink socket that sends
    this. It learns nothing: see `vxlan_set`."""
    data = u32(_VXLAN_ID, vni) + u8(_VXLAN_LEARNING, 0) + u8(_VXLAN_PROXY, 1) + u16be(_VXLAN_PORT, port)
    # what is inside has checksums of its own; over IPv6 the outer one is not optional
    if local.version == 4:
        data += attr(_VXLAN_LOCAL, local.packed) + u8(_VXLAN_UDP_CSUM, 0)
    else:
        data += attr(_VXLAN_LOCAL6, local.packed)
    body = ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + u32(_IFLA_NET_NS_FD, ns_fd)
    body += nest(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vxlan"), nest(_IFLA_INFO_DATA, data))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what=f"add vxlan {name} (VNI {vni})")


def vxlan_set(index: int, *, learning: bool) -> Message:
    """Whether a VXLAN link learns, from the frames that come, where a MAC without an entry of ours lives."""
    body = ifinfo(index) + nest(
        _IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vxlan"), nest(_IFLA_INFO_DATA, u8(_VXLAN_LEARNING, int(learning)))
    )
    return Message(_RTM_NEWLINK, 0, body, what=f"set vxlan {index}")


def link_set(
    name: str = "",
    *,
    index: int = 0,
    up: bool = False,
    master: int = 0,
    mtu: int = 0,
    mac: str = "",
    alias: str = "",
    no_link_local: bool = False,
) -> Message:
    """Change a link named by name or index: only what is given."""
    body = ifinfo(index, up=up)
    if name:
        body += text(_IFLA_IFNAME, name)
    if master:
        body += u32(_IFLA_MASTER, master)
    if mtu:
        body += u32(_IFLA_MTU, mtu)
    if mac:
        body += attr(_IFLA_ADDRESS, mac_bytes(mac))
    if alias:
        body += attr(_IFLA_IFALIAS, alias.encode())
    if no_link_local:
        body += nest(_IFLA_AF_SPEC, nest(socket.AF_INET6, u8(_IFLA_INET6_ADDR_GEN_MODE, 1)))
    return Message(_RTM_NEWLINK, 0, body, what=f"set link {name or index}")


def port_set(index: int, *, learning: bool) -> Message:
    """Options of a bridge port: with learning off only entries that we set decide where a MAC lives."""
    body = ifinfo(index, family=socket.AF_BRIDGE) + nest(_IFLA_PROTINFO, u8(_PORT_LEARNING, int(learning)))
    return Message(_RTM_SETLINK, 0, body, what=f"set bridge port {index}")


def link_delete(name: str = "", *, index: int = 0) -> Message:
    """Remove a link; one that is not there is fine."""
    body = ifinfo(index) + (text(_IFLA_IFNAME, name) if name else b"")
    return Message(_RTM_DELLINK, 0, body, tolerate=_GONE, what=f"delete link {name or index}")


def delete_together(indexes: Iterable[int]) -> list[Message]:
    """Remove several links at the price of one: all are put into a group of ours, and that is deleted."""
    messages = [
        Message(_RTM_NEWLINK, 0, ifinfo(index) + u32(_IFLA_GROUP, _DOOMED), tolerate=_GONE, what=f"doom link {index}")
        for index in indexes
    ]
    return [
        *messages,
        Message(_RTM_DELLINK, 0, ifinfo() + u32(_IFLA_GROUP, _DOOMED), tolerate=_GONE, what="delete links"),
    ]


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One link as the kernel has it."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    master: int
    kind: str
    alias: str
    other_namespace: bool  # its lower end (veth peer, VXLAN socket) is in another namespace
    data: dict[int, bytes] = field(default_factory=dict)
    stats: bytes = b""
    is_operational: bool = False  # up, with a carrier that the kernel has acted upon
    is_forwarding: bool = False  # as a port of a bridge
    lower: int = 0  # index of the link that it stands on, or is paired with, in that one's namespace
    is_learning_port: bool = False  # of a bridge

    @property
    def is_learning_vxlan(self) -> bool:
        """Whether a VXLAN link learns."""
        return self.data.get(_VXLAN_LEARNING) == b"\1"

    def is_vxlan(self, vni: int, local: Address, port: int) -> bool:
        """Whether it is this VXLAN link, its socket outside."""
        wanted = struct.pack("=I", vni), struct.pack(">H", port), local.packed
        here = self.data.get(_VXLAN_LOCAL if local.version == 4 else _VXLAN_LOCAL6, b"")
        proxied = self.data.get(_VXLAN_PROXY) == b"\1"
        same = (self.data.get(_VXLAN_ID), self.data.get(_VXLAN_PORT), here) == wanted
        return self.kind == "vxlan" and self.other_namespace and proxied and same


def _parse_link(payload: bytes) -> LinkInfo:
    _family, _type, index, flags, _change = struct.unpack_from("=BxHiII", payload)
    found = attributes(payload, 16)
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    as_port = attributes(info.get(_IFLA_INFO_SLAVE_DATA, b""))
    return LinkInfo(
        index=index,
        name=found[_IFLA_IFNAME].rstrip(b"\0").decode(),
        mac=mac_text(found.get(_IFLA_ADDRESS, b"")),
        mtu=struct.unpack("=I", found[_IFLA_MTU])[0],
        up=bool(flags & _IFF_UP),
        master=struct.unpack("=I", found[_IFLA_MASTER])[0] if _IFLA_MASTER in found else 0,
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        alias=found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        other_namespace=_IFLA_LINK_NETNSID in found,
        data=attributes(info.get(_IFLA_INFO_DATA, b"")),
        stats=found.get(_IFLA_STATS64, b""),
        lower=struct.unpack("=I", found[_IFLA_LINK])[0] if _IFLA_LINK in found else 0,
        is_operational=found.get(_IFLA_OPERSTATE) == _OPERSTATE_UP,
        is_forwarding=as_port.get(_PORT_STATE) == _PORT_STATE_FORWARDING,
        is_learning_port=as_port.get(_PORT_LEARNING) == b"\1",
    )


def list_links(rtnl: Rtnl) -> dict[str, LinkInfo]:
    """All links of the socket's namespace by name."""
    return {link.name: link for link in map(_parse_link, rtnl.dump(_RTM_GETLINK, ifinfo()))}


def find_link(rtnl: Rtnl, name: str) -> LinkInfo | None:
    """One link by name."""
    answer = rtnl.get(_RTM_GETLINK, ifinfo() + text(_IFLA_IFNAME, name))
    return None if answer is None else _parse_link(answer)


def wait_ready(rtnl: Rtnl, name: str, *, as_port: bool = False) -> None:
    """Block until a link that was just set up can carry packets, at most a second.

    The kernel acts on a veth's carrier a moment after both ends are up, in a thread of its own. Until then the first packets are
    dropped (the next ARP request goes out a second later), a bridge's port does not forward, and IPv6 addresses cannot be bound.
    On kernels from 6.8 on, asking for the link makes it happen.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        link = find_link(rtnl, name)
        if link is None or (link.is_operational and (link.is_forwarding or not as_port)):
            return
        if time.monotonic() > deadline:
            return
        time.sleep(0.001)


# Addresses and routes -----------------------------------------------------------------------------------------------


def _ifaddr(index: int, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface, flags: int) -> bytes:
    address = interface.ip
    body = struct.pack("=BBBBI", _family(address), interface.network.prefixlen, flags & 0xFF, _SCOPE_UNIVERSE, index)
    return body + attr(_IFA_LOCAL, address.packed) + attr(_IFA_ADDRESS, address.packed) + u32(_IFA_FLAGS, flags)


def address_add(index: int, interface: str, *, valid_seconds: int = 0) -> Message:
    """An address with prefix length, for so long (0: for good). Duplicate detection is off: the control plane's
    allocator knows that it is free."""
    parsed = ipaddress.ip_interface(interface)
    flags = (0 if valid_seconds else _IFA_F_PERMANENT) | (_IFA_F_NODAD if parsed.version == 6 else 0)
    body = _ifaddr(index, parsed, flags)
    if valid_seconds:
        body += attr(_IFA_CACHEINFO, struct.pack("=IIII", valid_seconds, valid_seconds, 0, 0))
    return Message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, what=f"add {interface}")


def address_delete(index: int, interface: str) -> Message:
    """Remove an address; one that is not there is fine."""
    body = _ifaddr(index, ipaddress.ip_interface(interface), 0)
    return Message(_RTM_DELADDR, 0, body, tolerate=_GONE, what=f"delete {interface}")


def list_addresses(rtnl: Rtnl) -> dict[int, set[str]]:
    """All addresses by link index, as `10.1.0.5/24`."""
    found: dict[int, set[str]] = {}
    for index, address, _is_permanent in _addresses(rtnl):
        found.setdefault(index, set()).add(address)
    return found


def addresses_of(rtnl: Rtnl, index: int, *, is_permanent: bool = True) -> set[str]:
    """The addresses of one link that were set for good (or, instead, those that will run out), link-local ones left out."""
    return {
        address
        for of, address, permanent in _addresses(rtnl)
        if of == index and permanent == is_permanent and not address.startswith("fe80:")
    }


def _addresses(rtnl: Rtnl) -> Iterator[tuple[int, str, bool]]:
    for payload in rtnl.dump(_RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        _f, prefix, flags, _scope, index = struct.unpack_from("=BBBBI", payload)
        parts = attributes(payload, 8)
        packed = parts.get(_IFA_LOCAL) or parts[_IFA_ADDRESS]
        yield index, f"{ipaddress.ip_address(packed)}/{prefix}", bool(flags & _IFA_F_PERMANENT)


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route. `gateway` None: on the link itself."""

    destination: str  # CIDR; 0.0.0.0/0 and ::/0 are the defaults
    gateway: str | None
    index: int
    table: int = MAIN_TABLE
    protocol: int = RTPROT_BOOT  # who set it


def _route(route: Route) -> bytes:
    network = ipaddress.ip_network(route.destination)
    scope = _SCOPE_LINK if route.gateway is None and network.version == 4 else _SCOPE_UNIVERSE
    family = _family(network.network_address)
    body = struct.pack(
        "=BBBBBBBBI",
        family,
        network.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        route.protocol,
        scope,
        _RTN_UNICAST,
        0,
    )
    body += u32(_RTA_TABLE, route.table)
    if network.prefixlen:
        body += attr(_RTA_DST, network.network_address.packed)
    if route.gateway is not None:
        body += attr(_RTA_GATEWAY, ipaddress.ip_address(route.gateway).packed)
    return body + u32(_RTA_OIF, route.index)


def route_add(route: Route) -> Message:
    """Add or replace a route."""
    what = f"add route {route.destination} via {route.gateway}"
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route(route), what=what)


def local_route_add(address: str) -> Message:
    """Make an address one of the namespace's own without giving it to an interface: it is on no list of addresses, and
    never chosen as a source for elsewhere.
    """
    packed = ipaddress.IPv4Address(address).packed
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, _LOCAL_TABLE, RTPROT_BOOT, _SCOPE_HOST, _RTN_LOCAL, 0)
    body += attr(_RTA_DST, packed) + u32(_RTA_OIF, _LOOPBACK)
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, what=f"add local address {address}")


def route_delete(route: Route) -> Message:
    """Remove a route; one that is not there is fine."""
    return Message(_RTM_DELROUTE, 0, _route(route), tolerate=_GONE, what=f"delete route {route.destination}")


def list_routes(rtnl: Rtnl, *, with_static: bool = False) -> set[Route]:
    """The routes that were set by hand (protocol boot; on request also static) in any table; the kernel's own follow the
    addresses.
    """
    protocols = (RTPROT_BOOT, _RTPROT_STATIC) if with_static else (RTPROT_BOOT,)
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for payload in rtnl.dump(_RTM_GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
            _f, prefix, _s, _tos, table, protocol, _scope, kind, _flags = struct.unpack_from("=BBBBBBBBI", payload)
            if protocol not in protocols or kind != _RTN_UNICAST:
                continue
            parts = attributes(payload, 12)
            if _RTA_TABLE in parts:
                table = struct.unpack("=I", parts[_RTA_TABLE])[0]
            blank = bytes(4 if family == socket.AF_INET else 16)
            destination = f"{ipaddress.ip_address(parts.get(_RTA_DST, blank))}/{prefix}"
            gateway = str(ipaddress.ip_address(parts[_RTA_GATEWAY])) if _RTA_GATEWAY in parts else None
            index = struct.unpack("=I", parts[_RTA_OIF])[0] if _RTA_OIF in parts else 0
            found.add(Route(destination, gateway, index, table, protocol))
    return found


# Neighbours and forwarding entries ----------------------------------------------------------------------------------


def _neighbour(family: int, index: int, state: int, flags: int) -> bytes:
    return struct.pack("=BxHiHBB", family, 0, index, state, flags, 0)


def neighbour_add(index: int, address: str, mac: str) -> Message:
    """A permanent ARP or ND entry."""
    parsed = ipaddress.ip_address(address)
    body = _neighbour(_family(parsed), index, _NUD_PERMANENT, 0)
    body += attr(_NDA_DST, parsed.packed) + attr(_NDA_LLADDR, mac_bytes(mac))
    return Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, what=f"add neighbour {address}")


def neighbour_delete(index: int, address: str) -> Message:
    """Remove an ARP or ND entry; one that is not there is fine."""
    parsed = ipaddress.ip_address(address)
    body = _neighbour(_family(parsed), index, 0, 0) + attr(_NDA_DST, parsed.packed)
    return Message(_RTM_DELNEIGH, 0, body, tolerate=_GONE, what=f"delete neighbour {address}")


def list_neighbours(rtnl: Rtnl, index: int) -> dict[str, str]:
    """The permanent entries of one link: address -> MAC."""
    found = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for payload in rtnl.dump(_RTM_GETNEIGH, _neighbour(family, 0, 0, 0) + u32(8, index)):  # NDA_IFINDEX
            _f, of, state, _flags, _type = struct.unpack_from("=BxxxiHBB", payload)
            parts = attributes(payload, 12)
            if of == index and state & _NUD_PERMANENT and _NDA_LLADDR in parts:
                found[str(ipaddress.ip_address(parts[_NDA_DST]))] = mac_text(parts[_NDA_LLADDR])
    return found


def fdb_remote_add(index: int, mac: str, host: str, port: int) -> list[Message]:
    """`mac` lives behind this VXLAN link at `host`:`port`, on the link and on its bridge. The flood entry is the
    link's only.

    Two messages for a replaced entry: VXLAN replaces the remote of a MAC only when asked for that alone.
    """
    packed = ipaddress.ip_address(host).packed
    remote = attr(_NDA_LLADDR, mac_bytes(mac)) + attr(_NDA_DST, packed) + u16be(_NDA_PORT, port)
    state = _NUD_NOARP | _NUD_REACHABLE
    what = f"add forwarding {mac} to {host}:{port}"
    if mac == FLOOD_MAC:
        from_append = 0x800 | NLM_F_CREATE  # NLM_F_APPEND: one flood entry a host
        body = _neighbour(socket.AF_BRIDGE, index, state, _NTF_SELF) + remote
        return [Message(_RTM_NEWNEIGH, from_append, body, tolerate=frozenset({errno.EEXIST}), what=what)]
    own = _neighbour(socket.AF_BRIDGE, index, state, _NTF_SELF) + remote
    return [
        Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, own, what=what),
        fdb_local_add(index, mac),
    ]


def fdb_remote_delete(index: int, mac: str, host: str, port: int) -> list[Message]:
    """Undo of `fdb_remote_add`."""
    body = _neighbour(socket.AF_BRIDGE, index, 0, _NTF_SELF) + attr(_NDA_LLADDR, mac_bytes(mac))
    body += attr(_NDA_DST, ipaddress.ip_address(host).packed) + u16be(_NDA_PORT, port)
    gone = Message(_RTM_DELNEIGH, 0, body, tolerate=_GONE, what=f"delete forwarding {mac} to {host}:{port}")
    return [gone] if mac == FLOOD_MAC else [gone, fdb_local_delete(index, mac)]


def fdb_local_add(index: int, mac: str) -> Message:
    """`mac` lives behind this bridge port, for good: no frame that comes in elsewhere moves it."""
    body = _neighbour(socket.AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY) + attr(
        _NDA_LLADDR, mac_bytes(mac)
    )
    return Message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, what=f"add forwarding {mac} on port {index}")


def fdb_local_delete(index: int, mac: str) -> Message:
    """Undo of `fdb_local_add`."""
    body = _neighbour(socket.AF_BRIDGE, index, 0, _NTF_MASTER) + attr(_NDA_LLADDR, mac_bytes(mac))
    return Message(_RTM_DELNEIGH, 0, body, tolerate=_GONE, what=f"delete forwarding {mac} on port {index}")


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What a VXLAN link and its port know: `remote` as (mac, host, port), `on_bridge` the static MACs of its bridge
    port."""

    remote: frozenset[tuple[str, str, int]]
    on_bridge: frozenset[str]


def list_forwarding(rtnl: Rtnl, index: int, default_port: int) -> Forwarding:
    """The forwarding entries of one VXLAN link but for what it learned. The kernel leaves out a port that is the link's own."""
    remote, on_bridge = set(), set()
    for payload in rtnl.dump(_RTM_GETNEIGH, _neighbour(socket.AF_BRIDGE, index, 0, 0)):
        _f, of, state, _flags, _type = struct.unpack_from("=BxxxiHBB", payload)
        parts = attributes(payload, 12)
        if of != index or _NDA_LLADDR not in parts or not state & _NUD_NOARP:
            continue
        mac = mac_text(parts[_NDA_LLADDR])
        if _NDA_DST in parts:
            port = struct.unpack(">H", parts[_NDA_PORT])[0] if _NDA_PORT in parts else default_port
            remote.add((mac, str(ipaddress.ip_address(parts[_NDA_DST])), port))
        else:
            on_bridge.add(mac)
    return Forwarding(frozenset(remote), frozenset(on_bridge))


def unique(messages: Iterable[Message]) -> list[Message]:
    """The messages in order, equal ones once."""
    return list(dict.fromkeys(messages))

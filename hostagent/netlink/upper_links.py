"""Links that stand on another link of the host (macvlan, 802.1Q), and links that move between namespaces. Values in, messages out."""

import struct

from hostagent.domain import MacvlanMode
from hostagent.netlink.links import ifinfo, link_down_info, mac_bytes
from hostagent.netlink.rtnl import NLM_F_CREATE, NLM_F_EXCL, Message, attr, nest, text, u32

_RTM_NEWLINK = 16
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 4, 5, 18
_IFLA_IFALIAS, _IFLA_NET_NS_FD = 20, 28
_INFO_KIND, _INFO_DATA = 1, 2
_MACVLAN_MODE, _VLAN_ID = 1, 1
_MODES = {MacvlanMode.PRIVATE: 1, MacvlanMode.VEPA: 2, MacvlanMode.BRIDGE: 4, MacvlanMode.PASSTHRU: 8}


def macvlan_add(name: str, *, lower: int, mode: MacvlanMode, mac: str, mtu: int, ns_fd: int, index: int) -> Message:
    """A macvlan link on the link `lower` of the sender's namespace, in the namespace of `ns_fd`. `index` 0: the kernel chooses."""
    data = u32(_MACVLAN_MODE, _MODES[mode])
    body = ifinfo(index) + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + u32(_IFLA_LINK, lower)
    body += attr(_IFLA_ADDRESS, mac_bytes(mac)) + u32(_IFLA_NET_NS_FD, ns_fd)
    body += nest(_IFLA_LINKINFO, text(_INFO_KIND, "macvlan"), nest(_INFO_DATA, data))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what=f"add macvlan {name}")


def is_macvlan(data: dict[int, bytes], mode: MacvlanMode) -> bool:
    """Whether a link's data are those of a macvlan of this mode."""
    return data.get(_MACVLAN_MODE) == struct.pack("=I", _MODES[mode])


def vlan_add(name: str, *, lower: int, vlan_id: int, alias: str) -> Message:
    """An 802.1Q link on another, beside it."""
    data = attr(_VLAN_ID, struct.pack("=H", vlan_id))
    body = ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_LINK, lower)
    body += nest(_IFLA_LINKINFO, text(_INFO_KIND, "vlan"), nest(_INFO_DATA, data))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what=f"add VLAN {vlan_id}")


def move(index: int, *, name: str, ns_fd: int) -> Message:
    """Take a link down and into another namespace, under another name."""
    body = link_down_info(index) + text(_IFLA_IFNAME, name) + u32(_IFLA_NET_NS_FD, ns_fd)
    return Message(_RTM_NEWLINK, 0, body, what=f"move link {index} as {name}")


def set_down(index: int) -> Message:
    """Take a link down."""
    return Message(_RTM_NEWLINK, 0, link_down_info(index), what=f"take link {index} down")

"""Forget UDP conversations whose port was published, changed or taken back. Blocking.

The kernel decides on address translation with the first packet of a conversation and keeps to it while packets flow. A
TCP client sees a reset and connects anew; a UDP client that goes on from the same port would never notice that its
server is somewhere else now. So when UDP ports change, the tracked conversations to them are deleted, in the host's
namespace and in the network's.
"""

import errno
import socket
import struct
from collections.abc import Collection

from hostagent.netlink.rtnl import Message, Rtnl, attr, attributes, nest

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # conntrack
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _ID = 1, 12
_TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 2, 1, 3
_UDP = 17


def forget_udp(ports: Collection[int]) -> int:
    """Delete UDP conversations to these destination ports in the calling thread's namespace; how many there were."""
    if not ports:
        return 0
    found: list[Message] = []
    with Rtnl(_NETLINK_NETFILTER) as netfilter:
        for family in (socket.AF_INET, socket.AF_INET6):
            head = struct.pack("=BBH", family, 0, 0)
            for payload in netfilter.dump(_SUBSYSTEM | _GET, head):
                parts = attributes(payload, 4)
                original = parts.get(_TUPLE_ORIG, b"")
                protocol = attributes(attributes(original).get(_TUPLE_PROTO, b""))
                if protocol.get(_PROTO_NUM) != bytes([_UDP]) or _PROTO_DST_PORT not in protocol:
                    continue
                if struct.unpack(">H", protocol[_PROTO_DST_PORT])[0] in ports:
                    body = head + nest(_TUPLE_ORIG, original) + attr(_ID, parts[_ID])
                    gone = frozenset({errno.ENOENT})
                    found.append(Message(_SUBSYSTEM | _DELETE, 0, body, tolerate=gone, what="forget conversation"))
        netfilter.run(found)
    return len(found)

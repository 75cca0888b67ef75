"""Sockets inside an instance's namespace on which the agent answers for the host. Blocking; in a worker thread.

Instances ask 127.0.0.11 port 53 for names and 169.254.169.254 port 80 for what they are (a route makes that address
local, so no packet to it leaves), and may have servers of their own on those ports of every address. So ours listen on
ports that nobody takes, and rules in the instance's namespace write the port in and out of packets on its loopback.
Not by NAT: that would make the kernel track every connection of the instance, which costs each packet. The rules stand
where connection tracking, should something else use it there, sees one and the same port in both directions: questions
are changed after it, answers before.

A socket keeps its namespace alive: whoever removes an instance closes them first.

Ours get descriptors from 1024 up: libnftables waits with select(2), which ends the process when it is given a higher
one, so the low ones are left to it.
"""

import contextlib
import errno
import fcntl
import socket
from dataclasses import dataclass

from hostagent.netlink import links
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.site import Site
from moorage.ids import InstanceId

DNS_ADDRESS, METADATA_ADDRESS = "127.0.0.11", "169.254.169.254"
_DNS_PORT, _HTTP_PORT = 53, 80
# Above the range from which the kernel gives ports to clients, and used by nothing that is known.
_LISTEN_DNS, _LISTEN_HTTP = 65053, 65080
_BACKLOG = 16
_FIRST_DESCRIPTOR = 1024


@dataclass(frozen=True, slots=True)
class NameSockets:
    """Bound, listening, not blocking. The receiver closes them."""

    datagrams: socket.socket
    streams: socket.socket
    metadata: socket.socket


def open_sockets(site: Site, instance_id: InstanceId) -> NameSockets:
    """Listen, and lead the well-known ports here. Raises NotFound: the instance has no namespace."""
    with Namespace.open(site.host, site.instance_path(instance_id)) as space, contextlib.ExitStack() as undo:
        space.rtnl.run([links.local_route_add(METADATA_ADDRESS)])
        with space.entered():
            datagrams = undo.enter_context(_bound(socket.SOCK_DGRAM, DNS_ADDRESS, _LISTEN_DNS))
            streams = undo.enter_context(_bound(socket.SOCK_STREAM, DNS_ADDRESS, _LISTEN_DNS))
            metadata = undo.enter_context(_bound(socket.SOCK_STREAM, METADATA_ADDRESS, _LISTEN_HTTP))
        for listening in (streams, metadata):
            listening.listen(_BACKLOG)
        site.contexts.run_once(
            space.entered,
            rules(
                [
                    (DNS_ADDRESS, "udp", _DNS_PORT, datagrams.getsockname()[1]),
                    (DNS_ADDRESS, "tcp", _DNS_PORT, streams.getsockname()[1]),
                    (METADATA_ADDRESS, "tcp", _HTTP_PORT, metadata.getsockname()[1]),
                ]
            ),
        )
        return NameSockets(_moved_up(datagrams), _moved_up(streams), _moved_up(metadata))


def open_inside(site: Site, instance_id: InstanceId, family: int, kind: int) -> socket.socket:
    """A fresh socket of the instance's namespace, not blocking. Raises NotFound: it has none."""
    with Namespace.open(site.host, site.instance_path(instance_id)) as space, space.entered():
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)


def rules(leads: "list[tuple[str, str, int, int]]") -> str:
    """The table of one instance's namespace; replaces what was there.

    Args:
        leads: (address, protocol, port that is asked, port that listens).
    """
    table = "ip moorage-names"
    lines = [
        f"add table {table}",
        f"delete table {table}",
        f"add table {table}",
        f"add chain {table} questions {{ type filter hook prerouting priority -350; policy accept; }}",
        f'add rule {table} questions iifname != "lo" accept',
        f"add chain {table} answers {{ type filter hook output priority -350; policy accept; }}",
        f'add rule {table} answers oifname != "lo" accept',
    ]
    for address, protocol, port, listens in leads:
        lines += [
            f"add rule {table} questions ip daddr {address} {protocol} dport {port} {protocol} dport set {listens}",
            f"add rule {table} answers ip saddr {address} {protocol} sport {listens} {protocol} sport set {port}",
        ]
    return "\n".join(lines) + "\n"


def _moved_up(low: socket.socket) -> socket.socket:
    """The same socket under a descriptor that select(2) does not need; where this process may have no more than 1024
    the lowest is fine.
    """
    try:
        number = fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EMFILE):
            raise
        number = fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    moved = socket.socket(fileno=number)
    moved.setblocking(False)
    return moved


def _bound(kind: int, address: str, port: int) -> socket.socket:
    """A bound socket; another port if a process of the instance has this one."""
    found = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            found.bind((address, 0))
    except BaseException:
        found.close()
        raise
    return found

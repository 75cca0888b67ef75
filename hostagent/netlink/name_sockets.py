"""Sockets inside an instance's namespace on which the agent answers for the host. Blocking; in a worker thread.

Instances ask 127.0.0.11 port 53, and may have servers of their own on port 53 of every address. So ours listen on
ports that nobody takes, and rules in the instance's namespace write the port in and out of packets on its loopback.
Not by NAT: that would make the kernel track every connection of the instance, which costs each packet. The rules stand
where connection tracking, should something else use it there, sees one and the same port in both directions: questions
are changed after it, answers before.

A socket keeps its namespace alive: whoever removes an instance closes them first.
"""

import contextlib
import errno
import socket
from dataclasses import dataclass

from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.site import Site
from moorage.ids import InstanceId

DNS_ADDRESS = "127.0.0.11"
_DNS_PORT = 53
# Above the range from which the kernel gives ports to clients, and used by nothing that is known.
_LISTEN_DNS = 65053
_BACKLOG = 16


@dataclass(frozen=True, slots=True)
class NameSockets:
    """Bound, listening, not blocking. The receiver closes them."""

    datagrams: socket.socket
    streams: socket.socket


def open_sockets(site: Site, instance_id: InstanceId) -> NameSockets:
    """Listen, and lead the well-known ports here. Raises NotFound: the instance has no namespace."""
    with Namespace.open(site.host, site.instance_path(instance_id)) as space, contextlib.ExitStack() as undo:
        with space.entered():
            datagrams = undo.enter_context(_bound(socket.SOCK_DGRAM, DNS_ADDRESS, _LISTEN_DNS))
            streams = undo.enter_context(_bound(socket.SOCK_STREAM, DNS_ADDRESS, _LISTEN_DNS))
        for listening in (streams,):
            listening.listen(_BACKLOG)
        site.contexts.run_once(
            space.entered,
            rules(
                [
                    (DNS_ADDRESS, "udp", _DNS_PORT, datagrams.getsockname()[1]),
                    (DNS_ADDRESS, "tcp", _DNS_PORT, streams.getsockname()[1]),
                ]
            ),
        )
        undo.pop_all()
        return NameSockets(datagrams, streams)


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

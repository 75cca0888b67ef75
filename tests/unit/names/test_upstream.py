"""Who is asked for names that are not ours."""

import pytest

from hostagent.domain import (
    ContainerSpec,
    DesiredState,
    InstanceAssignment,
    NetworkAssignment,
    NetworkDns,
    NetworkKind,
    NicAssignment,
)
from hostagent.names.upstream import Upstream, choose, servers_of
from moorage.ids import InstanceId, NetworkId


def assigned(*networks: str, servers: tuple[str, ...] = ()) -> InstanceAssignment:
    nics = tuple(NicAssignment(NetworkId(name), f"eth{i}", "", ()) for i, name in enumerate(networks))
    return InstanceAssignment(
        InstanceId("i1"), "web", "p", 1, 1, DesiredState.RUNNING, ContainerSpec(), nics, dns_servers=servers
    )


def network(name: str, *, hosts: bool = False, dns: NetworkDns | None = None) -> NetworkAssignment:
    kind = NetworkKind.ISOLATED
    return NetworkAssignment(NetworkId(name), name, kind, (), 1450, dns=dns or NetworkDns(), host_resolvers=hosts)


NETWORKS = {
    found.network_id: found
    for found in (
        network("closed"),
        network("open", hosts=True),
        network("named", hosts=True, dns=NetworkDns(forwarders=("192.0.2.1",))),
        network("silent", hosts=True, dns=NetworkDns(no_forwarding=True)),
    )
}


@pytest.mark.parametrize(
    ("networks", "servers", "wanted"),
    [
        (("closed",), (), Upstream()),
        (("open",), (), Upstream(is_hosts=True)),
        (("named",), (), Upstream(outside=("192.0.2.1",))),
        (("silent",), (), Upstream()),
        (("closed", "silent", "named", "open"), (), Upstream(outside=("192.0.2.1",))),
        (("unknown",), (), Upstream()),
        ((), (), Upstream()),
        (("silent",), ("127.0.0.11", "9.9.9.9"), Upstream(inside=("9.9.9.9",))),
        (("open",), ("127.0.0.11",), Upstream(is_hosts=True)),
    ],
)
def test_whom(networks: tuple[str, ...], servers: tuple[str, ...], wanted: Upstream) -> None:
    assert choose(assigned(*networks, servers=servers), NETWORKS) == wanted


def test_a_resolv_conf_is_read_as_resolvers_do() -> None:
    text = "# nameserver 1.1.1.1\nsearch x\nnameserver 127.0.0.53\nnameserver\tfe80::1%eth0 # here\nnameserver x\nnameserver\n"
    assert servers_of(text) == ("127.0.0.53", "fe80::1%eth0")

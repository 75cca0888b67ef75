"""Removal of instances, many in one go. Blocking; runs in a worker thread.

Deleting one veth costs the kernel 15-25 ms, most of it waiting for readers, and a batch costs hardly more. So the host
ends of all instances that shall go are put into one link group, and the group is deleted at once.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from hostagent.netlink import guard, links, names, namespaces, whole_nic
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.nft import Nft
from hostagent.netlink.rtnl import Rtnl
from hostagent.netlink.site import Site
from moorage.ids import InstanceId, NetworkId

OUR_KINDS = ("veth", "macvlan")  # of what we make in an instance's namespace


def remove(site: Site, doomed: Mapping[InstanceId, Collection[NetworkId] | None]) -> None:
    """Take namespaces and both ends of all interfaces away. Idempotent.

    The value of an instance are the isolated networks that it may be plugged into; None: look everywhere, also for
    host ends whose namespace is gone. Interfaces are deleted explicitly: a process that still lives in the namespace
    would keep them.
    """
    everywhere: list[Path] | None = None
    by_space: dict[Path | None, list[str]] = defaultdict(list)  # None: the host's namespace
    for instance_id, known in doomed.items():
        prefix = names.member_prefix(instance_id)
        by_space[None].append(prefix)
        if known is None:
            everywhere = everywhere or sorted((site.run_dir / "netns").glob("n-*"))
            paths = everywhere
        else:
            paths = [site.network_path(network_id) for network_id in known]
        for path in paths:
            by_space[path].append(prefix)
    for place, prefixes in by_space.items():
        _remove_ports_in(site, place, partial(_starts_with, tuple(prefixes)))
    for instance_id in doomed:
        for record in whole_nic.held_by(site, instance_id):
            whole_nic.give_back(site, record)
        _remove_namespace(site, instance_id)


def unplug(
    site: Site,
    host_ends: Collection[str],
    homes: Mapping[str, NetworkId | None],
    plugged: Collection[NetworkId] | None,
) -> None:
    """Take away what interfaces that were removed or moved to another network have left: host ends and guards.

    `homes` says for the interfaces that are there where their host end is (None: the host's namespace), where it stays; `plugged` the
    isolated networks to look in (None: all).
    """
    known = plugged if plugged is not None else [NetworkId(p.name[2:]) for p in (site.run_dir / "netns").glob("n-*")]
    for network_id in (None, *sorted(known)):
        gone = {name for name in host_ends if name not in homes or homes[name] != network_id}
        if gone:
            _remove_ports_in(site, None if network_id is None else site.network_path(network_id), gone.__contains__)


def _starts_with(prefixes: tuple[str, ...], name: str) -> bool:
    return name.startswith(prefixes)


def _remove_ports_in(site: Site, place: Path | None, matches: Callable[[str], bool]) -> None:
    if place is None:
        with Rtnl() as rtnl:
            _remove_ports(site, rtnl, site.host_nft(), matches, site.alias)
    elif site.host.is_namespace(place):
        with Namespace.open(site.host, place) as space:
            _remove_ports(site, space.rtnl, site.network_nft(space), matches, None)


def _remove_ports(site: Site, rtnl: Rtnl, nft: Nft, matches: Callable[[str], bool], alias: str | None) -> None:
    """Host ends and their guards. In the host's namespace only links that carry our mark."""
    found = [
        link
        for link in links.list_links(rtnl).values()
        if matches(link.name) and (alias is None or link.alias in (alias, ""))
    ]
    if found:
        rtnl.run(links.delete_together([link.index for link in found]))
    words = nft.run(f"list chains {site.guard.value}").split()
    chains = {word for word in words if matches(word)}
    if chains:
        nft.run(guard.port_removed(site.guard, sorted(chains)))


def _remove_namespace(site: Site, instance_id: InstanceId) -> None:
    """The binding, and interfaces whose other end was nowhere we looked."""
    path = site.instance_path(instance_id)
    if site.host.is_namespace(path):
        with Namespace.open(site.host, path) as space:
            left = [link.index for link in links.list_links(space.rtnl).values() if link.kind in OUR_KINDS]
            if left:
                space.rtnl.run(links.delete_together(left))
    site.contexts.drop(path.name)
    namespaces.remove(path)

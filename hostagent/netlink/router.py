"""A router's namespace: packet rules, the settings that make it forward, and the end of connections whose way is gone.
Blocking; in a worker thread.

Forwarding begins after the first rules are in force, so that nothing passes a router that knows no rules yet.
"""

from pathlib import Path

from hostagent.netlink import links, router_conntrack, router_rules
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.site import Site
from moorage.ids import InstanceId
from moorage.router_bundle import RouterBundle, RuleFigure


def apply(site: Site, bundle: RouterBundle, before: RouterBundle | None) -> None:
    """Make rules and settings what the bundle says; in one transaction, or not at all.

    Args:
        before: what was applied last, if that is known; then conversations are looked at only if translations changed.
    Raises: NotFound: there is no namespace. InvalidSpec. Internal: NFT_REFUSED, in nftables' own words.
    """
    with Namespace.open(site.host, site.instance_path(bundle.instance_id)) as space:
        nft = site.contexts.of(space.path.name, space.entered)
        nft.run(router_rules.PREPARE)
        nft.run(router_rules.table(bundle, router_rules.installed(nft.run(router_rules.LOOK))))
        own = [bundle.outside_interface, *(leg.interface for leg in bundle.legs)]
        present = links.list_links(space.rtnl)
        settings = dict(router_rules.SYSCTLS)
        for name, value in router_rules.INTERFACE_SYSCTLS.items():
            settings |= {name.format(one): value for one in own if one in present}
        _write_where_different(space, settings)
        if before is None or router_conntrack.translations(before) != router_conntrack.translations(bundle):
            with space.entered():
                router_conntrack.forget_lost(bundle)


def figures(site: Site, instance_id: InstanceId) -> tuple[RuleFigure, ...]:
    """What each rule counted. Raises NotFound: there is no namespace."""
    with Namespace.open(site.host, site.instance_path(instance_id)) as space:
        nft = site.contexts.of(space.path.name, space.entered)
        nft.run(router_rules.PREPARE)
        return router_rules.figures(nft.run(router_rules.LOOK))


def _write_where_different(space: Namespace, settings: dict[str, str]) -> None:
    """Some have effects even when they are written as they are: forwarding sets others back."""
    with space.entered():
        have = {name: _read(name) for name in settings}
    space.sysctl({name: value for name, value in settings.items() if have[name] != value})


def _read(name: str) -> str:
    try:
        return Path(f"/proc/sys/net/{name}").read_text().strip()
    except FileNotFoundError:
        return ""

"""Carries the rules of security groups (`security.py`) into an instance's namespace. Blocking; in a worker thread."""

from collections.abc import Collection, Sequence

from hostagent.domain import NicFilter
from hostagent.netlink import security
from hostagent.netlink.namespaces import Namespace
from hostagent.netlink.site import Site
from moorage.errors import Internal
from moorage.ids import InstanceId


def ensure(site: Site, space: Namespace, have: Sequence[NicFilter] | None, filters: Sequence[NicFilter]) -> None:
    """Make the whole table what it shall be, whatever is there. `have`: what is known to be there; None: nothing is."""
    if not filters and have is not None and not have:
        return
    nft = site.instance_nft(space)
    if not filters:
        nft.run(security.removal())
        return
    chains = security.names_in(nft.run("list chains inet"))
    sets = security.names_in(nft.run("list sets inet"))
    nft.run(security.replacement(filters, chains, sets))


def of_interfaces_not_in(have: Sequence[NicFilter] | None, names: Collection[str]) -> list[NicFilter]:
    """Those of interfaces that are to go."""
    return [nic for nic in have or () if nic.interface not in names]


def change(site: Site, instance_id: InstanceId, have: Sequence[NicFilter] | None, filters: Sequence[NicFilter]) -> None:
    """Come from one to the other: by elements alone where only members came or went.

    Raises: NotFound: the instance has no namespace.
    """
    with Namespace.open(site.host, site.instance_path(instance_id)) as space:
        batch = security.difference(have, filters) if have is not None else None
        if batch is not None:
            try:
                if batch:
                    site.instance_nft(space).run(batch)
                return
            except Internal:
                pass  # somebody took the table away, or changed it: all of it is made anew
        ensure(site, space, None, filters)


def repair(site: Site, instance_id: InstanceId, filters: Sequence[NicFilter]) -> None:
    """Put back what somebody took away. Raises: NotFound: the instance has no namespace."""
    with Namespace.open(site.host, site.instance_path(instance_id)) as space:
        ensure(site, space, None, filters)

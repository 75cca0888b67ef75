"""Where an instance's volumes let it be: with those that have a host, nowhere else; the rest get the host that it gets."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import VOLUME
from controlplane.domain.volumes import HostLossPolicy, Volume
from controlplane.scheduler.fleet import BoolColumn, Fleet
from controlplane.scheduler.request import VolumeNeed
from moorage.store.base import Transaction, View


def needs_of(view: View, volume_uids: Sequence[str]) -> tuple[VolumeNeed, ...]:
    """What these volumes need of a host."""
    return tuple(
        VolumeNeed(v.name, v.host_uid, v.host, v.spec.size_bytes > 0, _withheld(v)) for v in _volumes(view, volume_uids)
    )


def keeps(needs: Sequence[VolumeNeed], fleet: Fleet) -> BoolColumn:
    """The hosts where all of them can be."""
    kept: BoolColumn = np.ones(len(fleet.hosts), np.bool_)
    for need in needs:
        if need.withheld:
            kept[:] = False
        elif need.host_uid:
            is_there: BoolColumn = np.zeros(len(fleet.hosts), np.bool_)
            row = fleet.row.get(need.host_uid)
            if row is not None:
                is_there[row] = True
            kept &= is_there
        elif need.is_sized:
            kept &= fleet.can_size_volumes()
    return kept


def explain(needs: Sequence[VolumeNeed]) -> str:
    """What the other hosts lack."""
    return "; ".join(text for need in needs if (text := _lack(need)))


def _lack(need: VolumeNeed) -> str:
    if need.withheld:
        return need.withheld
    if need.host_uid:
        return f"has not {need.name}, which is on hosts/{need.host}"
    return f"cannot limit the size of {need.name}" if need.is_sized else ""


def failure_of(view: View, instance: Instance) -> str:
    """Why an instance that has no host has failed, instead of waiting for one; empty: it waits."""
    return "; ".join(
        volume.lost
        for volume in _volumes(view, instance.volume_uids)
        if volume.lost and volume.spec.on_host_loss is HostLossPolicy.FAIL
    )


def settle(tx: Transaction, instance: Instance, host_uid: str, host: str) -> bool:
    """Give the instance's volumes the host that it gets. Returns False when one cannot be there any more: then it must not go there."""
    volumes = _volumes(tx, instance.volume_uids)
    if any(_withheld(volume) or volume.host_uid not in ("", host_uid) for volume in volumes):
        return False
    for volume in volumes:
        if not volume.host_uid:
            tx.put(VOLUME, replace(volume, host_uid=host_uid, host=host))
    return True


def matters(before: Volume | None, after: Volume | None) -> bool:
    """Whether an instance may fit now that did not before."""
    if before is None or after is None:
        return False
    return (before.host_uid, _withheld(before), before.incarnation) != (
        after.host_uid,
        _withheld(after),
        after.incarnation,
    )


def _withheld(volume: Volume) -> str:
    """Why no instance can have it now; empty: one can."""
    return volume.lost or (f"{volume.name} is being copied into" if volume.fill is not None else "")


def _volumes(view: View, uids: Sequence[str]) -> list[Volume]:
    return [found[0].value for uid in dict.fromkeys(uids) if (found := view.find(VOLUME, "uid", uid))]

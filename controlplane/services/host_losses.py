"""Hosts that are given up, and what was on them with them: by `controlplane/liveness`, or on an operator's word."""

from collections.abc import Sequence
from dataclasses import replace

from controlplane.domain.claims import may_be_given_up
from controlplane.domain.hosts import Host, HostLinkState, HostLoss
from controlplane.domain.instances import Instance
from controlplane.domain.kinds import HOST, INSTANCE, ROUTER
from controlplane.domain.routers import is_router
from controlplane.history import record_event
from controlplane.routers.bundle import main_ids
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.instance_making import InstanceMaking
from moorage.errors import NotReady
from moorage.store.base import Transaction


def is_replaced(tx: Transaction, instance: Instance, *, is_word: bool) -> bool:
    """Whether somebody makes another one in its place. A user's own instance is kept: with its host it comes back. So is what only stands
    for its host (a router's member that takes ports there). A single router, whose gateways are addresses of its own, is replaced when an
    operator says that it does not run any more.
    """
    if not is_router(instance):
        return bool(instance.owner)
    project, _, router_id = instance.owner.removeprefix("projects/").partition("/routers/")
    found = tx.get(ROUTER, f"{project}/{router_id}")
    return found is not None and (found.value.spec.redundant or is_word) and instance.id in main_ids(found.value)


class HostLosses:
    """Writes losses; never decides about them."""

    def __init__(self, context: Context, making: InstanceMaking) -> None:
        self._context = context
        self._making = making

    async def lose(self, host_uid: str, why: str, evidence: Sequence[str]) -> bool:
        """Give a host up that is away. Returns whether it was: not if it has come back, was lost before, or is no more."""

        def apply(tx: Transaction) -> bool:
            host = lookup.by_uid(tx, HOST, host_uid)
            if host is None or host.loss is not None or host.link_state is HostLinkState.UP:
                return False
            self._lose(tx, host, why, tuple(evidence), is_word=False)
            return True

        return await self._context.store.update(apply)

    async def declare(self, host_id: str, *, etag: str = "", validate_only: bool = False) -> Host:
        """An operator's word that a host runs nothing any more. Also what survives isolation is given up then.

        Raises:
            NotFound, VersionConflict, NotReady (HOST_CONNECTED).
        """

        def apply(tx: Transaction) -> Host:
            host = lookup.host(tx, host_id)
            lookup.check_etag(host, etag, host.name)
            if host.link_state is HostLinkState.UP:
                raise NotReady(
                    f"the agent of {host.name} is connected, so that it is not lost; to empty it, drain it",
                    reason="HOST_CONNECTED",
                )
            return host if validate_only else self._lose(tx, host, "an operator said so", (), is_word=True)

        return await self._context.store.update(apply)

    def _lose(self, tx: Transaction, host: Host, why: str, evidence: tuple[str, ...], *, is_word: bool) -> Host:
        clock = self._context.clock
        loss = host.loss or HostLoss(clock.now(), why, evidence)
        changed = replace(host, link_state=HostLinkState.DOWN, loss=loss, link_message="")
        if host.link_state is not HostLinkState.DOWN:
            changed = replace(changed, link_change_time=clock.now())
        tx.put(HOST, changed)
        if host.loss is None:
            said = f"{why} ({'; '.join(evidence)})" if evidence else why
            record_event(tx, clock, host, "LOST", said, severity="warning")
        for found in tx.find(INSTANCE, "host", host.uid):
            instance = found.value
            if is_replaced(tx, instance, is_word=is_word) and (is_word or may_be_given_up(instance)):
                self._making.give_up(tx, instance, f"{host.name} is lost: {why}", is_word=is_word)
        return changed

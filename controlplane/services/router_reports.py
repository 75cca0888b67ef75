"""What agents say about routers, written into the store: which configuration runs, which one could not be loaded, who is active."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import INSTANCE, ROUTER
from controlplane.domain.routers import Router, RouterObserved, is_router
from controlplane.history import record_event
from controlplane.routers.bundle import main_ids
from controlplane.services import lookup
from controlplane.services.context import Context
from moorage.router_bundle import RouterReport, RouterRole
from moorage.store.base import Transaction


class RouterReports:
    """Applies what agents report of routers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def apply(self, host_uid: str, epoch: int, reports: Sequence[RouterReport]) -> None:
        """Apply a batch in one transaction. Reports of another host's instances, or of an older agent, are dropped."""
        if not reports:
            return

        def write(tx: Transaction) -> None:
            for report in reports:
                member = lookup.by_uid(tx, INSTANCE, report.instance_id)
                if member is None or member.host_uid != host_uid or not is_router(member):
                    continue
                project, _, router_id = member.owner.removeprefix("projects/").partition("/routers/")
                router = tx.get(ROUTER, f"{project}/{router_id}")
                if router is not None:
                    self._keep(tx, router.value, member, epoch, report)

        await self._context.store.update(write)

    def _keep(self, tx: Transaction, router: Router, member: Instance, epoch: int, report: RouterReport) -> None:
        known = next((o for o in router.observed if o.instance_uid == member.uid), RouterObserved(member.uid))
        if epoch < known.epoch:
            return
        seen = RouterObserved(
            member.uid, epoch, report.running_version, report.failed_version, report.error, report.role, report.draining
        )
        if seen == known:
            return
        members = {found.value.uid: found.value.id for found in tx.find(INSTANCE, "owner", router.name)}
        pair = {uid for uid, instance_id in members.items() if instance_id in main_ids(router)}
        others = tuple(o for o in router.observed if o.instance_uid != member.uid and o.instance_uid in members)
        changed = replace(router, observed=tuple(sorted((*others, seen), key=lambda o: o.instance_uid)))
        tx.put(ROUTER, changed)
        self._tell(tx, changed, member, known, seen)
        if is_split(changed, pair) and not is_split(router, pair):
            message = "both members say that they are active: they do not hear each other; the one of lower priority yields when they do"
            self._event(tx, router, "ROUTER_SPLIT", message)

    def _tell(
        self, tx: Transaction, router: Router, member: Instance, known: RouterObserved, seen: RouterObserved
    ) -> None:
        if seen.error and (seen.failed_version, seen.error) != (known.failed_version, known.error):
            message = f"{member.name} goes on with version {seen.running_version}: {seen.error}"
            self._event(tx, router, "CONFIGURATION_REFUSED", message)
        if seen.role is RouterRole.ACTIVE and known.role is not RouterRole.ACTIVE:
            self._event(
                tx, router, "ROUTER_ACTIVE", f"{member.name} on hosts/{member.host} is active", severity="normal"
            )

    def _event(self, tx: Transaction, router: Router, reason: str, message: str, severity: str = "warning") -> None:
        record_event(tx, self._context.clock, router, reason, message, project=router.project, severity=severity)


def is_split(router: Router, pair: Collection[str]) -> bool:
    """Whether more than one of these members (uids) says that it is active. Those that only take ports of their hosts always do."""
    return sum(o.role is RouterRole.ACTIVE for o in router.observed if o.instance_uid in pair) > 1

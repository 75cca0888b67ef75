"""Wakes up on changes, lets `plan.py` decide for each router that is concerned, commits. Level-triggered."""

import logging
from dataclasses import replace
from typing import Any

from controlplane.domain.instances import DesiredState, Instance, InstanceState, Observed
from controlplane.domain.kinds import (
    BALANCER,
    HOST,
    INSTANCE,
    NETWORK,
    PROJECT,
    PUBLIC_ADDRESS,
    ROUTER,
    ROUTER_RULE,
    TEMPLATE,
)
from controlplane.domain.routers import Router, is_router
from controlplane.history import record_event
from controlplane.router_members.plan import (
    Action,
    ChangeMember,
    CreateMember,
    DeleteMember,
    ForgetRouter,
    plan,
)
from controlplane.routers.scene import read
from controlplane.routers.status import is_running
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.effective import effective_spec
from controlplane.services.instance_admission import check_still_fits
from controlplane.services.instance_claims import InstanceClaims, charge_project, usage_of
from controlplane.services.instance_making import InstanceMaking
from controlplane.services.router_admission import check_template
from controlplane.services.taking_over import hand_over
from moorage.errors import HistoryCompacted, MoorageError, NotReady
from moorage.store.base import Change, Kind, Transaction, View

log = logging.getLogger(__name__)

_KINDS = (ROUTER, ROUTER_RULE, BALANCER, PUBLIC_ADDRESS, NETWORK, INSTANCE, HOST, PROJECT, TEMPLATE)


class RouterMembers:
    """Owns the containers of routers: the only one that makes, changes and removes them."""

    def __init__(self, context: Context, claims: InstanceClaims, making: InstanceMaking) -> None:
        self._context = context
        self._claims = claims
        self._making = making

    async def run(self) -> None:
        """Look after routers until cancelled."""
        store = self._context.store
        while True:
            _, watch = store.view_and_watch(_KINDS)
            async with watch:
                await self.reconcile_once()
                try:
                    async for batch in watch:
                        if any(_matters(change) for change in batch.changes):
                            await self.reconcile_once()
                except HistoryCompacted:
                    log.info("fell behind the store's history; looking at every router")

    async def reconcile_once(self) -> None:
        """One turn over every router."""
        view = self._context.store.view()
        for found in view.all(ROUTER):
            if self._plan(view, found.value):
                await self._settle(found.value.uid)

    def _plan(self, view: View, router: Router) -> list[Action]:
        return plan(read(view, router), [found.value for found in view.all(HOST)])

    async def _settle(self, router_uid: str) -> None:
        """Decide again on the newest state, and carry it out, in one transaction: all of it or a reason why not."""
        store = self._context.store

        def apply(tx: Transaction) -> None:
            router = lookup.by_uid(tx, ROUTER, router_uid)
            if router is None:
                return
            for action in self._plan(tx, router):
                self._apply(tx, router, action)
            left = lookup.by_uid(tx, ROUTER, router_uid)
            if left is not None and left.reason:
                tx.put(ROUTER, replace(left, reason="", message=""))

        try:
            await store.update(apply)
        except MoorageError as error:
            refusal = error
        else:
            return
        await store.update(lambda tx: self._note(tx, router_uid, refusal))

    def _note(self, tx: Transaction, router_uid: str, error: MoorageError) -> None:
        router = lookup.by_uid(tx, ROUTER, router_uid)
        if router is None or (router.reason, router.message) == (error.reason, error.message):
            return
        tx.put(ROUTER, replace(router, reason=error.reason, message=error.message))
        clock, project = self._context.clock, router.project
        record_event(tx, clock, router, error.reason, error.message, project=project, severity="warning")

    def _apply(self, tx: Transaction, router: Router, action: Action) -> None:
        match action:
            case CreateMember():
                self._create(tx, router, action)
            case ChangeMember():
                self._change(tx, action)
            case DeleteMember():
                self._delete(tx, action)
            case ForgetRouter():
                for rule in tx.find(ROUTER_RULE, "router", router.uid):
                    tx.delete(ROUTER_RULE, ROUTER_RULE.key(rule.value))
                for balancer in tx.find(BALANCER, "router", router.uid):
                    tx.delete(BALANCER, BALANCER.key(balancer.value))
                tx.delete(ROUTER, ROUTER.key(router))
                record_event(tx, self._context.clock, router, "DELETED", action.why, project=router.project)

    def _create(self, tx: Transaction, router: Router, action: CreateMember) -> None:
        """Like the admission of a user's instance, but for what routers alone may: gateways, capabilities, another project's
        template.
        """
        project = lookup.project(tx, router.project)
        template = check_template(tx, project, router.spec.template, "router.spec")
        key = f"{router.project}/{action.id}"
        if tx.get(INSTANCE, key) is not None:
            raise NotReady(
                f"projects/{router.project}/instances/{action.id} is in the way of the router's own; delete it",
                reason="MEMBER_NAME_TAKEN",
            )
        wanted = {address for nic in action.spec.nics for address in nic.addresses}
        for found in tx.find(INSTANCE, "owner", router.name):
            own = {address.partition("/")[0] for nic in found.value.nics for address in nic.addresses}
            if (
                found.value.given_up and own & wanted
            ):  # a single one, whose gateways are its own; given up on an operator's word
                hand_over(tx, found.value)
        uid = self._context.new_id()
        networks, nics = self._claims.networks(tx, project, action.spec, "router.spec")
        leased = self._claims.lease(tx, uid, nics, networks, "router.spec.legs", action.behind)
        instance = Instance(
            uid=uid,
            project=router.project,
            id=action.id,
            create_time=self._context.clock.now(),
            spec=action.spec,
            effective=effective_spec(replace(action.spec, nics=nics), template.defaults, action.id),
            template_uid=template.uid,
            image=f"{template.repository}@{template.status.digest}",
            platforms=template.status.platforms,
            nics=leased,
            labels=dict(action.labels),
            observed=Observed(InstanceState.PENDING, "", "waits for a host"),
            owner=router.name,
        )
        charge_project(tx, project.id, usage_of(instance))
        tx.put(INSTANCE, instance)
        record_event(tx, self._context.clock, instance, "CREATED", action.why, project=project.id)

    def _change(self, tx: Transaction, action: ChangeMember) -> None:
        member = lookup.by_uid(tx, INSTANCE, action.instance_uid)
        if member is None:
            return
        outside, *legs = member.nics
        nics_generation = member.nics_generation
        if (outside.lent_addresses, outside.lent_in_turn) != (action.lent_addresses, action.lent_in_turn):
            lent, in_turn = action.lent_addresses, action.lent_in_turn
            outside = replace(outside, lent_addresses=lent, lent_revision=tx.revision, lent_in_turn=in_turn)
            nics_generation = member.generation + 1
        changed = replace(
            member,
            spec=replace(member.spec, published_ports=action.published_ports),
            effective=replace(member.effective, published_ports=action.published_ports),
            nics=(outside, *legs),
            nics_generation=nics_generation,
            generation=member.generation + 1,
        )
        changed = check_still_fits(tx, member, changed)
        tx.put(INSTANCE, changed)

    def _delete(self, tx: Transaction, action: DeleteMember) -> None:
        member = lookup.by_uid(tx, INSTANCE, action.instance_uid)
        if member is None or member.desired is DesiredState.DELETED:
            return
        self._making.ask_removal(tx, member, action.why)


def _matters(change: Change) -> bool:
    """Whether a change can ask for another set of containers. Of what agents observe only that a member does its work."""
    if change.before is None or change.after is None:
        return True
    return bool(_wish(change.kind, change.before.value) != _wish(change.kind, change.after.value))


def _wish(kind: Kind[Any], record: Any) -> Any:
    """What of a record the plan looks at."""
    if kind is HOST:
        return record.labels, record.admin_state, record.link_state, record.loss is None
    if kind is PROJECT:
        return record.quota, record.policy
    if kind is INSTANCE:
        return record.generation, record.desired, record.host, record.evict, is_router(record) and is_running(record)
    if kind is TEMPLATE:
        return record.status.state, record.labels
    if kind is ROUTER:
        seen = tuple((one.instance_uid, one.role, one.running_version > 0) for one in record.observed)
        return record.generation, record.is_deleting, seen
    return record.generation

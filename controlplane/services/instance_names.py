"""Another name for an instance, in place: its record, and what refers to it by its name, in one transaction.

What refers to it by uid (addresses, security groups, leases, usage) has nothing to follow; its host learns the name as it learns any
other change, and tells DNS, the files of its peers and the process itself.
"""

from dataclasses import replace

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import BALANCER, DNS_RECORD, INSTANCE, ROUTER, ROUTER_RULE
from controlplane.domain.names import check_id
from controlplane.domain.routers import Balancer, RouterRule, RouterRuleSpec
from controlplane.history import record_event
from controlplane.networks.records import ADDRESS_TYPES
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.instance_admission import refuse_deleted, refuse_owned
from moorage.errors import AlreadyExists, InvalidSpec
from moorage.store.base import Transaction


class InstanceNames:
    """Rename."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def rename(
        self, project_id: str, instance_id: str, new_id: str, *, etag: str = "", validate_only: bool = False
    ) -> Instance:
        """Give an instance another name, and with it a host name if it has none of its own.

        Raises:
            NotFound, InvalidSpec (NAME_INVALID; DNS_NAME_TAKEN), AlreadyExists, VersionConflict, NotReady (INSTANCE_OWNED: members are
            called after their group; INSTANCE_DELETING).
        """

        def change(tx: Transaction) -> Instance:
            before = lookup.instance(tx, project_id, instance_id)
            lookup.check_etag(before, etag, before.name)
            refuse_deleted(before)
            refuse_owned(before)
            if violations := check_id(new_id, "new_instance_id"):
                raise InvalidSpec(violations)
            if new_id == before.id:
                return before
            after = _called(before, new_id)
            if tx.get(INSTANCE, INSTANCE.key(after)) is not None:
                raise AlreadyExists(f"{after.name} exists; choose another name", metadata={"name": after.name})
            _refuse_taken(tx, after)
            # Gone first and new then: whoever follows the store by uid must end with the one that is there.
            tx.delete(INSTANCE, INSTANCE.key(before))
            tx.put(INSTANCE, after)
            _follow(tx, before, after)
            record_event(tx, self._context.clock, after, "RENAMED", f"was {before.id}", project=project_id)
            return after

        return await commit(self._context.store, change, validate_only=validate_only)


def _called(before: Instance, new_id: str) -> Instance:
    hostname = before.spec.hostname or new_id
    effective = replace(before.effective, hostname=hostname)
    return replace(before, id=new_id, effective=effective, generation=before.generation + 1)


def _refuse_taken(tx: Transaction, after: Instance) -> None:
    """A record with addresses and a member cannot have one name."""
    names = {after.id.lower(), after.effective.hostname.lower()}
    for nic in after.nics:
        for found in tx.find(DNS_RECORD, "network", nic.network_uid):
            spec = found.value.spec
            if spec.type in ADDRESS_TYPES and spec.name in names:
                text = f"{found.value.name} has this name in {nic.network}; choose another, or delete the record"
                raise InvalidSpec.of("new_instance_id", text, "DNS_NAME_TAKEN")


def _follow(tx: Transaction, before: Instance, after: Instance) -> None:
    """Have rules and balancers of its networks' routers lead to it under its new name."""
    for uid in {nic.network_uid for nic in before.nics}:
        for router in tx.find(ROUTER, "network", uid):
            for rule in tx.find(ROUTER_RULE, "router", router.value.uid):
                _put_rule(tx, rule.value, before.name, after.name)
            for balancer in tx.find(BALANCER, "router", router.value.uid):
                _put_balancer(tx, balancer.value, before.name, after.name)


def _put_rule(tx: Transaction, rule: RouterRule, old: str, new: str) -> None:
    changed = _renamed_rule(rule.spec, old, new)
    if changed != rule.spec:
        tx.put(ROUTER_RULE, replace(rule, spec=changed, generation=rule.generation + 1))


def _renamed_rule(spec: RouterRuleSpec, old: str, new: str) -> RouterRuleSpec:
    if spec.static_nat is not None and spec.static_nat.instance == old:
        return replace(spec, static_nat=replace(spec.static_nat, instance=new))
    if spec.port_forward is not None and spec.port_forward.instance == old:
        return replace(spec, port_forward=replace(spec.port_forward, instance=new))
    return spec


def _put_balancer(tx: Transaction, balancer: Balancer, old: str, new: str) -> None:
    pools = tuple(
        replace(pool, backends=tuple(replace(b, instance=new) if b.instance == old else b for b in pool.backends))
        for pool in balancer.spec.pools
    )
    if pools != balancer.spec.pools:
        spec = replace(balancer.spec, pools=pools)
        tx.put(BALANCER, replace(balancer, spec=spec, generation=balancer.generation + 1))

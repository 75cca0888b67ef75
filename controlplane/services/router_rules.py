"""Rules of routers: made, changed and deleted, one or many in one transaction. Field rules are in `rule_field_rules.py`.

Invariant: no two rules or balancers of a router take the same of an outside address (`controlplane/routers/claims.py`), and a public
address is used by one router only. What rules lead to may go away: they stay, lead nowhere, and work again once it is back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controlplane.domain.instances import Instance
from controlplane.domain.kinds import BALANCER, PUBLIC_ADDRESS, ROUTER_RULE
from controlplane.domain.names import check_id, check_labels, parse_grandchild
from controlplane.domain.routers import PublicAddress, Router, RouterRule, RouterRuleSpec
from controlplane.routers.claims import Claim, claims_of_balancer, claims_of_rule, clashes
from controlplane.routers.scene import read
from controlplane.routers.status import RuleStatus, lost_hosts, rule_status, running_members
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.routers import touch
from controlplane.services.rule_field_rules import check_spec, kind_of, normal_spec
from controlplane.services.rule_targets import RuleTargets
from moorage.errors import AlreadyExists, FieldViolation, InvalidSpec, Unavailable
from moorage.store.base import Transaction, Versioned, View

LARGEST_BATCH = 1000


@dataclass(frozen=True, slots=True)
class NewRule:
    """What one create asks for. `field` is the path of the rule in the request, for errors."""

    rule_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: RouterRuleSpec = RouterRuleSpec()
    field: str = "rule"


class RouterRuleService:
    """What callers can do with rules."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        router_id: str,
        wanted: Sequence[NewRule],
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> list[RouterRule]:
        """Admit all or none of them.

        Raises:
            InvalidSpec (RULE_CLASH, TARGET_NOT_A_MEMBER and others), NotFound (router, public address), AlreadyExists,
            NotReady (ROUTER_DELETING).
        """
        if len(wanted) > LARGEST_BATCH:
            raise InvalidSpec.of("requests", f"at most {LARGEST_BATCH} at a time", "OUT_OF_RANGE")

        def make(tx: Transaction) -> list[RouterRule]:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return [lookup.router_rule(tx, *parse_grandchild(name, "routers", "rules")) for name in names]
            router = lookup.living_router(tx, project_id, router_id)
            rules = [self._rule(router, item) for item in wanted]
            _check_fields(rules, wanted)
            _check_names(tx, rules)
            admitted = _admit(
                tx, router, [(rule, f"{item.field}.spec") for rule, item in zip(rules, wanted, strict=True)]
            )
            for rule in admitted:
                tx.put(ROUTER_RULE, rule)
            touch(tx, router)
            if request_key:
                lookup.remember(tx, request_key, body, tuple(r.name for r in admitted), self._context.clock.now())
            return admitted

        return await commit(self._context.store, make, validate_only=validate_only)

    def _rule(self, router: Router, item: NewRule) -> RouterRule:
        uid = self._context.new_id()
        made = f"{(kind_of(item.spec) or 'rule').replace('_', '-')}-{uid[:6]}"
        return RouterRule(
            uid=uid,
            project=router.project,
            router=router.id,
            router_uid=router.uid,
            id=item.rule_id or made,
            create_time=self._context.clock.now(),
            spec=item.spec,
            labels=dict(item.labels),
        )

    def get(self, project_id: str, router_id: str, rule_id: str) -> RouterRule:
        """One rule. Raises NotFound."""
        return lookup.router_rule(self._context.store.view(), project_id, router_id, rule_id)

    def list(self, project_id: str, router_id: str, request: PageRequest) -> Page[RouterRule]:
        """A page of a router's rules. Raises NotFound (router)."""
        view = self._context.store.view()
        lookup.router(view, project_id, router_id)
        return list_page(
            view,
            ROUTER_RULE,
            request,
            scope=f"rules of {project_id}/{router_id}",
            prefix=f"{project_id}/{router_id}/",
            fields=lambda r, name: kind_of(r.spec) if name == "kind" else label_field(r.labels, name),
            names=("kind",),
        )

    def status(self, rule: RouterRule) -> RuleStatus:
        """How it stands now; of a rule that was only checked: what it would be."""
        view = self._context.store.view()
        found = view.get(ROUTER_RULE, ROUTER_RULE.key(rule))
        return rule_status(view, rule, found.revision if found is not None and found.value.uid == rule.uid else 0)

    def counting_members(self, project_id: str, router_id: str) -> Sequence[Instance]:
        """The containers that count what a router's rules see; first the one that has its traffic.

        Raises:
            NotFound: the router does not exist. Unavailable (ROUTER_NOT_RUNNING): none of its containers runs.
        """
        view = self._context.store.view()
        router = lookup.router(view, project_id, router_id)
        members = read(view, router).members
        running = running_members(router, members, lost_hosts(view, members))
        if not running:
            raise Unavailable(f"{router.name} does not run", reason="ROUTER_NOT_RUNNING")
        return running

    async def update(
        self,
        project_id: str,
        router_id: str,
        rule_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        spec: RouterRuleSpec | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> RouterRule:
        """Change labels, or what the rule does; not which kind it is.

        Raises:
            NotFound, VersionConflict, NotReady (ROUTER_DELETING), InvalidSpec (KIND_CHANGED, RULE_CLASH and others).
        """

        def change(tx: Transaction) -> RouterRule:
            router = lookup.living_router(tx, project_id, router_id)
            rule = lookup.router_rule(tx, project_id, router_id, rule_id)
            lookup.check_etag(rule, etag, rule.name)
            changed = replace(
                rule,
                spec=rule.spec if spec is None else spec,
                labels=dict(rule.labels if labels is None else labels),
                generation=rule.generation + 1,
            )
            _check_fields([changed], [NewRule(rule.id, changed.labels, changed.spec)])
            if kind_of(changed.spec) != kind_of(rule.spec):
                text = f"is a {kind_of(rule.spec)} and stays one; make a new rule and delete this one"
                raise InvalidSpec.of("rule.spec", text, "KIND_CHANGED")
            if spec is not None:
                (changed,) = _admit(tx, router, [(changed, "rule.spec")])
            tx.put(ROUTER_RULE, changed)
            touch(tx, router)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, router_id: str, rule_ids: Sequence[str], *, etag: str = "") -> None:
        """Delete all or none of them. Raises NotFound, VersionConflict, InvalidSpec (more than LARGEST_BATCH)."""
        if len(rule_ids) > LARGEST_BATCH:
            raise InvalidSpec.of("names", f"at most {LARGEST_BATCH} at a time", "OUT_OF_RANGE")

        def remove(tx: Transaction) -> None:
            router = lookup.router(tx, project_id, router_id)
            for rule_id in dict.fromkeys(rule_ids):
                rule = lookup.router_rule(tx, project_id, router_id, rule_id)
                lookup.check_etag(rule, etag, rule.name)
                tx.delete(ROUTER_RULE, ROUTER_RULE.key(rule))
            if rule_ids:
                touch(tx, router)

        await self._context.store.update(remove)


def held_claims(view: View, router: Router, but: Iterable[str] = ()) -> list[Claim]:
    """What the router's rules and balancers take, but for those of these names."""
    left_out = set(but)
    publics = _public_addresses(view, router)
    rules = (found.value for found in view.find(ROUTER_RULE, "router", router.uid))
    balancers = (found.value for found in view.find(BALANCER, "router", router.uid))
    return [
        *(claim for rule in rules if rule.name not in left_out for claim in claims_of_rule(rule, publics)),
        *(claim for b in balancers if b.name not in left_out for claim in claims_of_balancer(b)),
    ]


def _public_addresses(view: View, router: Router) -> dict[str, PublicAddress]:
    found: tuple[Versioned[PublicAddress], ...] | list[Versioned[PublicAddress]]
    found = view.find(PUBLIC_ADDRESS, "network", router.outside_uid)
    return {item.value.name: item.value for item in found}


def _check_fields(rules: Sequence[RouterRule], wanted: Sequence[NewRule]) -> None:
    violations: list[FieldViolation] = []
    for rule, item in zip(rules, wanted, strict=True):
        violations += check_id(rule.id, f"{item.field.rpartition('rule')[0]}rule_id")
        violations += check_labels(dict(item.labels), f"{item.field}.labels")
        violations += check_spec(item.spec, f"{item.field}.spec")
    if violations:
        raise InvalidSpec(violations)


def _check_names(view: View, rules: Sequence[RouterRule]) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen or view.get(ROUTER_RULE, ROUTER_RULE.key(rule)) is not None:
            raise AlreadyExists(f"{rule.name} exists; choose another name", metadata={"name": rule.name})
        seen.add(rule.id)


def _admit(view: View, router: Router, rules: Sequence[tuple[RouterRule, str]]) -> list[RouterRule]:
    """The rules as they are stored: full names, one spelling.

    Args:
        rules: each with the path of its spec in the request.
    Raises:
        InvalidSpec: every target that is none, and every clash. NotFound: a public address or network.
    """
    targets = RuleTargets(view, router)
    violations: list[FieldViolation] = []
    admitted: list[RouterRule] = []
    fields: dict[str, str] = {}
    for rule, where in rules:
        spec, problems = targets.resolve(normal_spec(rule.spec), where)
        violations += problems
        admitted.append(replace(rule, spec=spec))
        fields[rule.name] = where
    if violations:
        raise InvalidSpec(violations)
    publics = _public_addresses(view, router)
    wanted = [claim for rule in admitted for claim in claims_of_rule(rule, publics)]
    found: dict[tuple[str, str], FieldViolation] = {}
    for clash in clashes(wanted, held_claims(view, router, fields)):
        place = f"{fields[clash.wanted.holder]}.{clash.wanted.field}"
        found.setdefault((place, clash.held.holder), FieldViolation(place, clash.problem, "RULE_CLASH"))
    if found:
        raise InvalidSpec(found.values())
    return admitted

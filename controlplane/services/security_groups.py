"""Security groups: made, changed and deleted, and what the interfaces of an instance carry of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.domain.instances import InstanceNic, Nic
from controlplane.domain.kinds import INSTANCE, SECURITY_GROUP
from controlplane.domain.names import check_id, check_labels, parse_child
from controlplane.domain.security_groups import SecurityGroup, SecurityGroupSpec, SecurityRule
from controlplane.history import record_event
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.group_uses import groups_needing
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from controlplane.services.security_group_rules import check_spec
from moorage.errors import AlreadyExists, InvalidSpec, NotFound, NotReady
from moorage.router_bundle import TrafficProtocol
from moorage.store.base import Transaction, View

_FIELD = "security_group.spec"


class SecurityGroupService:
    """What callers can do with security groups."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        group_id: str,
        labels: Mapping[str, str],
        spec: SecurityGroupSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> SecurityGroup:
        """Make a group.

        Raises:
            InvalidSpec (CIDR_INVALID, PORTS_INVALID, RULE_DUPLICATE and others), AlreadyExists, NotFound (project, a rule's group).
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> SecurityGroup:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.security_group(tx, project_id, names[0].rpartition("/")[2])
            lookup.project(tx, project_id)
            violations = check_id(group_id, "security_group_id") + check_labels(dict(labels), "security_group.labels")
            violations += check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            name = f"projects/{project_id}/securityGroups/{group_id}"
            if tx.get(SECURITY_GROUP, f"{project_id}/{group_id}") is not None:
                raise AlreadyExists(f"{name} exists; choose another name", metadata={"name": name})
            group = SecurityGroup(uid, project_id, group_id, self._context.clock.now(), spec, labels=dict(labels))
            group = _resolved(tx, group)
            tx.put(SECURITY_GROUP, group)
            record_event(tx, self._context.clock, group, "CREATED", _describe(group.spec), project=project_id)
            if request_key:
                lookup.remember(tx, request_key, body, (group.name,), self._context.clock.now())
            return group

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, group_id: str) -> SecurityGroup:
        """One group. Raises NotFound."""
        return lookup.security_group(self._context.store.view(), project_id, group_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[SecurityGroup]:
        """A page of a project's groups; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            SECURITY_GROUP,
            request,
            scope=f"security groups of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda g, name: label_field(g.labels, name),
            admits=(lambda g: g.project in visible) if every and visible is not None else None,
        )

    async def update(
        self,
        project_id: str,
        group_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        spec_fields: Mapping[str, object] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> SecurityGroup:
        """Change labels or fields of the spec, each as a whole. Raises NotFound, InvalidSpec, VersionConflict."""
        changes = dict(spec_fields or {})

        def change(tx: Transaction) -> SecurityGroup:
            group = lookup.security_group(tx, project_id, group_id)
            lookup.check_etag(group, etag, group.name)
            spec: SecurityGroupSpec = replace(group.spec, **changes)  # type: ignore[arg-type]
            new_labels = dict(group.labels if labels is None else labels)
            violations = check_labels(new_labels, "security_group.labels") + check_spec(spec, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            changed = replace(group, spec=spec, labels=new_labels, generation=group.generation + 1)
            changed = _resolved(tx, changed)
            tx.put(SECURITY_GROUP, changed)
            if changed.spec != group.spec:
                record_event(
                    tx, self._context.clock, changed, "RULES_CHANGED", _describe(changed.spec), project=project_id
                )
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, group_id: str, *, etag: str = "") -> None:
        """Delete a group that nothing carries or names. Raises NotFound, NotReady (SECURITY_GROUP_IN_USE), VersionConflict."""

        def remove(tx: Transaction) -> None:
            group = lookup.security_group(tx, project_id, group_id)
            lookup.check_etag(group, etag, group.name)
            members = [found.value.name for found in tx.find(INSTANCE, "security_group", group.uid)]
            naming = [g.value.name for g in tx.find(SECURITY_GROUP, "named", group.uid) if g.value.uid != group.uid]
            if members or naming:
                first = f"an interface of {members[0]} carries it" if members else f"a rule of {naming[0]} names it"
                raise NotReady(
                    f"{group.name} is in use: {first}; change that first",
                    reason="SECURITY_GROUP_IN_USE",
                    metadata={"instances": str(len(members)), "groups": str(len(naming))},
                )
            groups = groups_needing(
                tx, project_id, lambda spec: any(group.name in n.security_groups for n in spec.nics)
            )
            if groups:
                raise NotReady(
                    f"interfaces of members of {groups[0]} carry {group.name}; change or delete that first",
                    reason="SECURITY_GROUP_IN_USE",
                    metadata={"groups": str(len(groups))},
                )
            tx.delete(SECURITY_GROUP, SECURITY_GROUP.key(group))
            record_event(tx, self._context.clock, group, "DELETED", "asked for", project=project_id)

        await self._context.store.update(remove)

    def members(self, group: SecurityGroup) -> int:
        """How many interfaces carry it."""
        carriers = self._context.store.view().find(INSTANCE, "security_group", group.uid)
        return sum(group.uid in nic.security_group_uids for found in carriers for nic in found.value.nics)


def find_group(view: View, project_id: str, name: str, field: str) -> SecurityGroup:
    """The group that a request names in full or by its last part. Raises InvalidSpec (OTHER_PROJECT), NotFound."""
    group_id = name
    if "/" in name:
        owner, group_id = parse_child(name, "securityGroups", field)
        if owner != project_id:
            raise InvalidSpec.of(field, f"is not in projects/{project_id}", "OTHER_PROJECT")
    found = view.get(SECURITY_GROUP, f"{project_id}/{group_id}")
    if found is None:
        full = f"projects/{project_id}/securityGroups/{group_id}"
        raise NotFound(f"{full} does not exist ({field})", metadata={"name": full, "field": field})
    return found.value


def with_full_names(view: View, project_id: str, nic: Nic, where: str) -> Nic:
    """The nic with its groups by their full names, in order of name. Raises InvalidSpec, NotFound."""
    groups = [
        find_group(view, project_id, name, f"{where}.security_groups[{index}]")
        for index, name in enumerate(nic.security_groups)
    ]
    return replace(nic, security_groups=tuple(sorted(group.name for group in groups)))


def grouped(view: View, nics: Sequence[Nic], leased: Sequence[InstanceNic]) -> tuple[InstanceNic, ...]:
    """The interfaces with the groups that their nics name in full."""
    found = []
    for nic, own in zip(nics, leased, strict=True):
        groups = [lookup.security_group(view, *parse_child(name, "securityGroups")) for name in nic.security_groups]
        uids = tuple(group.uid for group in groups)
        found.append(replace(own, security_groups=nic.security_groups, security_group_uids=uids))
    return tuple(found)


def _resolved(view: View, group: SecurityGroup) -> SecurityGroup:
    """With nothing left to guess in its rules: protocols named, groups by full name, and their uids beside."""
    uids: dict[str, str] = {}
    rules: dict[SecurityRule, None] = {}
    for index, rule in enumerate(group.spec.rules):
        where = f"{_FIELD}.rules[{index}]"
        named = rule.group
        if named:
            is_itself = named in (group.id, group.name)
            other = group if is_itself else find_group(view, group.project, named, f"{where}.group")
            named = other.name
            uids[named] = other.uid
        protocol = TrafficProtocol.ANY if rule.protocol is TrafficProtocol.UNSPECIFIED else rule.protocol
        full = replace(rule, protocol=protocol, group=named)
        if full in rules:
            raise InvalidSpec.of(where, "means the same as a rule before it; leave one out", "RULE_DUPLICATE")
        rules[full] = None
    return replace(group, spec=replace(group.spec, rules=tuple(rules)), group_uids=uids)


def _describe(spec: SecurityGroupSpec) -> str:
    return f"{len(spec.rules)} rules" if len(spec.rules) != 1 else "1 rule"

"""security-group: who may reach interfaces, and whom they may reach."""

from collections.abc import Callable, Sequence
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.instance.lifecycle import no_wait_option, timeout_option
from cli.names import in_project, short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.plugging import nics_of, update_nics
from cli.session import Session, pass_session, project_option
from cli.spec import key_values
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec, NotFound
from moorage.ids import new_id
from moorage.v1 import instances_pb2, router_rules_pb2, security_groups_pb2

_EXAMPLE = "write in,tcp,port=80,cidr=10.0.0.0/8 or out,udp,port=53,group=dns or in,icmp,type=8"
_DIRECTIONS = {
    "in": security_groups_pb2.SECURITY_DIRECTION_IN,
    "out": security_groups_pb2.SECURITY_DIRECTION_OUT,
}
_PROTOCOLS = {
    name: getattr(router_rules_pb2, f"TRAFFIC_PROTOCOL_{name.upper()}")
    for name in ("any", "tcp", "udp", "icmp", "icmpv6")
}

COLUMNS = (
    Column("NAME", lambda group: short(group.name)),
    Column("MEMBERS", lambda group: str(group.status.members)),
    Column("RULES", lambda group: " ".join(map(rule_text, group.spec.rules))),
    Column("OUT", lambda group: "rules" if restricts(group.spec) else "free"),
    Column("AGE", lambda group: age(group.create_time)),
    Column("DESCRIPTION", lambda group: group.spec.description, wide=True),
    Column("LABELS", lambda group: pairs(group.labels.items()), wide=True),
)


def restricts(spec: security_groups_pb2.SecurityGroupSpec) -> bool:
    """Whether a group says what may leave."""
    return spec.deny_out or any(rule.direction == _DIRECTIONS["out"] for rule in spec.rules)


def parse_rule(project: str, word: str) -> security_groups_pb2.SecurityRule:
    """`in|out[,PROTOCOL][,port=80][,port=8000-8010][,type=8][,cidr=C]...[,group=G]`.

    Raises:
        InvalidSpec: not of this form. Whether ports and CIDRs are good, the control plane says.
    """
    direction, *parts = word.split(",")
    if direction not in _DIRECTIONS:
        raise InvalidSpec.of("rule", f"{word!r}: {_EXAMPLE}")
    rule = security_groups_pb2.SecurityRule(direction=_DIRECTIONS[direction], protocol=_PROTOCOLS["any"])
    for part in parts:
        key, _, value = part.partition("=")
        if part in _PROTOCOLS:
            rule.protocol = _PROTOCOLS[part]
        elif key == "port" and value:
            rule.ports.append(value)
        elif key == "type" and value.isdecimal():
            rule.icmp_type = min(int(value), 2**31 - 1)
        elif key == "cidr" and value:
            rule.cidrs.append(value)
        elif key == "group" and value:
            rule.group = in_project(project, "securityGroups", value)
        else:
            raise InvalidSpec.of("rule", f"{word!r}: {part!r} is not known; {_EXAMPLE}")
    return rule


def rule_text(rule: security_groups_pb2.SecurityRule) -> str:
    """What `parse_rule` reads."""
    words = [enum_word(security_groups_pb2.SecurityDirection, rule.direction).lower()]
    protocol = next((name for name, number in _PROTOCOLS.items() if number == rule.protocol), "any")
    words += [protocol] if protocol != "any" else []
    words += [f"port={port}" for port in rule.ports]
    words += [f"type={rule.icmp_type}"] if rule.HasField("icmp_type") else []
    words += [f"cidr={cidr}" for cidr in rule.cidrs]
    words += [f"group={short(rule.group)}"] if rule.group else []
    return ",".join(words)


def with_rules(
    have: Sequence[security_groups_pb2.SecurityRule],
    more: Sequence[security_groups_pb2.SecurityRule] = (),
    less: Sequence[security_groups_pb2.SecurityRule] = (),
) -> list[security_groups_pb2.SecurityRule]:
    """With more and fewer rules.

    Raises:
        NotFound: one that shall go is not there.
    """
    missing = [rule for rule in less if rule not in have]
    if missing:
        raise NotFound(f"there is no rule {rule_text(missing[0])}; `moor security-group get` lists them")
    return [*(rule for rule in have if rule not in less), *more]


_name = click.argument("name", shell_complete=complete_names("security_groups"))
_rules = click.argument("rules", nargs=-1, required=True, metavar="RULE...")


@click.group("security-group")
def security_group() -> None:
    """Security groups: who may reach interfaces, and whom they may reach.

    A RULE is in|out, then with commas a protocol (tcp, udp, icmp, icmpv6; none: any), port=N or port=N-M, type=N of ICMP, and from or to
    whom: cidr=C or group=G (none: everybody). To an interface with groups comes nothing that no rule allows, but answers. From it goes
    everything, unless one of its groups has an out rule or --deny-out.
    """


@security_group.command("create")
@click.argument("name")
@click.option("--rule", "rules", multiple=True, metavar="RULE", help="Such as in,tcp,port=80,cidr=10.0.0.0/8.")
@click.option("--deny-out", is_flag=True, help="Nothing leaves that no out rule allows, even while there is none.")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the group.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    name: str,
    rules: tuple[str, ...],
    deny_out: bool,
    description: str,
    label: tuple[str, ...],
    validate_only: bool,
    output: str,
) -> None:
    """Make a security group."""
    spec = security_groups_pb2.SecurityGroupSpec(
        description=description, rules=[parse_rule(session.project, word) for word in rules], deny_out=deny_out
    )

    async def work(client: Client) -> security_groups_pb2.SecurityGroup:
        request = security_groups_pb2.CreateSecurityGroupRequest(
            parent=session.project,
            security_group_id=short(name),
            security_group=security_groups_pb2.SecurityGroup(spec=spec, labels=key_values("label", label)),
            request_id=new_id(),
            validate_only=validate_only,
        )
        return await client.security_groups.CreateSecurityGroup(request)

    print_one(session.run(work), COLUMNS, output)


@security_group.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List security groups."""

    async def work(client: Client) -> list[Any]:
        request = security_groups_pb2.ListSecurityGroupsRequest(parent=session.parent(all_projects), filter=filter_text)
        pages = paginate(client.security_groups.ListSecurityGroups, request, lambda page: page.security_groups)
        return [found async for found in pages]

    print_list(session.run(work), COLUMNS, output)


@security_group.command("get")
@_name
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one security group."""

    async def work(client: Client) -> security_groups_pb2.SecurityGroup:
        return await _read(client, session.name_in_project("securityGroups", name))

    print_one(session.run(work), COLUMNS, output)


@security_group.command("update")
@_name
@click.option("--deny-out/--allow-out", default=None, help="Whether nothing leaves that no out rule allows.")
@click.option("--description", default=None, metavar="TEXT", help="For people.")
@project_option
@output_option("name")
@pass_session
def update(session: Session, name: str, deny_out: bool | None, description: str | None, output: str) -> None:
    """Change a security group; its rules: `moor security-group rule`."""
    if deny_out is None and description is None:
        raise click.UsageError("nothing to change: give an option")

    async def work(client: Client) -> security_groups_pb2.SecurityGroup:
        changed = security_groups_pb2.SecurityGroup(name=session.name_in_project("securityGroups", name))
        paths = []
        if deny_out is not None:
            changed.spec.deny_out = deny_out
            paths.append("spec.deny_out")
        if description is not None:
            changed.spec.description = description
            paths.append("spec.description")
        return await _write(client, changed, paths)

    print_one(session.run(work), COLUMNS, output)


@security_group.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names("security_groups"))
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Delete security groups that nothing uses."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("securityGroups", name)
            request = security_groups_pb2.DeleteSecurityGroupRequest(name=full_name)
            await client.security_groups.DeleteSecurityGroup(request)
            click.echo(f"Deleted {short(full_name)}.")

    session.run(work)


@security_group.group("rule")
def rule() -> None:
    """Rules of a security group, in force at once, for open connections too."""


@rule.command("add")
@_name
@_rules
@project_option
@output_option("table")
@pass_session
def rule_add(session: Session, name: str, rules: tuple[str, ...], output: str) -> None:
    """Allow more."""
    wanted = [parse_rule(session.project, word) for word in rules]
    _change_rules(session, name, lambda have: with_rules(have, more=wanted), output)


@rule.command("rm")
@_name
@_rules
@project_option
@output_option("table")
@pass_session
def rule_rm(session: Session, name: str, rules: tuple[str, ...], output: str) -> None:
    """Allow less: these rules go, written as they are listed."""
    unwanted = [parse_rule(session.project, word) for word in rules]
    _change_rules(session, name, lambda have: with_rules(have, less=unwanted), output)


@security_group.command("attach")
@_name
@click.argument("instance", shell_complete=complete_names("instances"))
@click.option("--network", default="", metavar="NETWORK", help="Its interface on this network only.")
@no_wait_option
@timeout_option
@project_option
@pass_session
def attach(session: Session, name: str, instance: str, network: str, no_wait: bool, timeout: str) -> None:
    """Give the interfaces of an instance a security group, also while it runs."""
    full_name = session.name_in_project("securityGroups", name)
    _change_groups(session, instance, network, lambda have: {*have, full_name}, no_wait=no_wait, timeout=timeout)


@security_group.command("detach")
@_name
@click.argument("instance", shell_complete=complete_names("instances"))
@click.option("--network", default="", metavar="NETWORK", help="Its interface on this network only.")
@no_wait_option
@timeout_option
@project_option
@pass_session
def detach(session: Session, name: str, instance: str, network: str, no_wait: bool, timeout: str) -> None:
    """Take a security group off the interfaces of an instance; without any an interface is not filtered."""
    full_name = session.name_in_project("securityGroups", name)
    _change_groups(session, instance, network, lambda have: have - {full_name}, no_wait=no_wait, timeout=timeout)


async def _read(client: Client, full_name: str) -> security_groups_pb2.SecurityGroup:
    return await client.security_groups.GetSecurityGroup(security_groups_pb2.GetSecurityGroupRequest(name=full_name))


async def _write(
    client: Client, changed: security_groups_pb2.SecurityGroup, paths: list[str]
) -> security_groups_pb2.SecurityGroup:
    mask = field_mask_pb2.FieldMask(paths=paths)
    request = security_groups_pb2.UpdateSecurityGroupRequest(security_group=changed, update_mask=mask)
    return await client.security_groups.UpdateSecurityGroup(request)


def _change_rules(
    session: Session,
    name: str,
    change: Callable[[Sequence[security_groups_pb2.SecurityRule]], list[security_groups_pb2.SecurityRule]],
    output: str,
) -> None:
    """The rules are sent with the etag that they were read with, so that two at once cannot undo each other."""

    async def work(client: Client) -> security_groups_pb2.SecurityGroup:
        found = await _read(client, session.name_in_project("securityGroups", name))
        changed = security_groups_pb2.SecurityGroup(name=found.name, etag=found.etag)
        changed.spec.rules.extend(change(found.spec.rules))
        return await _write(client, changed, ["spec.rules"])

    print_one(session.run(work), COLUMNS, output)


def regrouped(
    instance: instances_pb2.Instance, network: str, change: Callable[[set[str]], set[str]]
) -> list[instances_pb2.Nic]:
    """The instance's interfaces with other groups: all, or the one on a network.

    Raises:
        NotFound: it is not on that network.
    """
    project = "/".join(instance.name.split("/")[:2])
    found = []
    is_on_it = False
    for nic in nics_of(instance):
        changed = instances_pb2.Nic()
        changed.CopyFrom(nic)
        if not network or short(nic.network) == short(network):
            is_on_it = True
            have = {in_project(project, "securityGroups", name) for name in nic.security_groups}
            del changed.security_groups[:]
            changed.security_groups.extend(sorted(change(have)))
        found.append(changed)
    if not is_on_it:
        where = f"on {short(network)}" if network else "at all"
        raise NotFound(f"{short(instance.name)} has no interface {where}", reason="NOT_ATTACHED")
    return found


def _change_groups(
    session: Session,
    instance: str,
    network: str,
    change: Callable[[set[str]], set[str]],
    *,
    no_wait: bool,
    timeout: str,
) -> None:
    update_nics(session, instance, lambda found: regrouped(found, network, change), no_wait=no_wait, timeout=timeout)

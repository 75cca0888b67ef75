"""router rule: what a router lets through, and where it leads."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli.completion import complete_names
from cli.instance.lifecycle import timeout_option
from cli.names import short
from cli.output import Column, age, output_option, pairs, print_list, print_one
from cli.router import words
from cli.router.figures import warn_of_missing
from cli.router.rule_file import read_rules
from cli.run_options import Decorator, add_options, many, one
from cli.session import Session, pass_session, project_option
from cli.spec import key_values
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.units import format_bytes, parse_duration
from moorage.v1 import router_rules_pb2

COLUMNS = (
    Column("NAME", lambda rule: short(rule.name)),
    Column("KIND", lambda rule: words.kind_of(rule.spec)),
    Column("WHAT", lambda rule: words.describe(rule.spec)),
    Column("ORDER", lambda rule: str(rule.spec.firewall.order) if rule.spec.HasField("firewall") else ""),
    Column("ACTIVE", lambda rule: "yes" if rule.status.active else "no"),
    Column("AGE", lambda rule: age(rule.create_time)),
    Column("PUBLIC", lambda rule: rule.status.public_address, wide=True),
    Column("TARGET", lambda rule: rule.status.target_address, wide=True),
    Column("MESSAGE", lambda rule: rule.status.message, wide=True),
    Column("LABELS", lambda rule: pairs(rule.labels.items()), wide=True),
)

_ADD: tuple[Decorator, ...] = (
    one("--name", metavar="NAME", text="Name of the rule; default one is made."),
    many("--label", "-l", metavar="K=V", text="Label of the rule."),
    click.option("--validate-only", is_flag=True, help="Check only."),
    click.option("--wait", is_flag=True, help="Until all of its containers that run have it in force."),
    timeout_option,
    project_option,
    output_option("name"),
)
_router = click.argument("router", shell_complete=complete_names("routers"))
_instance = click.argument("instance", shell_complete=complete_names("instances"))


@click.group("rule")
def rule() -> None:
    """Rules of routers: addresses, ports and what may pass."""


@rule.group("add")
def add() -> None:
    """Make a rule."""


def _add(session: Session, router: str, spec: router_rules_pb2.RouterRuleSpec, options: dict[str, Any]) -> None:
    """Make one rule, wait for it if that is asked for, and print it."""

    async def work(client: Client) -> router_rules_pb2.RouterRule:
        request = router_rules_pb2.CreateRouterRuleRequest(
            parent=session.name_in_project("routers", router),
            rule_id=options["name"] or "",
            rule=router_rules_pb2.RouterRule(spec=spec, labels=key_values("label", options["label"])),
            request_id=new_id(),
            validate_only=options["validate_only"],
        )
        made = await client.router_rules.CreateRouterRule(request)
        if options["wait"] and not options["validate_only"]:
            (made,) = await client.wait_router_rules([made.name], _seconds(options["timeout"]))
        return made

    print_one(session.run(work), COLUMNS, options["output"])


@add.command("forward")
@_router
@click.argument("forward", metavar="[ADDRESS:]PORT:INSTANCE[:PORT][/udp]")
@many("--from", "sources", metavar="CIDR", text="Who may come; default everybody.")
@add_options(_ADD)
@pass_session
def add_forward(session: Session, /, router: str, forward: str, sources: tuple[str, ...], **options: Any) -> None:
    """Lead ports of the router's own or a public address to an instance.

    PORT may be a range, such as 6000-6010. Without ADDRESS it is of the router's own outside address.
    """
    spec = router_rules_pb2.RouterRuleSpec(port_forward=words.forward(forward, sources))
    _add(session, router, spec, options)


@add.command("static-nat")
@_router
@click.argument("public_address", metavar="ADDRESS", shell_complete=complete_names("public_addresses"))
@_instance
@add_options(_ADD)
@pass_session
def add_static_nat(session: Session, /, router: str, public_address: str, instance: str, **options: Any) -> None:
    """Give an instance a public address to itself, both ways; what may come in, allow rules say."""
    nat = router_rules_pb2.StaticNat(public_address=public_address, instance=instance)
    _add(session, router, router_rules_pb2.RouterRuleSpec(static_nat=nat), options)


@add.command("source-nat")
@_router
@click.argument("source", metavar="CIDR")
@click.argument("public_address", metavar="ADDRESS", shell_complete=complete_names("public_addresses"))
@add_options(_ADD)
@pass_session
def add_source_nat(session: Session, /, router: str, source: str, public_address: str, **options: Any) -> None:
    """Let instances of these addresses leave under a public address."""
    nat = router_rules_pb2.SourceNat(source_cidr=source, public_address=public_address)
    _add(session, router, router_rules_pb2.RouterRuleSpec(source_nat=nat), options)


_FIREWALL: tuple[Decorator, ...] = (
    _router,
    click.argument("direction", type=click.Choice(words.DIRECTIONS)),
    click.argument("protocol", type=click.Choice(words.PROTOCOLS), default="any", required=False),
    click.argument("ports", nargs=-1),
    many("--from", "sources", metavar="CIDR", text="Sources; default all."),
    many("--to", "destinations", metavar="CIDR", text="Destinations, after any translation; default all."),
    one("--from-network", metavar="NETWORK", text="across: where it comes from; default any."),
    one("--to-network", metavar="NETWORK", text="across: where it goes; default any."),
    click.option(
        "--order",
        type=click.IntRange(0, 65535),
        default=0,
        help="Lower ones are tried first; the first that fits decides.",
    ),
    click.option("--icmp-type", type=click.IntRange(0, 255), help="icmp and icmpv6: of this type only."),
    *_ADD,
)


def _add_firewall(session: Session, router: str, direction: str, options: dict[str, Any], *, deny: bool) -> None:
    spec = words.firewall(
        direction,
        deny=deny,
        protocol=options["protocol"],
        ports=options["ports"],
        sources=options["sources"],
        destinations=options["destinations"],
        from_network=options["from_network"] or "",
        to_network=options["to_network"] or "",
        order=options["order"],
        icmp_type=options["icmp_type"],
    )
    _add(session, router, router_rules_pb2.RouterRuleSpec(firewall=spec), options)


@add.command("allow")
@add_options(_FIREWALL)
@pass_session
def add_allow(session: Session, /, router: str, direction: str, **options: Any) -> None:
    """Let traffic pass: from outside (in), to it (out), or between networks (across).

    PORTS are destination ports of tcp or udp, such as 80 or 8000-8010.
    """
    _add_firewall(session, router, direction, options, deny=False)


@add.command("deny")
@add_options(_FIREWALL)
@pass_session
def add_deny(session: Session, /, router: str, direction: str, **options: Any) -> None:
    """Drop traffic: from outside (in), to it (out), or between networks (across).

    PORTS are destination ports of tcp or udp, such as 80 or 8000-8010.
    """
    _add_firewall(session, router, direction, options, deny=True)


@rule.command("ls")
@_router
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'kind=firewall labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, router: str, filter_text: str, output: str) -> None:
    """List the rules of a router."""

    async def work(client: Client) -> list[router_rules_pb2.RouterRule]:
        return await _all(client, session.name_in_project("routers", router), filter_text)

    print_list(session.run(work), COLUMNS, output)


async def _all(client: Client, router_name: str, filter_text: str = "") -> list[router_rules_pb2.RouterRule]:
    request = router_rules_pb2.ListRouterRulesRequest(parent=router_name, page_size=1000, filter=filter_text)
    return [found async for found in paginate(client.router_rules.ListRouterRules, request, lambda page: page.rules)]


@rule.command("get")
@_router
@click.argument("name")
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, router: str, name: str, output: str) -> None:
    """Show one rule."""

    async def work(client: Client) -> router_rules_pb2.RouterRule:
        full_name = f"{session.name_in_project('routers', router)}/rules/{short(name)}"
        return await client.router_rules.GetRouterRule(router_rules_pb2.GetRouterRuleRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)


@rule.command("rm")
@_router
@click.argument("names", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Until the router does without them.")
@timeout_option
@project_option
@pass_session
def rm(session: Session, router: str, names: tuple[str, ...], wait: bool, timeout: str) -> None:
    """Delete rules of a router, all or none."""

    async def work(client: Client) -> None:
        parent = session.name_in_project("routers", router)
        full_names = [f"{parent}/rules/{short(name)}" for name in names]
        request = router_rules_pb2.BatchDeleteRouterRulesRequest(parent=parent, names=full_names)
        await client.router_rules.BatchDeleteRouterRules(request)
        for name in full_names:
            click.echo(f"Deleted {short(name)}.")
        if wait:
            await client.wait_router(parent, _seconds(timeout))

    session.run(work)


COUNTER_COLUMNS = (
    Column("RULE", lambda counter: short(counter.rule)),
    Column("PACKETS", lambda counter: str(counter.packets)),
    Column("BYTES", lambda counter: format_bytes(counter.bytes)),
)


@rule.command("counters")
@_router
@project_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print.",
)
@pass_session
def counters(session: Session, router: str, output: str) -> None:
    """Show what each rule of a router counted since its start, in all of its containers; of translations, connections' first packets."""

    async def work(client: Client) -> router_rules_pb2.ListRuleCountersResponse:
        request = router_rules_pb2.ListRuleCountersRequest(parent=session.name_in_project("routers", router))
        return await client.router_rules.ListRuleCounters(request)

    answer = session.run(work)
    print_list(list(answer.counters), COUNTER_COLUMNS, output)
    warn_of_missing(answer.missing)


@rule.command("apply")
@_router
@click.option(
    "--file", "-f", "file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="YAML; - reads."
)
@click.option("--prune", is_flag=True, help="Delete the router's rules that are not in the file.")
@click.option("--wait", is_flag=True, help="Until all of its containers that run have all of it in force.")
@timeout_option
@project_option
@pass_session
def apply(session: Session, router: str, file: Path, prune: bool, wait: bool, timeout: str) -> None:
    """Make the rules of a YAML file, all or none; rules that are there are changed where they differ.

    The file is a list of rules as `moor router rule get` prints their spec, each with a name, such as

    \b
    - name: web
      port_forward: {first_port: 8080, instance: web-1, target_port: 80}
    - name: office
      firewall: {direction: FIREWALL_DIRECTION_IN, source_cidrs: [203.0.113.0/24]}
    """
    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    wanted = read_rules(text)

    async def work(client: Client) -> None:
        parent = session.name_in_project("routers", router)
        known = {short(found.name): found for found in await _all(client, parent)}
        names = [item.rule_id for item in wanted]
        if prune and (gone := sorted(set(known) - set(names))):
            await _delete(client, parent, gone)
        for item in wanted:
            if item.rule_id in known:
                await _change(client, known[item.rule_id], item.rule)
        new = [item for item in wanted if item.rule_id not in known]
        if new:
            request = router_rules_pb2.BatchCreateRouterRulesRequest(parent=parent, requests=new, request_id=new_id())
            await client.router_rules.BatchCreateRouterRules(request)
            for item in new:
                click.echo(f"Made {item.rule_id}.")
        if wait:
            await client.wait_router_rules([f"{parent}/rules/{name}" for name in names], _seconds(timeout))

    session.run(work)


async def _delete(client: Client, parent: str, names: Sequence[str]) -> None:
    full_names = [f"{parent}/rules/{name}" for name in names]
    request = router_rules_pb2.BatchDeleteRouterRulesRequest(parent=parent, names=full_names)
    await client.router_rules.BatchDeleteRouterRules(request)
    for name in names:
        click.echo(f"Deleted {name}.")


async def _change(client: Client, known: router_rules_pb2.RouterRule, wanted: router_rules_pb2.RouterRule) -> None:
    """Change a rule that differs from what the file says. The control plane's own spelling is what is compared."""
    changed = router_rules_pb2.RouterRule(name=known.name, etag=known.etag, spec=wanted.spec, labels=wanted.labels)
    request = router_rules_pb2.UpdateRouterRuleRequest(rule=changed, validate_only=True)
    request.update_mask.paths.extend(["spec", "labels"])
    checked = await client.router_rules.UpdateRouterRule(request)
    if (checked.spec, dict(checked.labels)) == (known.spec, dict(known.labels)):
        return
    request.validate_only = False
    await client.router_rules.UpdateRouterRule(request)
    click.echo(f"Changed {short(known.name)}.")


def _seconds(timeout: str) -> float:
    return parse_duration(timeout, field="timeout")

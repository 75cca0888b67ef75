"""router: made, changed and removed."""

from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.instance.lifecycle import timeout_option
from cli.names import short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.router.rules import rule
from cli.router.words import edge_hosts, leg
from cli.run_options import RESOURCES, Decorator, add_options, flag, many, one
from cli.session import Session, pass_session, project_option
from cli.spec import apply_options, duration, key_values, publish
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.units import parse_duration
from moorage.v1 import instances_pb2, routers_pb2

COLUMNS = (
    Column("NAME", lambda router: short(router.name)),
    Column("STATE", lambda router: enum_word(routers_pb2.RouterState, router.status.state)),
    Column("NETWORKS", lambda router: ",".join(short(one.network) for one in router.spec.legs)),
    Column("OUTSIDE", lambda router: short(router.spec.outside_network)),
    Column("ADDRESSES", lambda router: ",".join(router.status.outside_addresses)),
    Column("HOSTS", lambda router: ",".join(_hosts(router))),
    Column("AGE", lambda router: age(router.create_time)),
    Column("MESSAGE", lambda router: router.status.message, wide=True),
    Column("LABELS", lambda router: pairs(router.labels.items()), wide=True),
)

_CHANGEABLE: tuple[Decorator, ...] = (
    one("--drain-time", metavar="TIME", text="How long old connections of balancers may go on; default 60s."),
    many("--ingress", metavar="HOST_PORT:PORT[/udp]", text="Port of its hosts that leads to its outside address."),
    many(
        "--edge-hosts", metavar="K=V | all", text="More hosts that take the ingress ports: with these labels, or all."
    ),
)
_PLACE: tuple[Decorator, ...] = (
    one("--zone", metavar="ZONE", text="Hosts of this zone only."),
    one("--host", metavar="HOST", text="This host only."),
    many("--host-label", metavar="K=V", text="Hosts with this label only."),
)
wait_option = click.option("--wait", is_flag=True, help="Until it is in force in all of its containers.")
router_argument = click.argument("router", shell_complete=complete_names("routers"))


def _hosts(router: routers_pb2.Router) -> list[str]:
    """Of its containers; the active one of a pair has a star."""
    is_pair = router.spec.redundant
    return [
        f"{short(member.host)}{'*' if is_pair and member.role == routers_pb2.ROUTER_ROLE_ACTIVE else ''}"
        for member in router.status.members
        if member.host
    ]


@click.group("router")
def router() -> None:
    """Virtual routers: ways between networks, in and out."""


router.add_command(rule)


@router.command("create")
@click.argument("name")
@many("--network", metavar="NETWORK[,egress=deny]", text="Isolated network behind it; at least one.")
@one("--outside", metavar="NETWORK", text="Where it meets the outside; default the network outside, which is made.")
@one("--template", metavar="TEMPLATE", text="What it is made from; default router of the project system.")
@flag("--redundant", text="Two containers on two hosts, of which one is active.")
@add_options((*_CHANGEABLE, *RESOURCES, *_PLACE))
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the router.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    /,
    name: str,
    network: tuple[str, ...],
    outside: str | None,
    template: str | None,
    redundant: bool,
    label: tuple[str, ...],
    validate_only: bool,
    wait: bool,
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Make a router before isolated networks; it holds their gateway addresses."""
    member = instances_pb2.InstanceSpec()
    apply_options(member, {k: v for k, v in options.items() if k not in _CHANGEABLE_NAMES}, session.project, {})
    spec = routers_pb2.RouterSpec(
        legs=[leg(word) for word in network],
        outside_network=outside or "",
        template=template or "",
        redundant=redundant,
        resources=member.resources if member.HasField("resources") else None,
        placement=member.placement if member.HasField("placement") else None,
    )
    _apply(spec, options)

    async def work(client: Client) -> routers_pb2.Router:
        request = routers_pb2.CreateRouterRequest(
            parent=session.project,
            router_id=short(name),
            router=routers_pb2.Router(spec=spec, labels=key_values("label", label)),
            request_id=new_id(),
            validate_only=validate_only,
        )
        made = await client.routers.CreateRouter(request)
        return (
            await client.wait_router(made.name, _seconds(timeout), every_member=True)
            if wait and not validate_only
            else made
        )

    print_one(session.run(work), COLUMNS, output)


_CHANGEABLE_NAMES = frozenset({"drain_time", "ingress", "edge_hosts"})


def _apply(spec: routers_pb2.RouterSpec, options: dict[str, Any]) -> list[str]:
    """What can be changed later too. Returns the paths that were set."""
    paths = []
    if options.get("drain_time"):
        spec.drain_time.CopyFrom(duration("drain-time", options["drain_time"]))
        paths.append("spec.drain_time")
    if options.get("ingress"):
        for word in options["ingress"] if options["ingress"] != ("none",) else ():
            spec.ingress_ports.extend(publish(word))
        paths.append("spec.ingress_ports")
    if options.get("edge_hosts"):
        edges = edge_hosts(options["edge_hosts"]) if options["edge_hosts"] != ("none",) else None
        if edges is not None:
            spec.edge_hosts.CopyFrom(edges)
        paths.append("spec.edge_hosts")
    return paths


def _seconds(timeout: str) -> float:
    return parse_duration(timeout, field="timeout")


@router.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List routers."""

    async def work(client: Client) -> list[routers_pb2.Router]:
        request = routers_pb2.ListRoutersRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.routers.ListRouters, request, lambda page: page.routers)]

    print_list(session.run(work), COLUMNS, output)


@router.command("get")
@router_argument
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, router: str, output: str) -> None:
    """Show one router."""

    async def work(client: Client) -> routers_pb2.Router:
        name = session.name_in_project("routers", router)
        return await client.routers.GetRouter(routers_pb2.GetRouterRequest(name=name))

    print_one(session.run(work), COLUMNS, output)


@router.command("update")
@router_argument
@many("--network", metavar="NETWORK[,egress=deny]", text="All networks behind it, anew.")
@click.option("--redundant/--no-redundant", default=None, help="Two containers on two hosts, or one.")
@add_options(_CHANGEABLE)
@wait_option
@timeout_option
@project_option
@output_option("name")
@pass_session
def update(
    session: Session,
    /,
    router: str,
    network: tuple[str, ...],
    redundant: bool | None,
    wait: bool,
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Change a router; `none` takes ingress ports or edge hosts away."""
    changed = routers_pb2.Router(name=session.name_in_project("routers", router))
    paths = _apply(changed.spec, options)
    if network:
        changed.spec.legs.extend(leg(word) for word in network)
        paths.append("spec.legs")
    if redundant is not None:
        changed.spec.redundant = redundant
        paths.append("spec.redundant")
    if not paths:
        raise click.UsageError("Say what to change, such as --network or --ingress.")

    async def work(client: Client) -> routers_pb2.Router:
        mask = field_mask_pb2.FieldMask(paths=paths)
        request = routers_pb2.UpdateRouterRequest(router=changed, update_mask=mask)
        made = await client.routers.UpdateRouter(request)
        return await client.wait_router(made.name, _seconds(timeout), every_member=True) if wait else made

    print_one(session.run(work), COLUMNS, output)


@router.command("rm")
@click.argument("routers", nargs=-1, required=True, shell_complete=complete_names("routers"))
@click.option("--force", is_flag=True, help="Rules and balancers go with it.")
@project_option
@pass_session
def rm(session: Session, routers: tuple[str, ...], force: bool) -> None:
    """Delete routers; their containers go by and by."""

    async def work(client: Client) -> None:
        for word in routers:
            name = session.name_in_project("routers", word)
            await client.routers.DeleteRouter(routers_pb2.DeleteRouterRequest(name=name, force=force))
            click.echo(f"Deleting {short(name)}.")

    session.run(work)

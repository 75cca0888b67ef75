"""balancer: made, changed, looked at and removed."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.balancer import words
from cli.completion import complete_names
from cli.instance.lifecycle import timeout_option
from cli.names import short
from cli.output import Column, age, output_option, pairs, print_list, print_one, print_rows
from cli.router.figures import warn_of_missing
from cli.run_options import Decorator, add_options, many, one
from cli.session import Session, pass_session, project_option
from cli.spec import duration, key_values
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec
from moorage.ids import new_id
from moorage.units import parse_duration
from moorage.v1 import balancers_pb2

COLUMNS = (
    Column("NAME", lambda balancer: short(balancer.name)),
    Column("MODE", words.mode_word),
    Column("LISTENERS", lambda balancer: words.describe_listeners(balancer.spec.listeners)),
    Column("BACKENDS", lambda balancer: words.describe_backends(balancer.spec.pools)),
    Column("ACTIVE", lambda balancer: "yes" if balancer.status.active else "no"),
    Column("AGE", lambda balancer: age(balancer.create_time)),
    Column("ENDPOINTS", lambda balancer: ",".join(balancer.status.endpoints), wide=True),
    Column("MESSAGE", lambda balancer: balancer.status.message, wide=True),
    Column("LABELS", lambda balancer: pairs(balancer.labels.items()), wide=True),
)

_SPEC: tuple[Decorator, ...] = (
    click.option(
        "--mode", type=click.Choice(list(words.MODES)), default=None, help="Connections (default) or requests."
    ),
    many("--listen", metavar="[ADDRESS:]PORT[,...]", text="Where clients come in; inside=, cert=, key=, proxy, from=."),
    many(
        "--backend",
        metavar="INSTANCE:PORT[,...]",
        text="An instance, or groups/GROUP, behind it; weight=, pool=, drain.",
    ),
    many("--route", metavar="HOST[/PATH]=POOL", text="Requests that go elsewhere than to the first pool."),
    click.option("--algorithm", type=click.Choice(list(words.ALGORITHMS)), default=None, help="Default roundrobin."),
    click.option("--sticky", type=click.Choice(list(words.STICKINESS)), default=None, help="Default none."),
    one("--check", metavar="tcp|/PATH|none", text="How back ends are looked at; default tcp."),
    one("--check-host", metavar="HOST", text="Host header of the check."),
    one("--check-interval", metavar="TIME", text="Default 2s."),
    one("--check-timeout", metavar="TIME", text="Default the interval."),
    click.option("--rise", type=int, default=0, help="Good checks until it is up; default 2."),
    click.option("--fall", type=int, default=0, help="Bad checks until it is down; default 3."),
    click.option("--send-proxy/--no-send-proxy", default=None, help="Tell back ends the client by the PROXY protocol."),
    click.option("--forwarded-for/--no-forwarded-for", default=None, help="Set X-Forwarded-For and its kin (default)."),
    one("--idle-timeout", metavar="TIME", text="How long a connection may be silent; default 60s."),
    click.option(
        "-f", "--file", type=click.Path(path_type=Path), default=None, help="YAML of the whole; -: standard input."
    ),
)
_router = click.option(
    "--router", required=True, metavar="ROUTER", shell_complete=complete_names("routers"), help="Whose balancer it is."
)
_name = click.argument("name")
_wait = click.option("--wait", is_flag=True, help="Until all of the router's containers that run have it in force.")
_backends = click.argument("backends", nargs=-1, required=True, metavar="INSTANCE:PORT | groups/GROUP:PORT...")
_POOL_OPTIONS = ("check_host", "check_interval", "check_timeout", "rise", "fall")


@click.group("balancer")
def balancer() -> None:
    """Balancers: listeners of routers and the instances behind them."""


@balancer.command("create")
@_name
@_router
@add_options(_SPEC)
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the balancer.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@_wait
@timeout_option
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    /,
    name: str,
    router: str,
    label: tuple[str, ...],
    validate_only: bool,
    wait: bool,
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Make a balancer.

    With -f all is read from a file, whose fields are those of the API's BalancerSpec, in YAML; what options say goes before it:

    \b
    mode: BALANCER_MODE_HTTP
    listeners: [{port: 443, certificates: [{certificate_pem: "@site.pem", private_key_pem: "@site.key"}]}]
    pools: [{id: web, backends: [{instance: web-1, port: 8080}]}]
    """
    wanted = _from_file(options["file"])
    paths = _apply(wanted, options)
    if "spec.pools" not in paths and not wanted.spec.pools:
        wanted.spec.pools.extend(words.pools((), options))
    wanted.labels.update(key_values("label", label))

    async def work(client: Client) -> balancers_pb2.Balancer:
        request = balancers_pb2.CreateBalancerRequest(
            parent=session.name_in_project("routers", router),
            balancer_id=short(name),
            balancer=wanted,
            request_id=new_id(),
            validate_only=validate_only,
        )
        made = await client.balancers.CreateBalancer(request)
        return (
            await client.wait_balancer(made.name, parse_duration(timeout, field="timeout"))
            if wait and not validate_only
            else made
        )

    print_one(session.run(work), COLUMNS, output)


@balancer.command("ls")
@_router
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, router: str, filter_text: str, output: str) -> None:
    """List the balancers of a router."""

    async def work(client: Client) -> list[Any]:
        parent = session.name_in_project("routers", router)
        request = balancers_pb2.ListBalancersRequest(parent=parent, filter=filter_text)
        return [found async for found in paginate(client.balancers.ListBalancers, request, lambda page: page.balancers)]

    print_list(session.run(work), COLUMNS, output)


@balancer.command("get")
@_name
@_router
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, router: str, output: str) -> None:
    """Show one balancer. Private keys are not shown to anybody."""

    async def work(client: Client) -> balancers_pb2.Balancer:
        return await _read(client, _full_name(session, router, name))

    print_one(session.run(work), COLUMNS, output)


@balancer.command("update")
@_name
@_router
@add_options(_SPEC)
@_wait
@timeout_option
@project_option
@output_option("name")
@pass_session
def update(session: Session, /, name: str, router: str, wait: bool, timeout: str, output: str, **options: Any) -> None:
    """Change a balancer: listeners, back ends and routes that are named take the place of all that there are.

    Options of pools alone (--sticky, --check ...) change every pool and leave its back ends.
    """

    async def work(client: Client) -> balancers_pb2.Balancer:
        found = await _read(client, _full_name(session, router, name))
        wanted = _from_file(options["file"])
        paths = {f"spec.{field.name}" for field, _ in wanted.spec.ListFields()}
        if words.is_about_pools(options) and not options["backend"] and not wanted.spec.pools:
            wanted.spec.pools.extend(found.spec.pools)
            paths.add("spec.pools")
        for pool in wanted.spec.pools:
            words.apply_pool_options(pool, options)
        paths |= set(_apply(wanted, options))
        if wanted.labels:
            paths.add("labels")
        if not paths:
            raise click.UsageError("nothing to change: give an option")
        wanted.name, wanted.etag = found.name, found.etag
        changed = await _write(client, wanted, sorted(paths))
        return await client.wait_balancer(changed.name, parse_duration(timeout, field="timeout")) if wait else changed

    print_one(session.run(work), COLUMNS, output)


@balancer.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_router
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...], router: str) -> None:
    """Delete balancers. Connections that they have end."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = _full_name(session, router, name)
            await client.balancers.DeleteBalancer(balancers_pb2.DeleteBalancerRequest(name=full_name))
            click.echo(f"Deleted {short(full_name)}.")

    session.run(work)


@balancer.command("stats")
@_name
@_router
@project_option
@output_option()
@pass_session
def stats(session: Session, name: str, router: str, output: str) -> None:
    """Show what its pools and back ends do now, summed over the router's containers."""

    async def work(client: Client) -> balancers_pb2.GetBalancerStatisticsResponse:
        request = balancers_pb2.GetBalancerStatisticsRequest(name=_full_name(session, router, name))
        return await client.balancers.GetBalancerStatistics(request)

    answer = session.run(work)
    warn_of_missing(answer.missing)
    if output in ("json", "yaml"):
        print_one(answer, (), output)
        return
    rows = []
    for pool in answer.pools:
        totals = (str(pool.in_flight), str(pool.queued), str(pool.total), "")
        rows.append((pool.pool, "", "", *totals))
        rows += [
            (pool.pool, short(one.instance), one.state, str(one.in_flight), "", str(one.total), one.check)
            for one in pool.backends
        ]
    print_rows(("POOL", "BACKEND", "STATE", "IN FLIGHT", "QUEUED", "TOTAL", "CHECK"), rows)


@balancer.group("backend")
def backend() -> None:
    """Instances behind a balancer; changed without a reload."""


@backend.command("add")
@_name
@_backends
@_router
@project_option
@output_option("name")
@pass_session
def backend_add(session: Session, name: str, backends: tuple[str, ...], router: str, output: str) -> None:
    """Add back ends, to the first pool if none is named."""
    wanted = [words.backend(word) for word in backends]

    def change(found: balancers_pb2.Balancer) -> None:
        for pool_id, one_more in wanted:
            pools = [pool for pool in found.spec.pools if pool_id in ("", pool.id)]
            if not pools:
                raise InvalidSpec.of("backend", f"{found.name} has no pool {pool_id!r}")
            pools[0].backends.append(one_more)

    _change_pools(session, router, name, change, output)


@backend.command("rm")
@_name
@_backends
@_router
@project_option
@output_option("name")
@pass_session
def backend_rm(session: Session, name: str, backends: tuple[str, ...], router: str, output: str) -> None:
    """Take back ends away; requests that they have are finished."""

    def change(found: balancers_pb2.Balancer) -> None:
        gone = [words.find(found, word) for word in backends]
        for pool in found.spec.pools:
            kept = [one for one in pool.backends if not any(one is other for other in gone)]
            left = [balancers_pb2.Backend.FromString(one.SerializeToString()) for one in kept]
            del pool.backends[:]
            pool.backends.extend(left)

    _change_pools(session, router, name, change, output)


@backend.command("drain")
@_name
@_backends
@_router
@click.option("--undo", is_flag=True, help="They get new clients again.")
@project_option
@output_option("name")
@pass_session
def backend_drain(session: Session, name: str, backends: tuple[str, ...], router: str, undo: bool, output: str) -> None:
    """Give back ends no new clients; those that they have go on."""

    def change(found: balancers_pb2.Balancer) -> None:
        for word in backends:
            words.find(found, word).drain = not undo

    _change_pools(session, router, name, change, output)


@backend.command("weight")
@_name
@click.argument("backend_word", metavar="INSTANCE:PORT")
@click.argument("weight", type=click.IntRange(1, 256))
@_router
@project_option
@output_option("name")
@pass_session
def backend_weight(session: Session, name: str, backend_word: str, weight: int, router: str, output: str) -> None:
    """Change a back end's share of the traffic, 1-256."""

    def change(found: balancers_pb2.Balancer) -> None:
        words.find(found, backend_word).weight = weight

    _change_pools(session, router, name, change, output)


@balancer.group("certificate")
def certificate() -> None:
    """Certificates of a balancer's listeners."""


@certificate.command("add")
@_name
@click.argument("port", type=click.IntRange(1, 65535))
@click.argument("certificate_file", metavar="CERTIFICATE", type=click.Path(path_type=Path))
@click.argument("key_file", metavar="KEY", type=click.Path(path_type=Path))
@_router
@click.option("--replace", is_flag=True, help="In place of those that the listener has.")
@project_option
@output_option("name")
@pass_session
def certificate_add(
    session: Session,
    name: str,
    port: int,
    certificate_file: Path,
    key_file: Path,
    router: str,
    replace: bool,
    output: str,
) -> None:
    """Give the listeners of a port a certificate (PEM, with its chain) and its key.

    With --replace it is taken over without a reload.
    """
    pem, key = _text(certificate_file), _text(key_file)

    async def work(client: Client) -> balancers_pb2.Balancer:
        found = await _read(client, _full_name(session, router, name))
        listeners = [one for one in found.spec.listeners if one.port == port]
        if not listeners:
            raise InvalidSpec.of("port", f"{found.name} has no listener on {port}")
        for listener in listeners:
            if replace:
                listener.ClearField("certificates")
            listener.certificates.add(certificate_pem=pem, private_key_pem=key)
        return await _write(client, found, ["spec.listeners"])

    print_one(session.run(work), COLUMNS, output)


def _change_pools(
    session: Session, router: str, name: str, change: Callable[[balancers_pb2.Balancer], None], output: str
) -> None:
    """Pools are sent with the etag that they were read with, so that two at once cannot undo each other."""

    async def work(client: Client) -> balancers_pb2.Balancer:
        found = await _read(client, _full_name(session, router, name))
        change(found)
        return await _write(client, found, ["spec.pools"])

    print_one(session.run(work), COLUMNS, output)


def _full_name(session: Session, router: str, name: str) -> str:
    return f"{session.name_in_project('routers', router)}/balancers/{short(name)}"


async def _read(client: Client, full_name: str) -> balancers_pb2.Balancer:
    return await client.balancers.GetBalancer(balancers_pb2.GetBalancerRequest(name=full_name))


async def _write(client: Client, changed: balancers_pb2.Balancer, paths: list[str]) -> balancers_pb2.Balancer:
    mask = field_mask_pb2.FieldMask(paths=paths)
    return await client.balancers.UpdateBalancer(
        balancers_pb2.UpdateBalancerRequest(balancer=changed, update_mask=mask)
    )


def _from_file(file: Path | None) -> balancers_pb2.Balancer:
    if file is None:
        return balancers_pb2.Balancer()
    if str(file) == "-":
        return words.read_file(sys.stdin.read(), _text)
    return words.read_file(_text(file), lambda path: _text(file.parent / path))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSpec.of("file", f"{path} cannot be read: {exc}") from exc


def _apply(wanted: balancers_pb2.Balancer, options: dict[str, Any]) -> list[str]:
    """What options say. Returns the paths that were set."""
    if any(options[name] for name in _POOL_OPTIONS) and not options["check"]:
        raise click.UsageError("options of the check need --check")
    spec, paths = wanted.spec, []
    if options["mode"]:
        spec.mode = words.MODES[options["mode"]]
        paths.append("spec.mode")
    if options["listen"]:
        spec.ClearField("listeners")
        spec.listeners.extend(words.listener(word, _text) for word in options["listen"])
        paths.append("spec.listeners")
    if options["backend"]:
        spec.ClearField("pools")
        spec.pools.extend(words.pools(options["backend"], options))
        paths.append("spec.pools")
    if options["route"]:
        spec.ClearField("routes")
        spec.routes.extend(words.route(word) for word in options["route"] if word != "none")
        paths.append("spec.routes")
    if options["forwarded_for"] is not None:
        spec.forwarded_for = options["forwarded_for"]
        paths.append("spec.forwarded_for")
    if options["idle_timeout"]:
        spec.idle_timeout.CopyFrom(duration("idle-timeout", options["idle_timeout"]))
        paths.append("spec.idle_timeout")
    return paths

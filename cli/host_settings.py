"""host update: what hosts give to instances, and to whom."""

from collections.abc import Sequence
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.names import in_fleet, project_name, short
from cli.output import Column, output_option, print_list
from cli.run_options import many
from cli.session import Session, pass_session
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec
from moorage.units import format_bytes, format_cpu, parse_bytes, parse_cpu
from moorage.v1 import hosts_pb2

_NONE = "none"


def _ratios(host: Any) -> str:
    settings = host.settings
    return f"{settings.cpu_overcommit or 1:g}/{settings.memory_overcommit or 1:g}"


COLUMNS = (
    Column("NAME", lambda host: short(host.name)),
    Column("CPU", lambda host: format_cpu(host.capacity.cpu_millis)),
    Column("MEMORY", lambda host: format_bytes(host.capacity.memory_bytes)),
    Column("RESERVED CPU", lambda host: format_cpu(host.settings.reserved_cpu_millis)),
    Column("RESERVED MEMORY", lambda host: format_bytes(host.settings.reserved_memory_bytes)),
    Column("OVERCOMMIT", _ratios),
    Column("DEDICATED TO", lambda host: ",".join(short(name) for name in host.settings.dedicated_to)),
    Column("TAINTS", lambda host: ",".join(host.settings.taints)),
    Column("RESERVED FOR", lambda host: ",".join(short(part.project) for part in host.settings.reservations)),
)


def reservation(word: str) -> hosts_pb2.HostReservation:
    """`PROJECT:cpu=N,memory=BYTES`.

    Raises:
        InvalidSpec: not of this form.
    """
    project, colon, amounts = word.partition(":")
    made = hosts_pb2.HostReservation(project=project_name(project))
    for part in amounts.split(","):
        key, _, value = part.partition("=")
        if not colon or key not in ("cpu", "memory") or not value:
            raise InvalidSpec.of("reserve-for", f"{word!r}: write PROJECT:cpu=2,memory=4Gi")
        if key == "cpu":
            made.cpu_millis = parse_cpu(value, field="reserve-for")
        else:
            made.memory_bytes = parse_bytes(value, field="reserve-for")
    return made


def apply_settings(settings: hosts_pb2.HostSettings, options: dict[str, Any]) -> None:
    """Work the options into what a host has; what they do not name stays.

    Raises:
        InvalidSpec: an option cannot be understood.
    """
    if options["reserve_cpu"] is not None:
        settings.reserved_cpu_millis = parse_cpu(options["reserve_cpu"], field="reserve-cpu")
    if options["reserve_memory"] is not None:
        settings.reserved_memory_bytes = parse_bytes(options["reserve_memory"], field="reserve-memory")
    for name in ("cpu_overcommit", "memory_overcommit"):
        if options[name] is not None:
            setattr(settings, name, options[name])
    lists: Sequence[tuple[str, Any, Any]] = (
        ("dedicate", settings.dedicated_to, project_name),
        ("taint", settings.taints, str),
        ("reserve_for", settings.reservations, reservation),
    )
    for name, target, read in lists:
        if options[name]:
            del target[:]
            target.extend(read(word) for word in options[name] if word != _NONE)


@click.command("update")
@click.argument("names", nargs=-1)
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="All hosts such as 'labels.class=batch'.")
@click.option("--reserve-cpu", metavar="N", help="Cores that are kept for the machine itself, such as 0.5.")
@click.option("--reserve-memory", metavar="BYTES", help="Memory that is kept for the machine itself, such as 1Gi.")
@click.option("--cpu-overcommit", type=float, metavar="RATIO", help="Cores that can be reserved of each; 0 is 1.")
@click.option("--memory-overcommit", type=float, metavar="RATIO", help="The same of memory.")
@many("--dedicate", metavar="PROJECT", text="All projects that alone may use it, or none: everybody.")
@many("--taint", metavar="KEY=VALUE", text="All marks that keep away what does not tolerate them, or none.")
@many("--reserve-for", metavar="PROJECT:cpu=N,memory=BYTES", text="All parts that are kept for projects, or none.")
@output_option()
@pass_session
def update(session: Session, /, names: tuple[str, ...], filter_text: str, output: str, **options: Any) -> None:
    """Change what hosts give to instances, and to whom. What runs there stays."""
    if bool(names) == bool(filter_text):
        raise click.UsageError("name hosts, or give --filter")
    if not any(value not in (None, ()) for value in options.values()):
        raise click.UsageError("nothing to change: give an option")

    async def work(client: Client) -> list[hosts_pb2.Host]:
        if filter_text:
            request = hosts_pb2.ListHostsRequest(filter=filter_text)
            found = [one async for one in paginate(client.hosts.ListHosts, request, lambda page: page.hosts)]
        else:
            gets = (hosts_pb2.GetHostRequest(name=in_fleet("hosts", name)) for name in names)
            found = [await client.hosts.GetHost(get) for get in gets]
        changed: list[hosts_pb2.Host] = []
        for one in found:
            # With the etag that was read: a change by someone else in between is refused, not lost.
            wanted = hosts_pb2.Host(name=one.name, etag=one.etag, settings=one.settings)
            apply_settings(wanted.settings, options)
            mask = field_mask_pb2.FieldMask(paths=["settings"])
            changed.append(await client.hosts.UpdateHost(hosts_pb2.UpdateHostRequest(host=wanted, update_mask=mask)))
        return changed

    print_list(session.run(work), COLUMNS, output)

"""dns record: extra names of networks, besides those of their members."""

import click
from google.protobuf import duration_pb2, field_mask_pb2

from cli.completion import complete_names
from cli.names import short
from cli.output import Column, age, enum_word, output_option, print_list, print_one
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.v1 import dns_pb2

_TYPES = ("A", "AAAA", "CNAME", "TXT", "SRV", "MX")

COLUMNS = (
    Column("RECORD", lambda record: short(record.name)),
    Column("NAME", lambda record: record.fqdn),
    Column("TYPE", lambda record: enum_word(dns_pb2.DnsRecordType, record.spec.type)),
    Column("VALUES", lambda record: ",".join(record.spec.values)),
    Column("TTL", lambda record: str(record.spec.ttl.seconds or "")),
    Column("AGE", lambda record: age(record.create_time), wide=True),
)

network_argument = click.argument("network", shell_complete=complete_names("networks"))


@click.group("dns")
def dns() -> None:
    """Extra names of networks."""


@dns.group("record")
def record() -> None:
    """Names besides those of a network's members."""


@record.command("create")
@network_argument
@click.argument("name")
@click.argument("type_", metavar="TYPE", type=click.Choice(_TYPES, case_sensitive=False))
@click.argument("values", nargs=-1, required=True)
@click.option("--ttl", type=click.IntRange(min=0), default=0, metavar="SECONDS", help="Default 5.")
@click.option("--id", "record_id", default="", metavar="ID", help="Last part of its name; default NAME-TYPE.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    network: str,
    name: str,
    type_: str,
    values: tuple[str, ...],
    ttl: int,
    record_id: str,
    validate_only: bool,
    output: str,
) -> None:
    """Give a network a name besides those of its members.

    NAME is below the network's domain; @ is the domain itself, * every name that nothing else is said of.
    """
    spec = dns_pb2.DnsRecordSpec(
        name=name,
        type=dns_pb2.DnsRecordType.Value(f"DNS_RECORD_TYPE_{type_.upper()}"),
        values=values,
        ttl=duration_pb2.Duration(seconds=ttl) if ttl else None,
    )

    async def work(client: Client) -> dns_pb2.DnsRecord:
        request = dns_pb2.CreateDnsRecordRequest(
            parent=session.name_in_project("networks", network),
            dns_record_id=record_id,
            dns_record=dns_pb2.DnsRecord(spec=spec),
            request_id=new_id(),
            validate_only=validate_only,
        )
        return await client.dns.CreateDnsRecord(request)

    print_one(session.run(work), COLUMNS, output)


@record.command("ls")
@network_argument
@project_option
@output_option()
@pass_session
def ls(session: Session, network: str, output: str) -> None:
    """List the records of a network."""

    async def work(client: Client) -> list[dns_pb2.DnsRecord]:
        request = dns_pb2.ListDnsRecordsRequest(parent=session.name_in_project("networks", network))
        return [found async for found in paginate(client.dns.ListDnsRecords, request, lambda page: page.dns_records)]

    print_list(session.run(work), COLUMNS, output)


@record.command("get")
@network_argument
@click.argument("record_id", metavar="RECORD")
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, network: str, record_id: str, output: str) -> None:
    """Show one record."""

    async def work(client: Client) -> dns_pb2.DnsRecord:
        return await client.dns.GetDnsRecord(dns_pb2.GetDnsRecordRequest(name=_name(session, network, record_id)))

    print_one(session.run(work), COLUMNS, output)


@record.command("update")
@network_argument
@click.argument("record_id", metavar="RECORD")
@click.argument("values", nargs=-1)
@click.option("--ttl", type=click.IntRange(min=0), default=None, metavar="SECONDS", help="0: the default, 5.")
@project_option
@output_option("name")
@pass_session
def update(
    session: Session, network: str, record_id: str, values: tuple[str, ...], ttl: int | None, output: str
) -> None:
    """Give a record other values, or another time to live."""
    changed = dns_pb2.DnsRecord(name=_name(session, network, record_id), spec=dns_pb2.DnsRecordSpec(values=values))
    paths = ["spec.values"] if values else []
    if ttl is not None:
        changed.spec.ttl.seconds = ttl
        paths.append("spec.ttl")
    if not paths:
        raise click.UsageError("Say what to change: values, or --ttl.")

    async def work(client: Client) -> dns_pb2.DnsRecord:
        request = dns_pb2.UpdateDnsRecordRequest(dns_record=changed, update_mask=field_mask_pb2.FieldMask(paths=paths))
        return await client.dns.UpdateDnsRecord(request)

    print_one(session.run(work), COLUMNS, output)


@record.command("rm")
@network_argument
@click.argument("record_ids", metavar="RECORDS", nargs=-1, required=True)
@project_option
@pass_session
def rm(session: Session, network: str, record_ids: tuple[str, ...]) -> None:
    """Delete records of a network."""

    async def work(client: Client) -> None:
        for record_id in record_ids:
            name = _name(session, network, record_id)
            await client.dns.DeleteDnsRecord(dns_pb2.DeleteDnsRecordRequest(name=name))
            click.echo(f"Deleted {record_id}.")

    session.run(work)


def _name(session: Session, network: str, record_id: str) -> str:
    return f"{session.name_in_project('networks', network)}/records/{record_id}"

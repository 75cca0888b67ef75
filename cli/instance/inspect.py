"""ls (ps) and get."""

from typing import Any

import click

from cli.completion import complete_names
from cli.names import short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.v1 import instances_pb2


def state_of(instance: Any) -> str:
    """State, with what people ask next: how far a pull is, how a process ended, whether this may be old."""
    status = instance.status
    word = enum_word(instances_pb2.InstanceState, status.state)
    if status.state == instances_pb2.INSTANCE_STATE_PULLING and status.pull_percent:
        word = f"{word} {status.pull_percent}%"
    elif status.oom_killed and status.state != instances_pb2.INSTANCE_STATE_RUNNING:
        word = f"{word} (out of memory)"
    elif status.state == instances_pb2.INSTANCE_STATE_STOPPED and status.HasField("exit_code"):
        word = f"{word} ({status.exit_code})"
    elif status.state == instances_pb2.INSTANCE_STATE_FAILED and status.reason:
        word = f"{word} ({status.reason})"
    return f"{word}?" if status.stale else word


def addresses_of(instance: Any) -> list[str]:
    """All addresses, without prefix length."""
    return [address.partition("/")[0] for nic in instance.status.nics for address in nic.addresses]


def ports_of(instance: Any) -> str:
    """Published ports as `8080->80`."""
    words = []
    for port in instance.spec.published_ports:
        suffix = "/udp" if port.protocol == "udp" else ""
        prefix = f"{port.host_address}:" if port.host_address else ""
        words.append(f"{prefix}{port.host_port}->{port.container_port}{suffix}")
    return ",".join(words)


def ready_of(instance: Any) -> str:
    """Whether it runs and its own checks pass; of one that does not run there is nothing to say."""
    if instance.status.state != instances_pb2.INSTANCE_STATE_RUNNING:
        return ""
    return "yes" if instance.status.ready else "no"


COLUMNS = (
    Column("NAME", lambda instance: short(instance.name)),
    Column("TEMPLATE", lambda instance: short(instance.spec.template)),
    Column("STATE", state_of),
    Column("HOST", lambda instance: short(instance.status.host)),
    Column("ADDRESSES", lambda instance: ",".join(addresses_of(instance))),
    Column("PORTS", ports_of),
    Column("READY", ready_of),
    Column("HEALTH", lambda instance: instance.status.health, wide=True),
    Column("RESTARTS", lambda instance: str(instance.status.restarts)),
    Column("AGE", lambda instance: age(instance.create_time)),
    Column("RUN", lambda instance: str(instance.status.run), wide=True),
    Column("UID", lambda instance: instance.uid, wide=True),
    Column("CONTAINER", lambda instance: instance.status.container_id[:12], wide=True),
    Column("LABELS", lambda instance: pairs(instance.labels.items()), wide=True),
    Column("MESSAGE", lambda instance: instance.status.message or instance.status.probe, wide=True),
)


@click.command("ps")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'state=RUNNING labels.app=web'.")
@click.option("--group", "group_name", default="", metavar="GROUP", help="Members of this group only.")
@click.option("-q", "--quiet", is_flag=True, help="Names only; the same as -o name.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, group_name: str, quiet: bool, output: str) -> None:
    """List instances."""
    if group_name:
        filter_text = f"{filter_text} group={session.name_in_project('groups', group_name)}".strip()

    async def work(client: Client) -> list[instances_pb2.Instance]:
        request = instances_pb2.ListInstancesRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.instances.ListInstances, request, lambda page: page.instances)]

    print_list(session.run(work), COLUMNS, "name" if quiet else output)


@click.command("get")
@click.argument("name", shell_complete=complete_names("instances"))
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one instance."""

    async def work(client: Client) -> instances_pb2.Instance:
        full_name = session.name_in_project("instances", name)
        return await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)

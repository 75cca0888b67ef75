"""run and create: from an image or a template to instances, in one line."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from cli.instance.attach import follow_to_end
from cli.instance.create import UNPLACED_SECONDS, Wish, ensure_template, wait_until_run, wish_of
from cli.instance.create import create as create_instances
from cli.instance.explain import explanation_lines
from cli.instance.inspect import COLUMNS, addresses_of
from cli.names import short
from cli.output import output_option, print_list
from cli.progress import OperationProgress
from cli.run_options import INSTANCE, PROTECTION, add_options
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.errors import MoorageError
from moorage.units import parse_duration
from moorage.v1 import common_pb2, hosts_pb2, instances_pb2

_COMMAND_SETTINGS = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.command("run", context_settings=_COMMAND_SETTINGS)
@click.argument("image", metavar="IMAGE_OR_TEMPLATE")
@click.argument("command", nargs=-1, metavar="[COMMAND]...", type=click.UNPROCESSED)
@click.option("--name", metavar="NAME", help="Name of the instance; default: one is made.")
@click.option("--count", type=click.IntRange(min=1, max=1000), default=1, help="Make so many; NAME becomes NAME-1 ...")
@click.option("-d", "--detach", is_flag=True, help="Leave it to itself (the default without -i, -t or --rm).")
@click.option("-i", "--interactive", "stdin_open", is_flag=True, help="Give it this program's input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("--rm", "remove", is_flag=True, help="Show its output until it ends, then delete it.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it runs.")
@click.option("--wait", "wait_for_room", is_flag=True, help="Wait too while no host fits it; else moor ends after 5 s.")
@click.option("--timeout", default="5m", metavar="TIME", show_default=True, help="Longest wait until it runs.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say where it would go and why.")
@add_options((*INSTANCE, *PROTECTION))
@project_option
@output_option()
@pass_session
def run(session: Session, /, image: str, output: str, timeout: str, **options: Any) -> None:
    """Run an image or a template.

    An image that was never used in the project is registered as a template first. Waits until the instance runs, and
    prints where it is; ends when no host fits it, and it starts later by itself. With -i, -t or --rm it stays until
    the process ends, and exits as it did.
    """
    attached = (options["stdin_open"] or options["tty"] or options["remove"]) and not options["detach"]
    if options["detach"] and options["remove"]:
        raise click.UsageError("--rm deletes the instance when it ends, so moor has to stay: leave out --detach")
    if attached and (options["count"] > 1 or options["no_wait"]):
        raise click.UsageError("-i, -t and --rm are for one instance that is waited for")
    if options["tty"] and options["stdin_open"] and attached and not sys.stdin.isatty():
        raise click.UsageError("the input is not a terminal; leave out -t")
    if options["wait_for_room"] and options["no_wait"]:
        raise click.UsageError("--wait and --no-wait exclude each other")
    seconds = parse_duration(timeout, field="timeout")
    unplaced_seconds = None if options["wait_for_room"] else UNPLACED_SECONDS
    wish = wish_of(session.project, image, options)
    if attached and not options["restart"]:
        wish.spec.restart.mode = common_pb2.RESTART_MODE_NEVER  # its end is what we wait for
    quiet = output in ("json", "yaml") or attached

    async def work(client: Client) -> int:
        with OperationProgress(f"template of {image}", quiet=quiet and not sys.stderr.isatty()) as progress:
            template = await ensure_template(client, session.project, image, progress)
        made = await create_instances(client, wish, template, validate_only=options["dry_run"])
        if options["dry_run"]:
            for instance in made:
                click.echo("\n".join(explanation_lines(instance)))
            return 0
        if attached:
            return await follow_to_end(
                client,
                made[0],
                stdin=options["stdin_open"],
                tty=options["tty"],
                remove=options["remove"],
                timeout_seconds=seconds,
                unplaced_seconds=unplaced_seconds,
            )
        if not options["no_wait"]:
            made = await wait_until_run(client, made, seconds, unplaced_seconds=unplaced_seconds)
        await _print_made(client, made, output)
        return 0

    code = session.run(work)
    if code:
        raise click.exceptions.Exit(code)


@click.command("create", context_settings=_COMMAND_SETTINGS)
@click.argument("template")
@click.argument("command", nargs=-1, metavar="[COMMAND]...", type=click.UNPROCESSED)
@click.option("--name", metavar="NAME", help="Name of the instance; default: one is made.")
@click.option("--count", type=click.IntRange(min=1, max=1000), default=1, help="Make so many; NAME becomes NAME-1 ...")
@click.option("-i", "--interactive", "stdin_open", is_flag=True, help="Keep its input open for attach.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@add_options((*INSTANCE, *PROTECTION))
@project_option
@output_option("name")
@pass_session
def create(session: Session, /, template: str, output: str, validate_only: bool, **options: Any) -> None:
    """Create instances of a registered template, and wait for nothing."""
    wish: Wish = wish_of(session.project, template, options)

    async def work(client: Client) -> Sequence[instances_pb2.Instance]:
        full_name = session.name_in_project("templates", template)
        return await create_instances(client, wish, full_name, validate_only=validate_only)

    print_list(session.run(work), COLUMNS, output)


async def _print_made(client: Client, made: Sequence[instances_pb2.Instance], output: str) -> None:
    if output != "table" or len(made) > 1:
        print_list(made, COLUMNS, output)
        return
    for line in made_lines(made[0], await _host_address(client, made[0])):
        click.echo(line)


async def _host_address(client: Client, instance: instances_pb2.Instance) -> str:
    """Address of its host, for a URL; the host's name where we may not ask."""
    if not instance.status.host or not instance.spec.published_ports:
        return ""
    try:
        host = await client.hosts.GetHost(hosts_pb2.GetHostRequest(name=instance.status.host))
    except MoorageError:
        return short(instance.status.host)
    return host.status.facts.underlay_address or short(instance.status.host)


def made_lines(instance: Any, host_address: str) -> list[str]:
    """What people want to know of a new instance: its name, where it is and how to reach it."""
    lines = [short(instance.name)]
    if instance.status.host:
        lines.append(f"  host:      {short(instance.status.host)}")
    if addresses_of(instance):
        lines.append(f"  addresses: {', '.join(addresses_of(instance))}")
    for port in instance.spec.published_ports:
        address = port.host_address if port.host_address not in ("", "0.0.0.0", "::") else host_address
        address = f"[{address}]" if ":" in address else address
        shown = f"{address}:{port.host_port}/udp" if port.protocol == "udp" else f"http://{address}:{port.host_port}"
        lines.append(f"  port {port.container_port}:".ljust(13) + shown)
    if instance.status.HasField("exit_code") and instance.status.state == instances_pb2.INSTANCE_STATE_STOPPED:
        lines.append(f"  ended with exit code {instance.status.exit_code}; see `moor logs {short(instance.name)}`")
    return lines

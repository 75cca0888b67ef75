"""exec: another command in a running instance; attach: its own process."""

import os
import sys

import click

from cli.completion import complete_names
from cli.instance.interact import Detached, interact
from cli.names import short
from cli.session import Session, pass_session, project_option
from cli.spec import key_values
from moorage.client import Client
from moorage.errors import Internal
from moorage.v1 import instance_streams_pb2 as streams_pb2


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("name", metavar="INSTANCE", shell_complete=complete_names("instances"))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-i", "--interactive", is_flag=True, help="Give it this program's input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("--env", "-e", multiple=True, metavar="K=V", help="Environment.")
@click.option("--workdir", "-w", default="", metavar="PATH", help="Working directory.")
@click.option("--user", "-u", default="", metavar="USER[:GROUP]", help="User to run as.")
@project_option
@pass_session
def exec_(
    session: Session,
    name: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    workdir: str,
    user: str,
) -> None:
    """Run a command in a running instance, and exit as it does."""
    if tty and interactive and not sys.stdin.isatty():
        raise click.UsageError("the input is not a terminal; leave out -t")
    if command[0] == "--":  # people who know kubectl write it
        command = command[1:]
    if not command:
        raise click.UsageError("name the command to run")
    start = streams_pb2.ExecStart(
        name=session.name_in_project("instances", name),
        command=command,
        tty=tty,
        stdin=interactive,
        env=key_values("env", env, environment=os.environ),
        workdir=workdir,
        user=user,
    )

    async def work(client: Client) -> int:
        code = await interact(client, start)
        if code is None:
            raise Internal(f"the end of the command in {short(start.name)} was not reported", reason="NO_EXIT_CODE")
        return code

    code = session.run(work)
    if code:
        raise click.exceptions.Exit(code)


@click.command("attach")
@click.argument("name", metavar="INSTANCE", shell_complete=complete_names("instances"))
@click.option("--no-stdin", is_flag=True, help="Only watch.")
@project_option
@pass_session
def attach(session: Session, name: str, no_stdin: bool) -> None:
    """Join the instance's own process. With a terminal, Ctrl-P Ctrl-Q leaves it again."""
    from moorage.v1 import instances_pb2

    full_name = session.name_in_project("instances", name)

    async def work(client: Client) -> int:
        spec = (await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))).spec
        stdin = spec.stdin_open and not no_stdin
        tty = spec.tty and sys.stdin.isatty()
        try:
            return await interact(client, streams_pb2.ExecStart(name=full_name, attach=True, tty=tty, stdin=stdin)) or 0
        except Detached:
            return 0

    code = session.run(work)
    if code:
        raise click.exceptions.Exit(code)

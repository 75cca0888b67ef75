"""login, logout, whoami, context: the control planes that are remembered.

A key is never an argument: arguments are seen by every user of the machine and kept in the shell's history.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.contexts import DEFAULT_PROJECT, Context, Contexts, config_path, load, save
from cli.output import output_option, print_one, print_rows
from cli.session import Session, pass_session, read_ca, run_with
from moorage.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from moorage.client import Client
    from moorage.v1 import access_pb2


async def _caller(client: "Client") -> "access_pb2.Caller":
    from moorage.v1 import access_pb2

    return await client.access.GetCaller(access_pb2.GetCallerRequest())


@click.command("login")
@click.argument("address")
@click.option("--key-file", metavar="FILE", help="File with the API key; - is standard input. Default: ask for it.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="Authority of the server's certificate, PEM.")
@click.option("--name", metavar="NAME", help="What to call it; default the address without the port.")
@click.option(
    "--project", "login_project", metavar="NAME", default=DEFAULT_PROJECT, show_default=True, help="To work in."
)
def login(address: str, key_file: str | None, ca_file: Path | None, name: str | None, login_project: str) -> None:
    """Try a key at the control plane ADDRESS (host:port), and remember both."""
    ca_pem = read_ca(ca_file) if ca_file else ""
    api_key = _read_key(key_file)
    context = Context(address=address, api_key=api_key, ca_pem=ca_pem, project=login_project)
    caller = run_with(context, _caller)
    wanted = name or address.rpartition(":")[0].strip("[]") or address
    save(config_path(), load(config_path()).with_context(wanted, context))
    role = " (fleet admin)" if caller.fleet_admin else ""
    click.echo(f"Logged in at {address} as {caller.user}{role}; this is context {wanted}.")


def _read_key(key_file: str | None) -> str:
    key: str
    if key_file == "-" or (key_file is None and not sys.stdin.isatty()):
        key = sys.stdin.readline()
    elif key_file is not None:
        try:
            key = Path(key_file).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidSpec.of("key-file", f"{key_file} cannot be read: {exc}") from exc
    else:
        key = click.prompt("API key", hide_input=True, err=True)
    key = key.strip()
    if not key or any(character.isspace() or not character.isprintable() for character in key):
        raise InvalidSpec.of("key", "an API key is one word; give it with --key-file FILE or on standard input")
    return key


@click.command("logout")
@click.argument("name", required=False)
def logout(name: str | None) -> None:
    """Forget a context (default: the current one) and its key. The key itself stays good; end it with `moor key rm`."""
    contexts = load(config_path())
    wanted = name or contexts.current
    if not wanted or wanted not in contexts.by_name:
        raise NotFound(f"there is no context {wanted}" if wanted else "you are not logged in anywhere")
    save(config_path(), contexts.without(wanted))
    click.echo(f"Forgot context {wanted}.")


@click.command("whoami")
@output_option()
@pass_session
def whoami(session: Session, output: str) -> None:
    """Say who the key speaks for, and where."""
    caller = session.run(_caller)
    if output in ("json", "yaml"):
        print_one(caller, [], output)
    elif output == "name":
        click.echo(caller.user)
    else:
        projects = ", ".join(caller.projects) or "-"
        click.echo(f"{caller.user}{' (fleet admin)' if caller.fleet_admin else ''} at {session.context().address}")
        click.echo(f"projects: {projects}\nserver:   {caller.server_version or 'unknown version'}")


@click.group("context")
def context() -> None:
    """Control planes that are remembered."""


@context.command("ls")
def context_ls() -> None:
    """List them; * marks the one in use."""
    contexts = load(config_path())
    rows = [
        ["*" if name == contexts.current else " ", name, entry.address, entry.project]
        for name, entry in sorted(contexts.by_name.items())
    ]
    print_rows([" ", "NAME", "ADDRESS", "PROJECT"], rows)


@context.command("use")
@click.argument("name", required=False)
@click.option("--project", "use_project", metavar="NAME", help="Project to work in from now on.")
def context_use(name: str | None, use_project: str | None) -> None:
    """Use another control plane, or another project."""
    contexts: Contexts = load(config_path())
    wanted = name or contexts.current
    if not wanted:
        raise NotFound("no context is in use; log in with `moor login ADDRESS`")
    changed = contexts.use(wanted, project=use_project)
    save(config_path(), changed)
    click.echo(f"Using context {wanted}, project {changed.by_name[wanted].project}.")

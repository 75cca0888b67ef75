"""host add: the command."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import yaml

from cli.host_add import steps
from cli.host_add.remote import Remote
from cli.host_columns import COLUMNS
from cli.instance.lifecycle import timeout_option
from cli.names import in_fleet
from cli.output import output_option, print_one
from cli.session import Session, pass_session
from cli.spec import key_values
from moorage.client import Client
from moorage.errors import InvalidSpec
from moorage.units import parse_duration
from moorage.v1 import hosts_pb2

_DEFAULT = steps.Wish("")


@click.command("add")
@click.argument("target", metavar="[USER@]MACHINE")
@click.option("--name", default="", help="Of the host; default the machine's own.")
@click.option("--zone", default="", metavar="ZONE", help="Zone of the host.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of the host.")
@click.option("-i", "--identity", metavar="FILE", help="ssh's key.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="ssh's port.")
@click.option("--ssh-option", multiple=True, metavar="NAME=VALUE", help="One of ssh's own options (-o).")
@click.option(
    "--control-plane", default="", metavar="HOST:PORT", help="Its API as the new host reaches it; default as we do."
)
@click.option("--underlay-address", default="", help="Where other hosts reach it; default where ssh does.")
@click.option(
    "--package",
    type=click.Path(exists=True, path_type=Path),
    help="A wheel of moorage to install, or a folder with it and all wheels that it needs (then nothing is fetched).",
)
@click.option("--python", default=_DEFAULT.python, show_default=True, help="The machine's Python to install with.")
@click.option("--agent", default=_DEFAULT.agent, show_default=True, metavar="PATH", help="The agent's program there.")
@click.option("--config", default=_DEFAULT.config, show_default=True, metavar="PATH", help="Its configuration there.")
@click.option("--replace-config", is_flag=True, help="Write the configuration though there is one.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the agent, such as vxlan_port=4790."
)
@timeout_option
@output_option()
@pass_session
def add(
    session: Session,
    /,
    target: str,
    identity: str | None,
    port: int | None,
    ssh_option: tuple[str, ...],
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Make a machine a host over ssh: installs the agent (--package) if it is not there, sets the machine up and waits until it is UP.

    Docker must run there. Whoever logs in must be root, or be allowed sudo without a password. The system's ssh is used, with its
    configuration and keys. Every step can be repeated: mend what it says and run the command again (with --replace-config once
    the configuration is written).
    """
    seconds = parse_duration(timeout, field="timeout")
    wish = _wish(session, options)

    async def work(client: Client) -> hosts_pb2.Host:
        async with Remote(target, ssh_words(identity, port, ssh_option)) as remote:
            return await steps.add(client, remote, wish, seconds, lambda line: click.echo(line, err=True))

    print_one(session.run(work), COLUMNS, output)


def ssh_words(identity: str | None, port: int | None, options: tuple[str, ...]) -> list[str]:
    """ssh's options as it takes them."""
    words = [word for option in options for word in ("-o", option)]
    if identity:
        words += ["-i", identity, "-o", "IdentitiesOnly=yes"]
    return words + (["-p", str(port)] if port else [])


def _wish(session: Session, options: Mapping[str, Any]) -> steps.Wish:
    control_plane = options["control_plane"] or session.context().address
    if not options["control_plane"] and is_loopback(control_plane):
        words = f"we reach the control plane at {control_plane}, which a new host cannot: say where it does"
        raise InvalidSpec.of("control-plane", words, "REQUIRED")
    return steps.Wish(
        control_plane=control_plane,
        name=options["name"],
        zone=in_fleet("zones", options["zone"]) if options["zone"] else "",
        labels=key_values("label", options["label"]),
        underlay_address=options["underlay_address"],
        package=options["package"],
        python=options["python"],
        agent=options["agent"],
        config=options["config"],
        replaces_config=options["replace_config"],
        settings={name: yaml.safe_load(text) for name, text in key_values("set", options["settings"]).items()},
    )


def is_loopback(address: str) -> bool:
    """Whether host:port leads to this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""`moor`: the root command. Owns the table of commands and the only place where errors become exit codes.

Invariant: importing this module loads neither grpc nor any command.
"""

import sys
from typing import Any

import click

from cli.failures import EXIT_INTERRUPTED, exit_code_of, render
from cli.lazy import LazyCommand, LazyGroup
from cli.session import Session
from moorage.errors import MoorageError

_DAILY, _THINGS, _SELF = "Every day", "All objects", "This program"

COMMANDS: dict[str, LazyCommand] = {
    "run": LazyCommand("cli.instance.run:run", "Run an image or a template.", _DAILY),
    "ps": LazyCommand("cli.instance.inspect:ls", "List instances.", _DAILY),
    "logs": LazyCommand("cli.instance.logs:logs", "Print what an instance wrote.", _DAILY),
    "exec": LazyCommand("cli.instance.exec:exec_", "Run a command in an instance.", _DAILY),
    "attach": LazyCommand("cli.instance.exec:attach", "Join an instance's own process.", _DAILY),
    "cp": LazyCommand("cli.instance.copy:cp", "Copy files into or out of an instance.", _DAILY),
    "forward": LazyCommand("cli.instance.forward:forward", "Lead a port of this machine to an instance.", _DAILY),
    "stats": LazyCommand("cli.instance.stats:stats", "Show what instances use.", _DAILY),
    "explain": LazyCommand("cli.instance.explain:explain", "Say why an instance is where it is.", _DAILY),
    "start": LazyCommand("cli.instance.lifecycle:start", "Start stopped instances.", _DAILY),
    "stop": LazyCommand("cli.instance.lifecycle:stop", "Stop instances and keep their files.", _DAILY),
    "reboot": LazyCommand("cli.instance.lifecycle:reboot", "Stop and start instances.", _DAILY),
    "rm": LazyCommand("cli.instance.lifecycle:rm", "Delete instances.", _DAILY),
    "apply": LazyCommand("cli.apply.commands:apply", "Make objects be as files say.", _THINGS),
    "diff": LazyCommand("cli.apply.commands:diff", "Show what apply would change.", _THINGS),
    "export": LazyCommand("cli.apply.commands:export", "Print objects as files for apply.", _THINGS),
    "events": LazyCommand("cli.event:ls", "Show what happened.", _DAILY),
    "instance": LazyCommand("cli.instance.commands:instance", "Instances: one container in one place each.", _THINGS),
    "group": LazyCommand("cli.group.commands:group", "Groups: instances that are kept alive and updated.", _THINGS),
    "template": LazyCommand("cli.template:template", "Templates: images with defaults.", _THINGS),
    "job": LazyCommand("cli.job.commands:job", "Jobs: work that is done once.", _THINGS),
    "cron": LazyCommand("cli.job.cron:cron", "Cron jobs: jobs by the clock.", _THINGS),
    "network": LazyCommand("cli.network:network", "Networks and their addresses.", _THINGS),
    "dns": LazyCommand("cli.dns:dns", "Extra names of networks.", _THINGS),
    "security-group": LazyCommand(
        "cli.security_group:security_group", "Security groups: who may reach interfaces.", _THINGS
    ),
    "secret": LazyCommand("cli.secret:secret", "Secrets that instances get, in versions.", _THINGS),
    "config": LazyCommand("cli.secret:config", "Configs that instances get, in versions.", _THINGS),
    "volume": LazyCommand("cli.volume.commands:volume", "Volumes: files that outlive instances.", _THINGS),
    "host": LazyCommand("cli.host:host", "Hosts: machines with an agent.", _THINGS),
    "zone": LazyCommand("cli.zone:zone", "Zones: failure domains of hosts.", _THINGS),
    "project": LazyCommand("cli.project:project", "Projects: tenants, members, quota and policy.", _THINGS),
    "key": LazyCommand("cli.key:key", "API keys.", _THINGS),
    "join-token": LazyCommand("cli.join_token:join_token", "Tokens with which machines become hosts.", _THINGS),
    "operation": LazyCommand("cli.operation:operation", "Long work and its progress.", _THINGS),
    "event": LazyCommand("cli.event:event", "What happened.", _THINGS),
    "usage": LazyCommand("cli.usage:usage", "What instances and addresses have used.", _THINGS),
    "audit": LazyCommand("cli.audit:audit", "Who called what.", _THINGS),
    "router": LazyCommand("cli.router.commands:router", "Virtual routers: ways between networks, in and out.", _THINGS),
    "balancer": LazyCommand("cli.balancer.commands:balancer", "Balancers of routers and their back ends.", _THINGS),
    "public-address": LazyCommand("cli.public_address:public_address", "Public addresses of routers.", _THINGS),
    "router-image": LazyCommand("cli.router_image.commands:router_image", "The image of virtual routers.", _THINGS),
    "login": LazyCommand("cli.login:login", "Remember a control plane and a key.", _SELF),
    "logout": LazyCommand("cli.login:logout", "Forget a control plane and its key.", _SELF),
    "whoami": LazyCommand("cli.login:whoami", "Say who the key speaks for.", _SELF),
    "context": LazyCommand("cli.login:context", "Control planes that are remembered.", _SELF),
    "completion": LazyCommand("cli.completion:completion", "Print a shell's completion script.", _SELF),
    "dev": LazyCommand("cli.dev.commands:dev", "A fleet in a box, to try Moorage on one machine.", _SELF),
}


class Moor(LazyGroup):
    """The root group."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MoorageError as error:
            session = ctx.find_object(Session)
            click.echo(render(error, debug=session is not None and session.debug), err=True)
            ctx.exit(exit_code_of(error))
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.group(
    "moor",
    cls=Moor,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 1 failed, 2 wrong usage or request, 3 not found, 4 not allowed, 5 conflict, 6 not now, "
    "7 no room, 8 not reachable or too slow. `moor run` and `moor exec` exit as the command did.",
)
@click.option("--project", metavar="NAME", help="Project to work in (MOORAGE_PROJECT; default: the context's).")
@click.option("--context", "context_name", metavar="NAME", help="Control plane to work with (see `moor context ls`).")
@click.option("--debug", is_flag=True, help="With an error, show its reason, details and trace id.")
@click.version_option(package_name="moorage", message="moor %(version)s")
@click.pass_context
def moor(ctx: click.Context, project: str | None, context_name: str | None, debug: bool) -> None:
    """Runs containers on a fleet of Docker hosts."""
    session = ctx.ensure_object(Session)
    session.project_option = project
    session.context_option = context_name
    session.debug = debug


def main() -> None:
    """Entry point."""
    sys.exit(moor.main(prog_name="moor"))

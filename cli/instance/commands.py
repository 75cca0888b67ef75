"""The group `moor instance`. The commands that are used every day are also at the root (cli/main.py)."""

import click

from cli.instance.copy import cp
from cli.instance.exec import exec_
from cli.instance.explain import explain
from cli.instance.forward import forward
from cli.instance.inspect import get, ls
from cli.instance.lifecycle import pause, reboot, rm, start, stop, undelete, unpause
from cli.instance.logs import logs
from cli.instance.replace import rename, replace, update
from cli.instance.run import create, run
from cli.instance.stats import stats


@click.group("instance")
def instance() -> None:
    """Instances: one container in one place each."""


instance.add_command(run)
instance.add_command(create)
instance.add_command(ls, "ls")
for command in (
    get,
    start,
    stop,
    reboot,
    replace,
    rename,
    pause,
    unpause,
    rm,
    undelete,
    update,
    stats,
    logs,
    exec_,
    cp,
    forward,
    explain,
):
    instance.add_command(command)

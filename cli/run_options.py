"""The options of run, create and replace, named as in `docker run` where they fit. spec.py gives them meaning."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def many(*names: str, metavar: str, text: str) -> Decorator:
    """An option that can be repeated."""
    return click.option(*names, multiple=True, metavar=metavar, help=text)


def one(*names: str, metavar: str, text: str) -> Decorator:
    """An option with one value."""
    return click.option(*names, metavar=metavar, help=text)


def flag(*names: str, text: str) -> Decorator:
    """A switch."""
    return click.option(*names, is_flag=True, help=text)


RESOURCES: tuple[Decorator, ...] = (
    one("--cpu", "--cpus", "cpu", metavar="N", text="Cores at most, such as 0.5 or 500m."),
    one("--memory", "-m", metavar="BYTES", text="Memory at most, such as 256Mi."),
    click.option("--pids", "--pids-limit", "pids", type=click.IntRange(min=1), help="Processes at most."),
    click.option("--cpu-shares", type=click.IntRange(min=2), help="Weight against others; 1024 is the usual one."),
    one("--memory-swap", metavar="BYTES", text="Memory and swap together; -1 is unlimited."),
    one("--shm-size", metavar="BYTES", text="Size of /dev/shm."),
)

HEALTH: tuple[Decorator, ...] = (
    one("--health-cmd", metavar="SHELL", text="Command that succeeds while the instance is healthy."),
    one("--health-interval", metavar="TIME", text="Time between two checks."),
    one("--health-timeout", metavar="TIME", text="Time after which one check has failed."),
    one("--health-start-period", metavar="TIME", text="Time after start in which failures do not count."),
    click.option("--health-retries", type=click.IntRange(min=1), help="Failures in a row that make it unhealthy."),
    flag("--no-healthcheck", text="No check, even if the image has one."),
)

_CHECK = "CHECK[,KEY=VALUE...] | none"
PROBES: tuple[Decorator, ...] = (
    one(
        "--probe-startup",
        metavar=_CHECK,
        text="Has started once this passes; restarted if it does not. The others wait for it.",
    ),
    one("--probe-liveness", metavar=_CHECK, text="Restarted when this fails."),
    one(
        "--probe-readiness",
        metavar=_CHECK,
        text="Gets clients while this passes. CHECK: exec:COMMAND, http:PORT/PATH, https:..., tcp:PORT or "
        "grpc:PORT/SERVICE; KEY: period, timeout, delay, failures, successes, address, host, header.",
    ),
)

_PROCESS: tuple[Decorator, ...] = (
    many("--env", "-e", metavar="K=V", text="Environment; K alone takes the value it has here."),
    click.option(
        "--env-file",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File of K=V lines.",
    ),
    one("--entrypoint", metavar="WORDS", text="Program in place of the image's."),
    one("--user", "-u", metavar="USER[:GROUP]", text="User to run as."),
    one("--workdir", "-w", metavar="PATH", text="Working directory."),
    one("--hostname", metavar="NAME", text="Default: the instance's name."),
    many("--label", "-l", metavar="K=V", text="Label of the instance."),
    one("--user-data", metavar="TEXT | @FILE", text="What it reads at 169.254.169.254; at most 16 KiB."),
    flag("--init", text="A small init as process 1 that reaps zombies."),
    flag("--exclusive", text="Never two of it: runs under a lease, and stops when cut off from the control plane."),
    flag("--survives-isolation", text="Runs on when cut off, and is never replaced meanwhile."),
    one("--restart", metavar="POLICY", text="no, on-failure[:N] or always (the default)."),
    one("--stop-signal", metavar="SIGNAL", text="Signal that asks the process to end."),
    one("--stop-timeout", metavar="TIME", text="Time from that signal to SIGKILL."),
    one("--log-max-size", metavar="BYTES", text="Size of one log file."),
    click.option("--log-max-files", type=click.IntRange(min=1), help="Log files kept."),
)

_RIGHTS: tuple[Decorator, ...] = (
    many("--ulimit", metavar="NAME=SOFT[:HARD]", text="Limit of its processes."),
    many("--cap-add", metavar="CAP", text="Capability to add; needs the project's policy."),
    many("--cap-drop", metavar="CAP", text="Capability to drop, or ALL."),
    flag("--privileged", text="All powers of the host; needs the project's policy."),
    flag("--read-only", text="Root file system without writes."),
    many(
        "--secret",
        metavar="NAME[,env=VARIABLE | ,path=PATH]...",
        text="Secret as /run/secrets/NAME, elsewhere or as a variable.",
    ),
    many("--config", metavar="NAME[,path=PATH]...", text="Config as /run/configs/NAME or elsewhere."),
    many("--tmpfs", metavar="PATH[:size=BYTES]", text="Files in memory."),
    many(
        "--mount",
        metavar="SPEC",
        text="type=volume,source=NAME,target=/b[,readonly]; or type bind, tmpfs.",
    ),
    many(
        "--volume",
        "-v",
        metavar="NAME[/FOLDER]:/PATH[:ro]",
        text="Volume; /HOST:/PATH is a bind mount, which needs the policy.",
    ),
    many(
        "--device",
        metavar="/dev/a[:/dev/b[:rwm]] | VENDOR/CLASS=NAME",
        text="Device node, or a device by its CDI name; needs the project's policy.",
    ),
    many("--sysctl", metavar="K=V", text="Kernel setting of its namespaces."),
)

_NETWORK: tuple[Decorator, ...] = (
    many("--publish", "-p", metavar="[ADDRESS:]HOST_PORT:PORT[/udp]", text="Port of the host that leads here."),
    many(
        "--network",
        metavar="NETWORK[:ADDRESS] | name=...",
        text="Network to be on (name=N,address=A,mtu=...), or none.",
    ),
    many("--security-group", metavar="GROUP", text="Filter its interfaces that name no group of their own."),
    one("--mac-address", metavar="MAC", text="MAC of its only interface."),
    many("--dns", metavar="ADDRESS", text="Name server."),
    many("--dns-search", metavar="DOMAIN", text="Search domain."),
    many("--add-host", metavar="NAME:ADDRESS", text="Line of /etc/hosts."),
)

_PLACEMENT: tuple[Decorator, ...] = (
    one("--zone", metavar="ZONE", text="Hosts of this zone only."),
    one("--host", metavar="HOST", text="This host only."),
    many("--host-label", metavar="K=V", text="Hosts with this label only."),
    many(
        "--affinity",
        metavar="[soft:]K=V[@PLACE]",
        text="Where instances with this label are. PLACE: host, zone or a label.",
    ),
    many("--anti-affinity", metavar="[soft:]K=V[@PLACE]", text="Where none with this label is."),
    flag("--pack", text="Fill hosts up instead of spreading."),
    many(
        "--spread",
        metavar="[soft:]PLACE[:SKEW][,NAME=PERCENT]",
        text="Evenly over zones, hosts or a host label, or in shares.",
    ),
    many("--distinct", metavar="[K=V@]PLACE[:N]", text="At most N (1) of its like, or of those labels, in one place."),
    many("--tolerate", metavar="KEY[=VALUE]", text="Also hosts with this taint."),
    click.option("--priority", type=int, help="Placed before lower ones; above 0 it needs the project's policy."),
    flag("--preempt", text="Push out instances of lower priority if no host has room."),
    one("--gpus", metavar="all | N | device=ID,ID", text="GPUs for itself; needs the project's policy."),
    many(
        "--device-request",
        metavar="kind=KIND[,count=N|all][,id=ID]",
        text="Devices for itself, such as kind=nvidia.com/gpu,count=2; needs the project's policy.",
    ),
)

#: Not among those of INSTANCE: a group has one of its own.
PROTECTION: tuple[Decorator, ...] = (
    click.option(
        "--delete-protection/--no-delete-protection",
        default=None,
        help="Refuse deletes, also with force, until it is cleared.",
    ),
)

INSTANCE: tuple[Decorator, ...] = (*_NETWORK, *_PROCESS, *RESOURCES, *_PLACEMENT, *_RIGHTS, *HEALTH, *PROBES)


def add_options(options: Iterable[Decorator]) -> Decorator:
    """Put options onto a command, in this order in its help."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(list(options)):
            function = option(function)
        return function

    return decorate

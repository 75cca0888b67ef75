"""What every side deploys: one image, one program, one set of limits, one way to stop. Pure values."""

from dataclasses import dataclass

IMAGE = "moorage-bench"
# Ends on SIGTERM at once: the shell is process 1, for which the kernel ignores signals without a handler.
COMMAND = ("/bin/sh", "-c", 'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done')
STOP_SIGNAL = "SIGTERM"


# With less than this, the kernel's CPU quota stops the container runtime itself while it starts the process: at 0.05
# of a core every start, on every side, took 100 to 230 ms longer than without a quota, at 0.25 none did.
_CPU_MILLIS = 250
_RESIDENT_CPU_MILLIS = 50
_USABLE = 0.95  # of the hosts' cores; the rest is for rounding


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and reservations of each container, and the time that it has to end."""

    cpu_millis: int
    memory_bytes: int = 32 * 1024 * 1024
    grace_seconds: int = 10


RESIDENT = Limits(_RESIDENT_CPU_MILLIS)
ONE = Limits(_CPU_MILLIS)


def limits_for(count: int, *, hosts: int, cores: int) -> Limits:
    """Of each of `count` containers, so that they fit, by what they reserve, on hosts of so many cores."""
    room = hosts * cores * 1000 * _USABLE - hosts * _RESIDENT_CPU_MILLIS
    return Limits(min(_CPU_MILLIS, int(room / count)))

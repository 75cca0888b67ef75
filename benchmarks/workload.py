"""What every side deploys: one image, one program, one set of limits, one way to stop. Pure values."""

from dataclasses import dataclass

IMAGE = "moorage-bench"
# Ends on SIGTERM at once: the shell is process 1, for which the kernel ignores signals without a handler.
COMMAND = ("/bin/sh", "-c", 'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done')
STOP_SIGNAL = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and reservations of each container, and the time that it has to end."""

    cpu_millis: int = 50
    memory_bytes: int = 32 * 1024 * 1024
    grace_seconds: int = 10


LIMITS = Limits()

"""What the watchdog has to end, from what the agent wrote and the time. Pure."""

from dataclasses import dataclass

from hostagent.watchdog.lease_file import Entry, Leases

#: An agent that lets a lease run out is not trusted once it has been silent for so long, in hundredths of a second: what it had begun
#: before it was stopped could still be done when it goes on.
SILENT = 150


@dataclass(frozen=True, slots=True)
class Duty:
    """What is to be ended now."""

    entries: tuple[Entry, ...] = ()  # whose lease has ended
    is_agent_silent: bool = False


def plan(leases: Leases, boot_id: str, now: int) -> Duty:
    """What to end.

    Args:
        boot_id: of this machine. Ends that were written before it was started last mean nothing: all have passed.
        now: hundredths of a second since the machine's start.
    """
    if leases.boot_id != boot_id:
        return Duty(leases.entries)
    ended = tuple(entry for entry in leases.entries if entry.end <= now)
    return Duty(ended, bool(ended) and now - leases.written > SILENT)

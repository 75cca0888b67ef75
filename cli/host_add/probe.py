"""What a machine is like that shall be a host, and what it lacks. Pure, but for the script, which runs there."""

from collections.abc import Mapping
from dataclasses import dataclass

#: Prints NAME=VALUE lines. $1: the agent's program, $2: its configuration, $3: the Python that would be used.
SCRIPT = r"""
echo "uid=$(id -u)"
echo "hostname=$(hostname -s 2>/dev/null || hostname)"
echo "address=$(echo "$SSH_CONNECTION" | cut -d' ' -f3)"
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then echo "sudo=yes"; fi
echo "python=$("$3" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
if [ -x "$1" ]; then echo "agent=$("$1" --version 2>/dev/null | sed 's/.* //')"; fi
if [ -e "$2" ] || { [ "$(id -u)" != 0 ] && sudo -n test -e "$2" 2>/dev/null; }; then echo "configured=yes"; fi
if [ -d /run/systemd/system ]; then echo "systemd=yes"; fi
"""

_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the script found."""

    is_root: bool
    has_sudo: bool
    hostname: str
    address: str  # at which ssh reached it
    python: str  # its version; empty: there is none
    agent: str  # version of the agent that is installed; empty: none
    is_configured: bool
    has_systemd: bool


def parse(text: str) -> Machine:
    """The script's output. Other lines, such as greetings, are passed over."""
    found: Mapping[str, str] = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return Machine(
        is_root=found.get("uid") == "0",
        has_sudo=found.get("sudo") == "yes",
        hostname=found.get("hostname", ""),
        address=found.get("address", ""),
        python=found.get("python", ""),
        agent=found.get("agent", ""),
        is_configured=found.get("configured") == "yes",
        has_systemd=found.get("systemd") == "yes",
    )


def lacks(
    machine: Machine, *, version: str, agent: str, has_package: bool, config: str, replaces_config: bool
) -> list[str]:
    """What keeps it from being set up, each as a sentence; empty: nothing that is known yet.

    Args:
        version: of this program, which the agent's should be.
        agent: path of the agent's program there.
        has_package: something to install from was given.
    """
    found = []
    if not machine.is_root and not machine.has_sudo:
        found.append("the user is not root, and sudo asks for a password: log in as root, or allow it without")
    if needs_install(machine, version, has_package=has_package):
        if _python_version(machine.python) < _OLDEST_PYTHON:
            found.append(f"Python 3.11 or newer is needed, and it has {machine.python or 'none'}: see --python")
    elif not machine.agent:
        found.append(f"there is no {agent}: give --package with what to install, or --agent with where it is")
    if machine.is_configured and not replaces_config:
        found.append(f"{config} is there: it was set up before; --replace-config makes it a new host")
    return found


def needs_install(machine: Machine, version: str, *, has_package: bool) -> bool:
    """Whether the package is to be installed: it was given, and not this version of it is there."""
    return has_package and machine.agent != version


def _python_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())

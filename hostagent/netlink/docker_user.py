"""Accept rules for our uplinks in Docker's own hook, the DOCKER-USER chain. Blocking: it runs `iptables`.

Docker sets the forward policy to DROP. A packet that our own table lets pass must pass Docker's chains too, and
DOCKER-USER is where Docker promises to leave foreign rules alone. Our table (`rules.py`) still decides what may use an
uplink. Docker makes the chain when it starts, and firewalld may rebuild everything, so the agent's sweep calls this
again and again; it costs a few processes when all is well.

An accept there would also open Docker's own networks to what comes out of our uplinks, past Docker's isolation. So
new connections from an uplink first go through the chain in which Docker itself tells who may enter its bridges.
"""

import shutil
import subprocess

_PROGRAMS = ("iptables", "ip6tables")
_CHAIN = "DOCKER-USER"
_UPLINK = "mu+"
_MARK = ("-m", "comment", "--comment", "moorage")
# Newer engines decide in the first one what enters a bridge, older ones drop in the second one what comes from elsewhere.
_GUARDS = ("DOCKER-BRIDGE", "DOCKER-ISOLATION-STAGE-2")
_RULES = (
    ("-i", _UPLINK, *_MARK, "-j", "ACCEPT"),
    ("-o", _UPLINK, *_MARK, "-j", "ACCEPT"),
    # frames between ports of a shared bridge, where bridge-nf-call-iptables shows them to iptables
    ("-m", "physdev", "--physdev-is-bridged", "--physdev-in", "mi+", *_MARK, "-j", "ACCEPT"),
    ("-m", "physdev", "--physdev-is-bridged", "--physdev-out", "mi+", *_MARK, "-j", "ACCEPT"),
)


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, "-w", "5", *arguments], capture_output=True, text=True, check=False, timeout=30)


def ensure() -> list[str]:
    """Put our rules first in DOCKER-USER where that chain exists; what could not be done, in words."""
    problems: list[str] = []
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            continue
        listed = _run(program, "-S", _CHAIN)
        if listed.returncode != 0:  # no Docker, or one that does not use this backend
            continue
        present = listed.stdout.splitlines()
        is_moved = False
        for rule in reversed(_rules(program)):
            is_present = any(_same(line, rule) for line in present)
            if is_present and not is_moved:
                continue
            if is_present:  # what was put in must stand below it
                _run(program, "-D", _CHAIN, *rule)
            result = _run(program, "-I", _CHAIN, *rule)
            is_moved = True
            if result.returncode != 0:
                problems.append(f"{program} {' '.join(rule)}: {result.stderr.strip()}")
    return problems


def _rules(program: str) -> list[tuple[str, ...]]:
    guards = [chain for chain in _GUARDS if _run(program, "-S", chain).returncode == 0]
    return [*(_guard(chain) for chain in guards[:1]), *_RULES]


def _guard(chain: str) -> tuple[str, ...]:
    return ("-i", _UPLINK, "-m", "conntrack", "--ctstate", "NEW", *_MARK, "-j", chain)


def remove() -> None:
    """Undo of `ensure`; rules that are not there are fine."""
    for program in _PROGRAMS:
        if shutil.which(program) is None or _run(program, "-S", _CHAIN).returncode != 0:
            continue
        for rule in (*map(_guard, _GUARDS), *_RULES):
            while _run(program, "-D", _CHAIN, *rule).returncode == 0:
                continue


def _same(line: str, rule: tuple[str, ...]) -> bool:
    """Whether a line of `iptables -S` is this rule; iptables prints options in an order of its own."""
    words = line.split()[2:]
    return sorted(word.strip('"') for word in words) == sorted(rule)

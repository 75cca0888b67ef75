"""The underlay: a bridge in a network namespace of its own, a leg of the machine, one leg a host, and egress if asked
for.

In the machine's own network namespace only two things are ever made: the leg `<prefix>0` and, for egress, one
nftables table together with net.ipv4.ip_forward (and, where the machine runs Docker, two rules in its DOCKER-USER).
The namespace is kept alive by a process of ours (the keeper) and has its name in /run/netns for `ip netns exec`; it
is bound there by hand, because `ip netns add` would leave a mount of /run/netns behind for good.
"""

# Small files on the machine's own disk and in /proc: an asynchronous file library would gain nothing.
# ruff: noqa: ASYNC240

import contextlib
import ipaddress
import json
import os
from pathlib import Path

from moorage.errors import AlreadyExists, NotReady

from . import processes
from .config import FleetConfig, HostPlan
from .processes import Process
from .state import FleetState

KEEPER = "underlay"
_NETNS = Path("/run/netns")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


async def check_free(config: FleetConfig, state: FleetState) -> None:
    """Refuse what would collide with the machine.

    Raises:
        AlreadyExists: a link of our name is another's, or the subnet overlaps a route of the machine.
    """
    links = json.loads(await processes.run(["ip", "-j", "link", "show"]))
    for link in links:
        if link["ifname"] == config.machine_link and link.get("address") != state.machine_mac:
            raise AlreadyExists(
                f"the link {config.machine_link} exists and is not of this fleet; choose another prefix or remove it"
            )
    for route in json.loads(await processes.run(["ip", "-j", "-4", "route", "show", "table", "all"])):
        if route["dst"] == "default" or route.get("dev") == config.machine_link:
            continue
        if ipaddress.IPv4Network(route["dst"], strict=False).overlaps(config.network):
            raise AlreadyExists(f"{config.subnet} overlaps {route['dst']} on {route.get('dev')}; choose another subnet")


async def ensure_bridge(config: FleetConfig, state: FleetState, lock: int) -> Process:
    """The underlay's namespace with its bridge. Returns its keeper."""
    record = config.records / KEEPER
    keeper = processes.recorded(record, state.token)
    if keeper is None:
        keeper = await processes.launch(
            ["sleep", "infinity"],
            record=record,
            log=config.logs / f"{KEEPER}.log",
            tag=f"{state.token}:{KEEPER}",
            lock=lock,
            before=["unshare", "--net", "--"],
        )
    script = """
        ip link set lo up
        ip link show underlay >/dev/null 2>&1 || ip link add underlay type bridge
        ip link set underlay up
        for file in /proc/sys/net/bridge/bridge-nf-call-*tables; do if [ -w "$file" ]; then echo 0 >"$file"; fi; done
    """
    await processes.run([*enter(keeper), "sh", "-ec", script], lock=lock)
    await _name_namespace(config, keeper, lock)
    return keeper


def enter(keeper: Process) -> list[str]:
    """The command that runs another one in the underlay's namespace."""
    return ["nsenter", f"--net=/proc/{keeper.pid}/ns/net", "--"]


async def ensure_machine_leg(config: FleetConfig, state: FleetState, keeper: Process, lock: int) -> None:
    """The machine's leg with the first address of the subnet."""
    link = config.machine_link
    if "machine" not in await legs_up(keeper):
        # What was plugged into the namespace of a keeper that was killed goes in the kernel's own time.
        await processes.run(["ip", "link", "del", link], lock=lock, check=False)
        # The address is given with the creation: from its first moment the link can be told to be ours.
        await processes.run(
            f"ip link add {link} address {state.machine_mac} type veth peer name machine netns {keeper.pid}".split(),
            lock=lock,
        )
    await processes.run([*enter(keeper), "ip", "link", "set", "machine", "master", "underlay", "up"], lock=lock)
    script = f"""
        ip addr replace {config.machine_address}/{config.network.prefixlen} dev {link}
        ip link set {link} up
    """
    await processes.run(["sh", "-ec", script], lock=lock)


async def ensure_host_leg(config: FleetConfig, keeper: Process, host: HostPlan, holder: Process, lock: int) -> None:
    """The host's eth0, plugged into the underlay's bridge."""
    port = f"""
        if ! ip link show {host.name} >/dev/null 2>&1; then
            nsenter --net=/proc/{holder.pid}/ns/net -- ip link del eth0 2>/dev/null || true  # see ensure_machine_leg
            ip link add {host.name} type veth peer name eth0 netns {holder.pid}
        fi
        ip link set {host.name} master underlay
    """
    await processes.run([*enter(keeper), "sh", "-ec", port], lock=lock)
    default = f"ip route replace default via {config.machine_address}" if config.egress else ""
    inside = f"""
        ip link set lo up
        ip addr replace {host.address}/{config.network.prefixlen} dev eth0
        ip link set eth0 up
        {default}
    """
    await processes.run(["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--", "sh", "-ec", inside], lock=lock)


async def set_host_leg(keeper: Process, host: HostPlan, *, up: bool, lock: int) -> None:
    """Plug the host's cable in or out: at the underlay's end, so that the host sees its carrier go."""
    await processes.run([*enter(keeper), "ip", "link", "set", host.name, "up" if up else "down"], lock=lock)


async def remove_host_leg(keeper: Process, host: HostPlan, lock: int) -> None:
    """Remove the leg of a host that is off.

    The kernel does so too, but in its own time: a host that is started again could find its old leg.
    """
    await processes.run([*enter(keeper), "ip", "link", "del", host.name], lock=lock, check=False)


async def legs_up(keeper: Process) -> dict[str, bool]:
    """Every leg of the underlay and whether it is plugged in."""
    links = json.loads(await processes.run([*enter(keeper), "ip", "-j", "link", "show", "type", "veth"]))
    return {link["ifname"]: "UP" in link["flags"] for link in links}


async def ensure_egress(config: FleetConfig, lock: int) -> None:
    """Let the hosts out through the machine. net.ipv4.ip_forward is to be noted in the state before this is called."""
    rules = f"""
        add table ip {config.nft_table}
        delete table ip {config.nft_table}
        table ip {config.nft_table} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {config.subnet} oifname != "{config.machine_link}" masquerade
            }}
        }}
    """
    await processes.run(["nft", "-f", "-"], stdin=rules.encode(), lock=lock)
    await processes.run(["sh", "-ec", _docker_user(config, add=True)], lock=lock)
    _IP_FORWARD.write_text("1")


def _docker_user(config: FleetConfig, *, add: bool) -> str:
    """The script that lets the hosts' traffic pass a Docker Engine of the machine, which drops what it does not know.

    Its chain DOCKER-USER is there for this. An accept in a table of ours would not help: a drop elsewhere wins. Without
    Docker on the machine there is no such chain, and nothing is done.
    """
    lines = ["iptables -w -n -L DOCKER-USER >/dev/null 2>&1 || exit 0"]
    for side in ("-i", "-o"):
        rule = f"DOCKER-USER {side} {config.machine_link} -m comment --comment {config.nft_table} -j ACCEPT"
        if add:
            lines.append(f"iptables -w -C {rule} 2>/dev/null || iptables -w -I {rule}")
        else:
            lines.append(f"while iptables -w -D {rule} 2>/dev/null; do :; done")
    return "\n".join(lines)


def ip_forward() -> str:
    """The machine's net.ipv4.ip_forward."""
    return _IP_FORWARD.read_text().strip()


async def remove(config: FleetConfig, state: FleetState | None, lock: int | None) -> None:
    """Remove everything of the underlay outside its namespace; the keeper must be dead already.

    Raises:
        NotReady: the machine's link cannot be removed.
    """
    link = Path("/sys/class/net", config.machine_link)
    if link.exists() and (state is None or (link / "address").read_text().strip() == state.machine_mac):
        # Going with its peer's namespace it may already be on its way out; only its absence counts.
        await processes.run(["ip", "link", "del", config.machine_link], lock=lock, check=False)
        if link.exists():
            raise NotReady(f"cannot remove the link {config.machine_link}; try `ip link del {config.machine_link}`")
    await _remove_egress(config, state, lock)
    named = _NETNS / config.underlay
    if named.exists():
        await processes.run(["umount", "--lazy", str(named)], lock=lock, check=False)
        named.unlink()
        with contextlib.suppress(OSError):  # the folder is in use by others, or a mount of theirs
            _NETNS.rmdir()


async def _remove_egress(config: FleetConfig, state: FleetState | None, lock: int | None) -> None:
    if state is not None and not state.egress:
        return
    await processes.run(
        ["nft", "-f", "-"],
        stdin=f"add table ip {config.nft_table}\ndelete table ip {config.nft_table}\n".encode(),
        lock=lock,
    )
    await processes.run(["sh", "-ec", _docker_user(config, add=False)], lock=lock)
    others = "moorage-box-" in await processes.run(["nft", "list", "tables"], lock=lock)
    if state is not None and state.ip_forward_was == "0" and not others:
        _IP_FORWARD.write_text("0")


async def _name_namespace(config: FleetConfig, keeper: Process, lock: int) -> None:
    named = _NETNS / config.underlay
    source = Path(f"/proc/{keeper.pid}/ns/net")
    if named.exists():
        if os.path.samestat(named.stat(), source.stat()):
            return
        await processes.run(["umount", "--lazy", str(named)], lock=lock, check=False)
    _NETNS.mkdir(exist_ok=True)
    named.touch()
    await processes.run(["mount", "--bind", str(source), str(named)], lock=lock)

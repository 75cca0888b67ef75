"""What is shown of hosts in tables."""

from typing import Any

from cli.names import short
from cli.output import Column, age, enum_word, pairs
from moorage.units import format_bytes, format_cpu
from moorage.v1 import hosts_pb2


def _link(host: Any) -> str:
    return enum_word(hosts_pb2.HostLinkState, host.status.link_state)


def _admin(host: Any) -> str:
    return enum_word(hosts_pb2.HostAdminState, host.admin_state)


def _conditions(host: Any) -> str:
    words = [condition.reason for condition in host.status.conditions]
    if host.status.HasField("loss"):
        words.insert(0, "LOST")
    elif host.status.link_message:
        words.insert(0, "UNDECIDED")
    if host.admin_state == hosts_pb2.HOST_ADMIN_STATE_DRAINING:
        words.append(f"LEFT:{host.status.drain.left}")
    if host.status.sweep_brake:
        words.append("SWEEP_BRAKE")
    if host.status.quarantined:
        words.append(f"QUARANTINED:{len(host.status.quarantined)}")
    return ",".join(words)


def _share(used: int, total: int, render: Any) -> str:
    return f"{render(used)}/{render(total)}" if total else render(used)


COLUMNS = (
    Column("NAME", lambda host: short(host.name)),
    Column("LINK", _link),
    Column("ADMIN", _admin),
    Column("ZONE", lambda host: short(host.zone)),
    Column("INSTANCES", lambda host: str(host.status.used.instances)),
    Column("CPU", lambda host: _share(host.status.used.cpu_millis, host.capacity.cpu_millis, format_cpu)),
    Column("MEMORY", lambda host: _share(host.status.used.memory_bytes, host.capacity.memory_bytes, format_bytes)),
    Column("CONDITIONS", _conditions),
    Column("AGE", lambda host: age(host.create_time)),
    Column("ADDRESS", lambda host: host.status.facts.underlay_address, wide=True),
    Column("PLATFORM", lambda host: host.status.facts.platform, wide=True),
    Column("ENGINE", lambda host: host.status.facts.engine_version, wide=True),
    Column("KERNEL", lambda host: host.status.facts.kernel, wide=True),
    Column("AGENT", lambda host: host.status.facts.agent_version, wide=True),
    Column("LABELS", lambda host: pairs(host.labels.items()), wide=True),
)

"""Which hosts change their link state, from what is known of their sessions. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.hosts import Host, HostLinkState


@dataclass(frozen=True, slots=True)
class SetLink:
    """Write this link state."""

    host_uid: str
    state: HostLinkState
    why: str


@dataclass(frozen=True, slots=True)
class DropSession:
    """A session that has been silent for too long."""

    host_uid: str
    why: str


Action = SetLink | DropSession


def plan(
    hosts: Sequence[Host],
    silent_seconds: Mapping[str, float],
    away_seconds: Mapping[str, float],
    *,
    heartbeat_timeout_seconds: float,
    down_after_seconds: float,
) -> list[Action]:
    """What to do, in order of host.

    Args:
        silent_seconds: by host uid, for open sessions: time since the agent was last heard.
        away_seconds: by host uid, for hosts without a session: time since it ended, or since we started.
    """
    actions: list[Action] = []
    for host in sorted(hosts, key=lambda host: host.id):
        if host.uid in silent_seconds:
            silence = silent_seconds[host.uid]
            if silence > heartbeat_timeout_seconds:
                actions.append(DropSession(host.uid, f"no heartbeat for {silence:.0f} s"))
            elif host.link_state is not HostLinkState.UP:
                # The end of an older session was written after the begin of this one.
                actions.append(SetLink(host.uid, HostLinkState.UP, "its session is open"))
            continue
        if host.link_state is HostLinkState.CONNECTING:
            continue  # never seen; nothing to lose
        away = away_seconds.get(host.uid, 0.0)
        if host.link_state is HostLinkState.UP:
            actions.append(SetLink(host.uid, HostLinkState.DISCONNECTED, "the session was lost"))
        elif host.link_state is HostLinkState.DISCONNECTED and away > down_after_seconds:
            actions.append(SetLink(host.uid, HostLinkState.DOWN, f"away for {away:.0f} s"))
    return actions

"""How long a host may be silent, and what follows: an operator's choice. See docs/configuration.md."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LivenessTerms:
    """Seconds all of them; counted from the moment at which the agent was heard last.

    Attributes:
        heartbeat_seconds: how often an agent is to be heard; it is told at each welcome.
        silent_after_seconds: from then on the host is DISCONNECTED, and its neighbours are asked.
        lost_after_seconds: the soonest that it is given up, if they do not reach it either.
        restart_seconds: the same for a host whose agent said that it ends.
    """

    heartbeat_seconds: float = 1.0
    silent_after_seconds: float = 2.0
    lost_after_seconds: float = 3.0
    restart_seconds: float = 30.0


DEFAULT_TERMS = LivenessTerms()
#: How long a neighbour tries to reach a host.
QUESTION_SECONDS = 0.6
#: After that the answers are counted, whoever has not said anything.
ROUND_SECONDS = 0.8

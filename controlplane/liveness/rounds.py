"""Questions about hosts that are on their way to their neighbours, and what these have said."""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from controlplane.dispatch.dispatcher import Dispatcher
from controlplane.domain.hosts import Host
from controlplane.liveness.plan import Reach, Round
from controlplane.liveness.terms import QUESTION_SECONDS
from moorage import neighbours
from moorage.clock import Clock
from moorage.errors import Unavailable


@dataclass(frozen=True, slots=True)
class NeighbourQuestion:
    """What a session carries; mirrors moorage.v1.NeighbourQuestion."""

    question_id: str
    address: str
    port: int
    datagram: bytes
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class _Pending:
    host_uid: str
    key: str  # of the host that is asked about
    nonce: bytes
    neighbour_uid: str
    neighbour: str


class Rounds:
    """The newest round about each host. An older one's answers are not counted any more.

    Args:
        on_answer: called when somebody has said something.
    """

    def __init__(self, dispatcher: Dispatcher, clock: Clock, on_answer: Callable[[], None] = lambda: None) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self.on_answer = on_answer
        self._rounds: dict[str, Round] = {}
        self._pending: dict[str, _Pending] = {}

    @property
    def newest(self) -> Mapping[str, Round]:
        """By uid of the host that is asked about."""
        return MappingProxyType(self._rounds)

    def ask(self, host: Host, others: Sequence[Host]) -> None:
        """Begin a round about a host. Those whose session has ended meanwhile are not counted as asked."""
        self.keep_only(self._rounds.keys() - {host.uid})
        asked: list[str] = []
        for other in others:
            nonce, question_id = secrets.token_bytes(neighbours.NONCE_BYTES), secrets.token_hex(8)
            datagram = neighbours.question(host.nonce, nonce)
            facts = host.facts
            question = NeighbourQuestion(
                question_id, facts.underlay_address, facts.neighbour_port, datagram, QUESTION_SECONDS
            )
            try:
                self._dispatcher.session(other.uid).request(question)
            except Unavailable:
                continue
            self._pending[question_id] = _Pending(host.uid, host.nonce, nonce, other.uid, other.name)
            asked.append(other.name)
        self._rounds[host.uid] = Round(self._clock.monotonic(), tuple(asked))

    def take(self, neighbour_uid: str, question_id: str, reach: Reach, datagram: bytes) -> None:
        """What a neighbour says; nothing happens if it was not asked, or too long ago."""
        pending = self._pending.get(question_id)
        if pending is None or pending.neighbour_uid != neighbour_uid:
            return
        del self._pending[question_id]
        if reach is Reach.ANSWERS and not neighbours.is_answer(pending.key, pending.nonce, datagram):
            reach = Reach.SILENT  # somebody else is at its address
        known = self._rounds[pending.host_uid]
        self._rounds[pending.host_uid] = replace(known, answers={**known.answers, pending.neighbour: reach})
        self.on_answer()

    def keep_only(self, host_uids: Iterable[str]) -> None:
        """Forget the rounds about all other hosts."""
        kept = set(host_uids)
        self._rounds = {uid: one for uid, one in self._rounds.items() if uid in kept}
        self._pending = {i: one for i, one in self._pending.items() if one.host_uid in kept}

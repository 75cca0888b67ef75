"""What waits to be said to the control plane: of each instance and router the newest report only, so it is bounded
whatever happens.

The newest report of every instance is kept after it was sent, for the hello of the next session; those of routers
follow the hello.

Each message costs the control plane a transaction, an event and a change in every watch. Most states on the way are
outdated before anybody reads them, so they wait for a moment; where the way ends is told at once.
"""

import asyncio
from collections import deque
from dataclasses import replace

from google.protobuf.message import Message

from hostagent.domain import InstanceReport, InstanceState
from moorage.ids import InstanceId
from moorage.router_bundle import RouterReport

MAX_NOTICES = 1000
_ON_THE_WAY_SECONDS = 0.1
_ON_THE_WAY = frozenset(
    {
        InstanceState.ASSIGNED,
        InstanceState.PULLING,
        InstanceState.PREPARING,
        InstanceState.STARTING,
        InstanceState.STOPPING,
        InstanceState.DELETING,
    }
)


class Outbox:
    """Filled by the workers, emptied by the session."""

    def __init__(self) -> None:
        self._latest: dict[InstanceId, InstanceReport] = {}
        self._waiting: dict[InstanceId, InstanceReport] = {}
        self._routers: dict[InstanceId, RouterReport] = {}
        self._waiting_routers: dict[InstanceId, RouterReport] = {}
        self._notices: deque[Message] = deque(maxlen=MAX_NOTICES)
        self._filled = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None

    @property
    def latest(self) -> dict[InstanceId, InstanceReport]:
        """The newest report of each instance."""
        return self._latest

    def put(self, report: InstanceReport) -> None:
        """Send a report soon, unless it says what the last one of this instance said."""
        known = self._latest.get(report.instance_id)
        report = replace(report, sequence=known.sequence if known else 0)
        if report == known:
            return
        report = replace(report, sequence=report.sequence + 1)
        self._latest[report.instance_id] = report
        self._waiting[report.instance_id] = report
        if report.state not in _ON_THE_WAY or report.reason:
            self._filled.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(_ON_THE_WAY_SECONDS, self._filled.set)

    def put_router(self, report: RouterReport) -> None:
        """Send what became of a router's configuration, unless it says what the last report of this router said."""
        if self._routers.get(report.instance_id) == report:
            return
        self._routers[report.instance_id] = report
        self._waiting_routers[report.instance_id] = report
        self._filled.set()

    def notify(self, message: Message) -> None:
        """Send a task report or an event soon; with too many waiting, the oldest are lost."""
        self._notices.append(message)
        self._filled.set()

    def forget(self, instance_id: InstanceId) -> None:
        """The control plane knows that the instance is gone."""
        self._latest.pop(instance_id, None)
        self._waiting.pop(instance_id, None)
        self._routers.pop(instance_id, None)
        self._waiting_routers.pop(instance_id, None)

    def hello(self) -> list[InstanceReport]:
        """Every newest report; what waited is in it. Those of routers wait again: they come after the hello."""
        self._waiting.clear()
        self._waiting_routers = dict(self._routers)
        if self._waiting_routers:
            self._filled.set()
        return list(self._latest.values())

    async def wait(self) -> None:
        """Return when something waits."""
        await self._filled.wait()

    def take_routers(self) -> list[RouterReport]:
        """Reports of routers that wait. What is taken and not sent follows the next hello."""
        reports = list(self._waiting_routers.values())
        self._waiting_routers.clear()
        return reports

    def take(self) -> tuple[list[InstanceReport], list[Message]]:
        """All else that waits. What is taken and not sent is in the next hello (reports) or lost (notices)."""
        reports, notices = list(self._waiting.values()), list(self._notices)
        self._waiting.clear()
        self._notices.clear()
        self._filled.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        return reports, notices

"""What the agent says, and when: where the way ends at once, states on the way a moment later and only the newest."""

import asyncio

import pytest

from hostagent.domain import InstanceReport, InstanceState
from hostagent.session.outbox import Outbox
from moorage.ids import InstanceId

_WEB, _DB = InstanceId("web"), InstanceId("db")


def _report(state: InstanceState, instance: InstanceId = _WEB, reason: str = "") -> InstanceReport:
    return InstanceReport(instance_id=instance, run=1, sequence=0, state=state, reason=reason)


@pytest.mark.parametrize(
    "report",
    [
        _report(InstanceState.RUNNING),
        _report(InstanceState.FAILED),
        _report(InstanceState.DELETED),
        _report(InstanceState.PREPARING, reason="ENGINE_UNAVAILABLE"),
    ],
)
async def test_the_end_of_a_way_and_trouble_leave_at_once(report: InstanceReport) -> None:
    outbox = Outbox()
    outbox.put(report)
    waiting = asyncio.ensure_future(outbox.wait())
    await asyncio.sleep(0)
    assert waiting.done()


async def test_states_on_the_way_wait_for_newer_ones() -> None:
    outbox = Outbox()
    outbox.put(_report(InstanceState.PREPARING))
    outbox.put(_report(InstanceState.STARTING))
    waiting = asyncio.ensure_future(outbox.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put(_report(InstanceState.RUNNING))
    await waiting
    reports, _ = outbox.take()
    assert [(report.state, report.sequence) for report in reports] == [(InstanceState.RUNNING, 3)]


async def test_a_long_way_is_told_too_again_and_again() -> None:
    outbox = Outbox()
    for state in (InstanceState.PULLING, InstanceState.PREPARING):
        outbox.put(_report(state))
        async with asyncio.timeout(30):
            await outbox.wait()
        assert [report.state for report in outbox.take()[0]] == [state]


async def test_what_waits_goes_along_with_what_is_urgent() -> None:
    outbox = Outbox()
    outbox.put(_report(InstanceState.STARTING, _DB))
    outbox.put(_report(InstanceState.RUNNING, _WEB))
    await outbox.wait()
    assert {report.instance_id for report in outbox.take()[0]} == {_DB, _WEB}

"""What holds for every test: hypothesis without a time limit for one example (two cores and other test runs make that
a matter of luck), and no asyncio task may outlive the test that started it."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

settings.register_profile("moorage", deadline=None, print_blob=True)
settings.load_profile("moorage")

_SETTLE_SECONDS = 2.0  # in which what was cancelled may end: a gRPC call hears of its end from another thread


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the check to every test that is a coroutine; the others have no loop to look at."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            # First of all fixtures, so that it is torn down last.
            item.fixturenames.insert(0, "no_task_is_left")


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves tasks behind, and name them."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_SETTLE_SECONDS)
    names = ", ".join(sorted(f"{task.get_name()} ({task.get_coro()!r})" for task in left if not task.done()))
    if names:
        pytest.fail(f"tasks outlive the test: {names}")

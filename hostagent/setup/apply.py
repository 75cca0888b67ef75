"""Carries out the changes of setup, in order, and takes all of them back when one fails.

Every effect goes through `Machine`, so that rolling back is tested without a machine.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from hostagent.setup.plan import Change, ConfigureEngine, EnableUnit, WriteFile
from moorage.errors import MoorageError, NotReady

log = logging.getLogger(__name__)


class Machine(Protocol):
    """What changes touch. All of it may raise OSError or MoorageError."""

    def write(self, path: str, text: str | None, mode: int) -> None: ...
    async def reload_engine(self) -> None: ...
    async def engine_has(self, runtime_path: str) -> bool: ...
    async def enable_unit(self, unit: str, *, is_enabled: bool) -> None: ...


async def apply(changes: Sequence[Change], machine: Machine, say: Callable[[str], None]) -> None:
    """Carry out changes.

    Raises:
        NotReady: SETUP_FAILED, a change failed; those before it were taken back (the message says so, or which was
        not).
    """
    done: list[Change] = []
    for change in changes:
        say(change.what)
        done.append(change)
        try:
            await _do(change, machine)
        except (OSError, MoorageError) as exc:
            left = await _roll_back(done, machine, say)
            state = f"could not take back: {'; '.join(left)}" if left else "everything was taken back"
            raise NotReady(f"{change.what}: {exc}; {state}", reason="SETUP_FAILED") from exc


async def _roll_back(done: Sequence[Change], machine: Machine, say: Callable[[str], None]) -> list[str]:
    left = []
    for change in reversed(done):
        say(f"take back: {change.what}")
        try:
            await _undo(change, machine)
        except (OSError, MoorageError) as exc:
            left.append(f"{change.what} ({exc})")
    return left


async def _do(change: Change, machine: Machine) -> None:
    match change:
        case WriteFile():
            machine.write(change.path, change.text, change.mode)
        case ConfigureEngine():
            machine.write(change.path, change.text, 0o644)
            await machine.reload_engine()
            if change.must_have and not await machine.engine_has(change.must_have):
                raise NotReady(
                    "the engine was told to reload and does not report the change; its log says why",
                    reason="ENGINE_DID_NOT_RELOAD",
                )
        case EnableUnit():
            await machine.enable_unit(change.unit, is_enabled=change.is_enabled)
        case _:
            raise AssertionError(f"no way to do {change}")


async def _undo(change: Change, machine: Machine) -> None:
    match change:
        case WriteFile():
            machine.write(change.path, change.before, change.mode)
        case ConfigureEngine():
            machine.write(change.path, change.before, 0o644)
            await machine.reload_engine()
        case EnableUnit():
            await machine.enable_unit(change.unit, is_enabled=not change.is_enabled)

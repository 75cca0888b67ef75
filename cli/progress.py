"""How long work shows that it goes on: a bar on a terminal, a line per phase elsewhere. All of it on stderr."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from moorage.units import format_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from moorage.v1 import operations_pb2


class OperationProgress:
    """Call it with each version of an operation. Use as a context manager, so that the terminal is left in order."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = title
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def _start(self) -> None:
        """Only when there is something to show: most of the time the work is done already."""
        if self._bar is not None or self._quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=100, detail="")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, operation: "operations_pb2.Operation") -> None:
        self._start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=operation.percent, detail=detail(operation))
        elif not self._quiet and operation.phase and operation.phase != self._phase:
            click.echo(f"{self._title}: {operation.phase}", err=True)
        self._phase = operation.phase

    def bytes_sent(self, done: int, total: int) -> None:
        """An upload, before there is an operation; `total` is 0 when not known."""
        self._start()
        if self._bar is not None and self._task is not None:
            amount = format_bytes(done) + (f"/{format_bytes(total)}" if total else "")
            self._bar.update(self._task, completed=done * 100 // total if total else 0, detail=f"send {amount}")


def detail(operation: Any) -> str:
    """`pull 12Mi/80Mi`."""
    if not operation.done_bytes and not operation.total_bytes:
        return str(operation.phase)
    total = f"/{format_bytes(operation.total_bytes)}" if operation.total_bytes else ""
    return f"{operation.phase} {format_bytes(operation.done_bytes)}{total}"

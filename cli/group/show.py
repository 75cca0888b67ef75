"""How groups are printed, and what is told while one is waited for."""

import re
import time
from collections.abc import Callable
from typing import Any

import click

from cli.names import short
from cli.output import Column, age, enum_word, pairs
from moorage.v1 import groups_pb2

_BETWEEN_LINES_SECONDS = 1.0

COLUMNS = (
    Column("NAME", lambda group: short(group.name)),
    Column("STATE", lambda group: enum_word(groups_pb2.GroupState, group.status.state)),
    Column("READY", lambda group: f"{group.status.ready}/{group.status.wanted}"),
    Column("UPDATED", lambda group: f"{group.status.updated}/{group.status.wanted}"),
    Column("REVISION", lambda group: revision_of(group.status)),
    Column("TEMPLATE", lambda group: short(group.spec.instance.template)),
    Column("AGE", lambda group: age(group.create_time)),
    Column("REASON", lambda group: group.status.reason),
    Column("MESSAGE", lambda group: group.status.message.partition("\n")[0], wide=True),
    Column("LABELS", lambda group: pairs(group.labels.items()), wide=True),
)
REVISION_COLUMNS = (
    Column("REVISION", lambda revision: str(revision.number)),
    Column("TEMPLATE", lambda revision: short(revision.instance.template)),
    Column("AGE", lambda revision: age(revision.create_time)),
    Column("AUTHOR", lambda revision: revision.author),
    Column("FAILURE", lambda revision: revision.failure.partition("\n")[0]),
)


def revision_of(status: groups_pb2.GroupStatus) -> str:
    """The target, and where members come from while they are on their way to it."""
    if status.stable_revision in (0, status.target_revision):
        return str(status.target_revision)
    return f"{status.stable_revision}->{status.target_revision}"


def line_of(group: groups_pb2.Group) -> str:
    """Where a group stands, in one line."""
    status = group.status
    line = f"{short(group.name)}: {enum_word(groups_pb2.GroupState, status.state)}, {status.ready} of {status.wanted} ready"
    if status.stable_revision not in (0, status.target_revision):
        line += f", {status.updated} of them updated"
    # The message says how many are ready too, where not all are.
    counts = rf"(; )?{status.ready} of {status.wanted} ready(: )?"
    message = re.sub(counts, lambda m: "; " if m[1] and m[2] else "", status.message.partition("\n")[0])
    if not message:
        message = next((slot.message for slot in status.slots if slot.message), "")
    return f"{line}: {message}" if message else line


def teller() -> Callable[[groups_pb2.Group], None]:
    """Tells on standard error where a group stands: a new state at once, all else that is new at most once a second."""
    said: list[Any] = ["", None, 0.0]

    def tell(group: groups_pb2.Group) -> None:
        line, state, now = line_of(group), group.status.state, time.monotonic()
        if line != said[0] and (state != said[1] or now - said[2] >= _BETWEEN_LINES_SECONDS):
            click.echo(line, err=True)
            said[:] = [line, state, now]

    return tell

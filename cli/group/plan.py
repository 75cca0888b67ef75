"""plan: what would happen to a group, as it is, or with an update or a rollback."""

from collections.abc import Iterator
from typing import Any

import click

from cli.completion import complete_names
from cli.group.change import wish
from cli.group.policy import POLICY
from cli.instance.replace import given_options
from cli.names import short
from cli.output import enum_word, print_one, print_rows
from cli.run_options import INSTANCE, add_options
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.v1 import groups_pb2


@click.command("plan")
@click.argument("name", shell_complete=complete_names("groups"))
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
@click.option(
    "--to",
    "revision",
    type=click.IntRange(min=0),
    help="What a rollback to this revision would bring; 0: the last good.",
)
@click.option("--image", metavar="IMAGE_OR_TEMPLATE", help="What members are made from.")
@add_options(POLICY)
@add_options(INSTANCE)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print.",
)
@project_option
@pass_session
def plan(session: Session, /, name: str, revision: int | None, image: str | None, output: str, **options: Any) -> None:
    """Say what would happen to a group, wave by wave and why: with the options of `moor group update`, or as it is."""
    is_update = bool(image) or bool(given_options(options))
    if is_update and revision is not None:
        raise click.UsageError("plan an update or a rollback: --to goes with no other option")

    async def work(client: Client) -> groups_pb2.PlanGroupResponse:
        request = groups_pb2.PlanGroupRequest(name=session.name_in_project("groups", name))
        if is_update:
            update = await wish(session, name, image, options).request(client)
            request.group.CopyFrom(update.group)
            request.update_mask.CopyFrom(update.update_mask)
        elif revision is not None:
            request.revision = revision
        return await client.groups.PlanGroup(request)

    answer = session.run(work)
    if output != "table":
        print_one(answer, (), output)
        return
    rows = list(rows_of(answer))
    if rows:
        print_rows(("WAVE", "ACTION", "SLOT", "REVISION", "INSTANCE", "WHY"), rows)
    else:
        click.echo("Nothing would be done.")
    if answer.ends_because:
        click.echo(f"There it would stand: {answer.ends_because}.")


def rows_of(answer: groups_pb2.PlanGroupResponse) -> Iterator[tuple[str, ...]]:
    """A row for each step."""
    for number, wave in enumerate(answer.waves, 1):
        for step in wave.steps:
            yield (
                str(number),
                enum_word(groups_pb2.PlanAction, step.action).lower(),
                str(step.slot) if step.slot >= 0 else "",
                str(step.revision),
                short(step.instance) or (f"on {short(step.host)}" if step.host else ""),
                step.why,
            )

"""operation: long work and its progress."""

import click

from cli.names import short
from cli.output import Column, age, enum_word, output_option, print_list, print_one
from cli.progress import OperationProgress, detail
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.units import parse_duration
from moorage.v1 import operations_pb2

COLUMNS = (
    Column("NAME", lambda operation: short(operation.name)),
    Column("VERB", lambda operation: operation.verb),
    Column("TARGET", lambda operation: short(operation.target)),
    Column("STATE", lambda operation: enum_word(operations_pb2.OperationState, operation.state)),
    Column("PERCENT", lambda operation: f"{operation.percent}%"),
    Column("PHASE", detail),
    Column("AGE", lambda operation: age(operation.create_time)),
    Column("BY", lambda operation: operation.created_by, wide=True),
    Column("ERROR", lambda operation: operation.error.message, wide=True),
)


@click.group("operation")
def operation() -> None:
    """Long work and its progress."""


@operation.command("ls")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'state=RUNNING'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, filter_text: str, output: str) -> None:
    """List the operations of the project."""

    async def work(client: Client) -> list[operations_pb2.Operation]:
        request = operations_pb2.ListOperationsRequest(parent=session.project, filter=filter_text)
        call = client.operations.ListOperations
        return [found async for found in paginate(call, request, lambda page: page.operations)]

    print_list(session.run(work), COLUMNS, output)


@operation.command("get")
@click.argument("name")
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one operation, with what it printed."""

    async def work(client: Client) -> operations_pb2.Operation:
        full_name = session.name_in_project("operations", name)
        return await client.operations.GetOperation(operations_pb2.GetOperationRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)


@operation.command("wait")
@click.argument("name")
@click.option("--timeout", metavar="TIME", help="Longest wait; default as long as it takes.")
@project_option
@output_option()
@pass_session
def wait(session: Session, name: str, timeout: str | None, output: str) -> None:
    """Wait until an operation has succeeded, and show how it goes; fails as it fails."""
    full_name = session.name_in_project("operations", name)
    seconds = parse_duration(timeout, field="timeout") if timeout else None

    async def work(client: Client) -> operations_pb2.Operation:
        with OperationProgress(short(name)) as progress:
            return await client.wait_operation(full_name, progress, timeout_seconds=seconds)

    print_one(session.run(work), COLUMNS, output)


@operation.command("cancel")
@click.argument("names", nargs=-1, required=True)
@project_option
@pass_session
def cancel(session: Session, names: tuple[str, ...]) -> None:
    """Ask running operations to stop."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("operations", name)
            await client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=full_name))
            click.echo(f"{short(name)} was asked to stop.")

    session.run(work)

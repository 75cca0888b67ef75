"""host rebalance: moves on an operator's word."""

from typing import Any

import click

from cli.names import short
from cli.output import Column, output_option, print_list
from cli.session import Session, pass_session
from moorage.client import Client
from moorage.v1 import hosts_pb2

COLUMNS = (
    Column("INSTANCE", lambda move: short(move.instance)),
    Column("FROM", lambda move: short(move.from_host)),
    Column("TO", lambda move: short(move.to_host)),
    Column("WHY", lambda move: move.why),
)


@click.command("rebalance")
@click.option("--dry-run", is_flag=True, help="Only say what would be moved, and why.")
@click.option("--moves", type=click.IntRange(1, 100), default=10, show_default=True, help="At most so many.")
@output_option()
@pass_session
def rebalance(session: Session, dry_run: bool, moves: int, output: str) -> None:
    """Move members of groups that would stand better elsewhere: several on one host, or on a host that is much fuller than others.

    Each group makes the successor first, and moves one member at a time. Groups that are not STABLE, that stop members before they start
    new ones, or that are one on each host are left alone. A control plane with rebalance_at_once in its configuration does this by itself.
    """

    async def work(client: Client) -> Any:
        return await client.hosts.RebalanceHosts(
            hosts_pb2.RebalanceHostsRequest(max_moves=moves, validate_only=dry_run)
        )

    answer = session.run(work)
    print_list(answer.moves, COLUMNS, output)
    if not answer.moves:
        click.echo("Nothing would stand better elsewhere.", err=True)

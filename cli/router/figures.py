"""What is said beside figures that are sums over a router's containers."""

from collections.abc import Sequence

import click

from cli.names import short


def warn_of_missing(members: Sequence[str]) -> None:
    """Say on standard error whose figures the sums are without."""
    if members:
        click.echo(f"Without {', '.join(map(short, members))}, which could not be asked.", err=True)

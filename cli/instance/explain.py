"""explain: why an instance is where it is, and why not elsewhere."""

from typing import Any

import click

from cli.completion import complete_names
from cli.instance.inspect import state_of
from cli.names import short
from cli.output import clock_time, output_option, print_one, table_lines
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.v1 import instances_pb2


def explanation_lines(instance: Any) -> list[str]:
    """The explanation for people."""
    status = instance.status
    placement = status.placement
    name = short(instance.name) or "The instance"
    if not instance.status.HasField("placement"):
        return [f"{name} is {state_of(instance) or 'not placed'}; nothing was decided about it yet."]
    chosen = placement.host or status.host
    if chosen:
        lines = [f"{name} is on {short(chosen)}. {placement.summary}".rstrip()]
    else:
        lines = [f"{name} has no host: {placement.summary or 'none of those looked at fits.'}"]
    decided = f", decided {clock_time(placement.decide_time)}" if placement.decide_time.seconds else ""
    lines.append(f"{placement.hosts_considered} hosts were looked at{decided}.")
    if placement.devices:
        lines.append(f"Its devices: {', '.join(placement.devices)}.")
    if placement.promised_host:
        lines.append(f"A place on {short(placement.promised_host)} is kept for it.")
    if placement.filters:
        lines += ["", "Why not others"]
        rows = [
            [
                found.filter,
                str(found.hosts_removed),
                found.explanation,
                ", ".join(short(host) for host in found.examples),
            ]
            for found in placement.filters
            if found.hosts_removed
        ]
        lines += table_lines(["FILTER", "HOSTS", "WHY", "SUCH AS"], rows) if rows else ["no filter took a host out"]
    if placement.scores:
        lines += ["", "Best of those that fit" if chosen else "Others"]
        rows = [
            [
                f"{short(score.host)} (chosen)" if score.host == chosen else short(score.host),
                f"{score.score + 0.0:.3g}",
                score.explanation,
            ]
            for score in placement.scores
        ]
        lines += table_lines(["HOST", "SCORE", "WHY"], rows)
    if status.message and status.message != placement.summary:
        lines += ["", f"Now: {state_of(instance)}. {status.message}"]
    if status.probe:
        lines += ["", f"A probe fails: {status.probe}"]
    return lines


@click.command("explain")
@click.argument("name", shell_complete=complete_names("instances"))
@project_option
@output_option()
@pass_session
def explain(session: Session, name: str, output: str) -> None:
    """Say why an instance is on its host, and why not on the others."""

    async def work(client: Client) -> instances_pb2.Instance:
        full_name = session.name_in_project("instances", name)
        return await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))

    found = session.run(work)
    if output in ("json", "yaml"):
        print_one(found.status.placement, [], output)
    else:
        click.echo("\n".join(explanation_lines(found)))

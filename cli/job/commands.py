"""job: work that is done once."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from cli.completion import complete_names
from cli.instance.create import ensure_template, wish_of
from cli.job.follow import exit_code, follow_job, print_prefixed
from cli.job.options import JOB, job_spec
from cli.names import short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.progress import OperationProgress
from cli.run_options import INSTANCE, add_options
from cli.session import Session, pass_session, project_option
from moorage.client import Client, paginate
from moorage.errors import NotFound
from moorage.ids import new_id
from moorage.units import parse_duration
from moorage.v1 import jobs_pb2

COLUMNS = (
    Column("NAME", lambda job: short(job.name)),
    Column("STATE", lambda job: enum_word(jobs_pb2.JobState, job.status.state)),
    Column("DONE", lambda job: f"{job.status.succeeded}/{job.spec.completions or 1}"),
    Column("AT WORK", lambda job: str(job.status.active)),
    Column("FAILED TRIES", lambda job: str(job.status.failed)),
    Column("AGE", lambda job: age(job.create_time)),
    Column("MESSAGE", lambda job: job.status.message),
    Column("CRON JOB", lambda job: short(job.status.cron_job), wide=True),
    Column("LABELS", lambda job: pairs(job.labels.items()), wide=True),
)

_name = click.argument("name", metavar="JOB", shell_complete=complete_names("jobs"))


@click.group("job")
def job() -> None:
    """Jobs: work that is done once, and tried again where it fails."""


@job.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("image", metavar="IMAGE_OR_TEMPLATE")
@click.argument("command", nargs=-1, metavar="[COMMAND]...", type=click.UNPROCESSED)
@click.option("--name", metavar="NAME", help="Name of the job; default: one is made.")
@click.option("-d", "--detach", is_flag=True, help="Leave it to itself, and print its name.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@add_options((*JOB, *INSTANCE))
@project_option
@output_option("name")
@pass_session
def run(session: Session, /, image: str, output: str, **options: Any) -> None:
    """Make a job, show what it writes, and exit as it ends.

    Exits with 0 when each index has ended with 0, else with the exit code of the one that failed. The job goes on without
    moor: Ctrl-C only ends the showing. Its instances see MOORAGE_JOB_INDEX and MOORAGE_JOB_ATTEMPT.
    """
    wish = wish_of(session.project, image, options)
    spec = job_spec(wish, options)

    async def work(client: Client) -> int:
        with OperationProgress(f"template of {image}", quiet=not sys.stderr.isatty()) as progress:
            spec.instance.template = await ensure_template(client, session.project, image, progress)
        request = jobs_pb2.CreateJobRequest(
            parent=session.project,
            job_id=short(wish.name),
            job=jobs_pb2.Job(spec=spec, labels=wish.labels),
            request_id=new_id(),
            validate_only=options["validate_only"],
        )
        made = await client.jobs.CreateJob(request)
        if options["detach"] or options["validate_only"]:
            print_one(made, COLUMNS, output)
            return 0
        return await follow_job(client, made.name)

    _exit(session.run(work))


@job.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'state=JOB_STATE_FAILED'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List jobs."""

    async def work(client: Client) -> list[Any]:
        request = jobs_pb2.ListJobsRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.jobs.ListJobs, request, lambda page: page.jobs)]

    print_list(session.run(work), COLUMNS, output)


@job.command("get")
@_name
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one job, with each of its indexes."""

    async def work(client: Client) -> jobs_pb2.Job:
        return await client.jobs.GetJob(jobs_pb2.GetJobRequest(name=session.name_in_project("jobs", name)))

    print_one(session.run(work), COLUMNS, output)


@job.command("logs")
@_name
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends, and exit as it does.")
@click.option("--index", type=click.IntRange(min=0), metavar="N", help="Of this index only.")
@project_option
@pass_session
def logs(session: Session, name: str, follow: bool, index: int | None) -> None:
    """Print what the newest instance of each index wrote."""
    if follow and index is not None:
        raise click.UsageError("--follow shows all indexes: leave out --index")

    async def work(client: Client) -> int:
        full_name = session.name_in_project("jobs", name)
        if follow:
            return await follow_job(client, full_name)
        found = await client.jobs.GetJob(jobs_pb2.GetJobRequest(name=full_name))
        await _print_logs(client, found, [one for one in found.status.indexes if index in (None, one.index)])
        return 0

    _exit(session.run(work))


@job.command("wait")
@_name
@click.option("--timeout", metavar="TIME", help="Longest wait; default: without end.")
@project_option
@pass_session
def wait(session: Session, name: str, timeout: str | None) -> None:
    """Wait until a job has ended, and exit as it did."""
    seconds = parse_duration(timeout, field="timeout") if timeout else None

    async def work(client: Client) -> int:
        ended = await client.wait_job(session.name_in_project("jobs", name), seconds)
        if ended.status.message:
            click.echo(f"{short(ended.name)}: {ended.status.message}", err=True)
        return exit_code(ended)

    _exit(session.run(work))


@job.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="JOB...", shell_complete=complete_names("jobs"))
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Remove jobs with all their instances."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("jobs", name)
            await client.jobs.DeleteJob(jobs_pb2.DeleteJobRequest(name=full_name))
            click.echo(f"{short(full_name)} is being removed.")

    session.run(work)


async def _print_logs(client: Client, found: jobs_pb2.Job, indexes: Sequence[jobs_pb2.JobIndexStatus]) -> None:
    if not indexes:
        raise NotFound(f"{short(found.name)} has begun no such index", metadata={"name": found.name})
    for index in indexes:
        if index.instance:
            prefix = f"[{index.index}] ".encode() if len(indexes) > 1 else b""
            await print_prefixed(client, index.instance, prefix, is_followed=False)


def _exit(code: int) -> None:
    if code:
        raise click.exceptions.Exit(code)

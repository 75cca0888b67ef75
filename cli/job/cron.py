"""cron: jobs by the clock."""

import sys
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.instance.create import ensure_template, wish_of
from cli.job.follow import follow_job
from cli.job.options import JOB, job_spec
from cli.names import short
from cli.output import Column, age, clock_time, enum_word, output_option, pairs, print_list, print_one
from cli.progress import OperationProgress
from cli.run_options import INSTANCE, add_options
from cli.session import Session, pass_session, project_option
from cli.spec import duration
from moorage.client import Client, paginate
from moorage.ids import new_id
from moorage.v1 import jobs_pb2

_OVERLAPS = {
    "forbid": jobs_pb2.OVERLAP_POLICY_FORBID,
    "allow": jobs_pb2.OVERLAP_POLICY_ALLOW,
    "replace": jobs_pb2.OVERLAP_POLICY_REPLACE,
}

COLUMNS = (
    Column("NAME", lambda cron: short(cron.name)),
    Column("SCHEDULE", lambda cron: cron.spec.schedule),
    Column("ZONE", lambda cron: cron.spec.time_zone or "UTC"),
    Column("NEXT", lambda cron: "suspended" if cron.spec.suspended else clock_time(cron.status.next_time)),
    Column("LAST", lambda cron: clock_time(cron.status.last_time)),
    Column("AT WORK", lambda cron: str(len(cron.status.active))),
    Column("AGE", lambda cron: age(cron.create_time)),
    Column("MESSAGE", lambda cron: cron.status.message),
    Column("OVERLAP", lambda cron: enum_word(jobs_pb2.OverlapPolicy, cron.spec.overlap).lower(), wide=True),
    Column("LABELS", lambda cron: pairs(cron.labels.items()), wide=True),
)

_name = click.argument("name", metavar="CRON_JOB", shell_complete=complete_names("cron_jobs"))


@click.group("cron")
def cron() -> None:
    """Cron jobs: a job at each time of a schedule, exactly one for each.

    A SCHEDULE has five fields (minute, hour, day of the month, month, day of the week), such as '30 2 * * mon-fri', or is
    one of @hourly, @daily, @weekly, @monthly and @yearly. Quote it: the shell knows the star too.
    """


@cron.command("create", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("name", metavar="CRON_JOB")
@click.argument("schedule")
@click.argument("image", metavar="IMAGE_OR_TEMPLATE")
@click.argument("command", nargs=-1, metavar="[COMMAND]...", type=click.UNPROCESSED)
@click.option("--time-zone", default="", metavar="ZONE", help="Such as Europe/Berlin; default UTC.")
@click.option("--overlap", type=click.Choice(list(_OVERLAPS)), help="While a job of it runs: forbid (the default) ...")
@click.option("--catch-up", metavar="TIME", help="How late a missed time still gets its job; default 10m.")
@click.option("--suspended", is_flag=True, help="Make nothing before `moor cron resume`.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@add_options((*JOB, *INSTANCE))
@project_option
@output_option()
@pass_session
def create(session: Session, /, name: str, schedule: str, image: str, output: str, **options: Any) -> None:
    """Make a cron job."""
    wish = wish_of(session.project, image, options)
    spec = jobs_pb2.CronJobSpec(
        schedule=schedule,
        time_zone=options["time_zone"],
        overlap=_OVERLAPS[options["overlap"] or "forbid"],
        suspended=options["suspended"],
        job=job_spec(wish, options),
        job_labels=wish.labels,
    )
    if options["catch_up"]:
        spec.catch_up.CopyFrom(duration("catch-up", options["catch_up"]))

    async def work(client: Client) -> jobs_pb2.CronJob:
        with OperationProgress(f"template of {image}", quiet=not sys.stderr.isatty()) as progress:
            spec.job.instance.template = await ensure_template(client, session.project, image, progress)
        request = jobs_pb2.CreateCronJobRequest(
            parent=session.project,
            cron_job_id=short(name),
            cron_job=jobs_pb2.CronJob(spec=spec, labels=wish.labels),
            request_id=new_id(),
            validate_only=options["validate_only"],
        )
        return await client.cron_jobs.CreateCronJob(request)

    print_one(session.run(work), COLUMNS, output)


@cron.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List cron jobs, with when they are due next."""

    async def work(client: Client) -> list[Any]:
        request = jobs_pb2.ListCronJobsRequest(parent=session.parent(all_projects), filter=filter_text)
        pages = paginate(client.cron_jobs.ListCronJobs, request, lambda page: page.cron_jobs)
        return [found async for found in pages]

    print_list(session.run(work), COLUMNS, output)


@cron.command("get")
@_name
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one cron job."""

    async def work(client: Client) -> jobs_pb2.CronJob:
        full_name = session.name_in_project("cronJobs", name)
        return await client.cron_jobs.GetCronJob(jobs_pb2.GetCronJobRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)


@cron.command("suspend")
@_name
@project_option
@pass_session
def suspend(session: Session, name: str) -> None:
    """Make no jobs until it is resumed; those that run go on."""
    _set_suspended(session, name, True)


@cron.command("resume")
@_name
@project_option
@pass_session
def resume(session: Session, name: str) -> None:
    """Make jobs again, from the next time on."""
    _set_suspended(session, name, False)


@cron.command("run")
@_name
@click.option("-d", "--detach", is_flag=True, help="Leave it to itself, and print its name.")
@project_option
@pass_session
def run(session: Session, name: str, detach: bool) -> None:
    """Make a job of it now, beside its schedule, show what it writes, and exit as it ends."""

    async def work(client: Client) -> int:
        full_name = session.name_in_project("cronJobs", name)
        made = await client.cron_jobs.RunCronJob(jobs_pb2.RunCronJobRequest(name=full_name, request_id=new_id()))
        if detach:
            click.echo(short(made.name))
            return 0
        return await follow_job(client, made.name)

    code = session.run(work)
    if code:
        raise click.exceptions.Exit(code)


@cron.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="CRON_JOB...", shell_complete=complete_names("cron_jobs"))
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Remove cron jobs with their jobs."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("cronJobs", name)
            await client.cron_jobs.DeleteCronJob(jobs_pb2.DeleteCronJobRequest(name=full_name))
            click.echo(f"{short(full_name)} is being removed.")

    session.run(work)


def _set_suspended(session: Session, name: str, value: bool) -> None:
    async def work(client: Client) -> jobs_pb2.CronJob:
        changed = jobs_pb2.CronJob(
            name=session.name_in_project("cronJobs", name), spec=jobs_pb2.CronJobSpec(suspended=value)
        )
        mask = field_mask_pb2.FieldMask(paths=["spec.suspended"])
        return await client.cron_jobs.UpdateCronJob(jobs_pb2.UpdateCronJobRequest(cron_job=changed, update_mask=mask))

    print_one(session.run(work), COLUMNS, "table")

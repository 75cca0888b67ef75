"""The options of a job's own, and what they mean: of `moor job run` and `moor cron create`."""

from collections.abc import Mapping
from typing import Any

import click

from cli.dependencies import DEPENDS_ON, dependencies
from cli.instance.create import Wish
from cli.run_options import Decorator, flag, one
from cli.spec import duration
from moorage.v1 import common_pb2, jobs_pb2

JOB: tuple[Decorator, ...] = (
    click.option(
        "--completions", type=click.IntRange(1, 1000), metavar="N", help="Indexes, each done once; default 1."
    ),
    click.option("--parallelism", type=click.IntRange(1, 1000), metavar="N", help="Indexes at a time; default 1."),
    click.option("--retries", type=click.IntRange(0, 100), metavar="N", help="Retries of an index; default 3."),
    one("--retry-delay", metavar="TIME", text="Before the first retry, doubled with each; default 5s."),
    one("--deadline", metavar="TIME", text="It has failed when it has not ended so long after its start."),
    one("--keep", metavar="TIME", text="How long it and its logs stay after its end; default 1h."),
    DEPENDS_ON,
    flag("--never-twice", text="An index whose host is lost has failed, instead of being tried again."),
)


def job_spec(wish: Wish, options: Mapping[str, Any]) -> jobs_pb2.JobSpec:
    """The spec without its template. Raises InvalidSpec: an option cannot be understood."""
    spec = jobs_pb2.JobSpec(
        instance=wish.spec,
        instance_labels=wish.labels,
        completions=options["completions"] or 0,
        parallelism=options["parallelism"] or 0,
        retries=options["retries"],
        never_twice=options["never_twice"],
        depends_on=dependencies(options["depends_on"]),
    )
    if not spec.instance.restart.mode:
        spec.instance.restart.mode = common_pb2.RESTART_MODE_NEVER
    for option, field in (("retry_delay", "retry_delay"), ("deadline", "active_deadline"), ("keep", "keep_finished")):
        if options[option]:
            getattr(spec, field).CopyFrom(duration(option.replace("_", "-"), options[option]))
    return spec

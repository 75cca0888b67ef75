"""Shows a job until it has ended: the logs of its instances as they run, and what it says of itself."""

import asyncio
import sys
from typing import BinaryIO

import click

from cli.instance.lifecycle import HAS_RUN
from cli.names import short
from moorage.client import Client
from moorage.errors import MoorageError
from moorage.v1 import instance_streams_pb2 as streams_pb2
from moorage.v1 import instances_pb2, jobs_pb2

_LOG_SECONDS = 5.0  # after the job's end, for what its instances wrote last


async def follow_job(client: Client, name: str, *, has_logs: bool = True) -> int:
    """Follow a job to its end. Returns 0, or the exit code of what failed (1: it has none).

    Raises:
        MoorageError: the job was deleted, or the connection broke.
    """
    shown: dict[str, asyncio.Task[None]] = {}
    said = ""
    try:
        async for job in client.follow_job(name):
            if job.status.message and job.status.message != said:
                click.echo(f"{short(name)}: {job.status.message}", err=True)
            said = job.status.message
            for index in job.status.indexes if has_logs else ():
                if index.instance and index.instance not in shown:
                    prefix = f"[{index.index}] ".encode() if job.spec.completions > 1 else b""
                    shown[index.instance] = asyncio.create_task(_show(client, index.instance, prefix))
            if job.status.HasField("finish_time"):
                if shown:
                    await asyncio.wait(shown.values(), timeout=_LOG_SECONDS)
                return exit_code(job)
    finally:
        for task in shown.values():
            task.cancel()
    return 1


def exit_code(job: jobs_pb2.Job) -> int:
    """Of a job that has ended."""
    if job.status.state == jobs_pb2.JOB_STATE_SUCCEEDED:
        return 0
    failed = (index for index in job.status.indexes if index.state == jobs_pb2.JOB_STATE_FAILED)
    return next((index.exit_code for index in failed if index.exit_code), 1)


async def _show(client: Client, instance: str, prefix: bytes) -> None:
    try:
        await client.wait_instance(instance, (*HAS_RUN, instances_pb2.INSTANCE_STATE_FAILED))
        await print_prefixed(client, instance, prefix, is_followed=True)
    except MoorageError as error:
        click.echo(f"{short(instance)}: {error.message}", err=True)


async def print_prefixed(client: Client, instance: str, prefix: bytes, *, is_followed: bool) -> None:
    """What an instance wrote, each line after a prefix, each output to the one of the same name here."""
    is_at_begin = {False: True, True: True}  # of a line, by whether it is the error output
    request = streams_pb2.StreamLogsRequest(name=instance, follow=is_followed)
    async for piece in client.streams.StreamLogs(request):
        is_error = piece.stream == streams_pb2.OUTPUT_STREAM_STDERR
        target: BinaryIO = sys.stderr.buffer if is_error else sys.stdout.buffer
        lines = piece.data.splitlines(keepends=True)
        for line in lines:
            target.write(prefix + line if is_at_begin[is_error] else line)
            is_at_begin[is_error] = line.endswith(b"\n")
        target.flush()

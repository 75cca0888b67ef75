"""Waiting for jobs, and following them."""

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from moorage.client_waits import Limit, Waits, project_of
from moorage.errors import Internal, NotFound

if TYPE_CHECKING:
    from moorage.v1 import jobs_pb2
    from moorage.v1.jobs_pb2_grpc import JobServiceAsyncStub


class JobWaits(Waits):
    """What `moorage.client.Client` has of it."""

    @property
    @abstractmethod
    def jobs(self) -> "JobServiceAsyncStub": ...

    async def follow_job(self, name: str) -> "AsyncGenerator[jobs_pb2.Job, None]":
        """A job now, and each later version of it. Never ends by itself. Raises NotFound once it is gone."""
        from moorage.v1 import jobs_pb2, watch_pb2

        async def read() -> list[jobs_pb2.Job]:
            return [await self.jobs.GetJob(jobs_pb2.GetJobRequest(name=name))]

        async with aclosing(self._follow(project_of(name), "jobs", read, lambda change: change.job)) as changes:
            async for kind, job in changes:
                if job.name != name:
                    continue
                if kind == watch_pb2.CHANGE_TYPE_DELETED:
                    raise NotFound(f"{name} does not exist (any more)", metadata={"name": name})
                yield job

    async def wait_job(self, name: str, timeout_seconds: float | None = None) -> "jobs_pb2.Job":
        """Wait until a job has ended, one way or the other. Raises DeadlineExceeded, NotFound."""
        said = "not seen"
        async with (
            Limit(timeout_seconds, lambda: f"job {name} ({said})"),
            aclosing(self.follow_job(name)) as versions,
        ):
            async for job in versions:
                if job.status.HasField("finish_time"):
                    return job
                said = f"{job.status.succeeded} done, {job.status.active} at work"
        raise Internal("a watch ended without an error")

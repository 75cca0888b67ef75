"""JobService and CronJobService."""

from collections.abc import Iterable
from typing import Any

import grpc

from controlplane.api import job_messages, masks, requests
from controlplane.domain.jobs import CronJob, CronJobSpec, JobSpec
from controlplane.domain.names import parse_child
from controlplane.jobs.cron import next_time
from controlplane.services.cron_jobs import CronJobService
from controlplane.services.jobs import JobService
from moorage.v1 import jobs_pb2, jobs_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_JOB_CHANGEABLE = ("labels", "spec.parallelism", "spec.keep_finished")
_CRON_CHANGEABLE = ("labels", *(f"spec.{field.name}" for field in jobs_pb2.CronJobSpec.DESCRIPTOR.fields))


def _spec_fields(paths: Iterable[str], spec: object) -> dict[str, object]:
    """What an update sets, by the records' names: durations have the unit there."""
    names = [path.removeprefix("spec.") for path in paths if path.startswith("spec.")]
    full = (name if hasattr(spec, name) else f"{name}_seconds" for name in names)
    return {name: getattr(spec, name) for name in full}


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """Work that is done once."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs

    async def CreateJob(self, request: jobs_pb2.CreateJobRequest, context: _Context) -> jobs_pb2.Job:
        record = await self._jobs.create(
            requests.parent_of(request),
            request.job_id,
            dict(request.job.labels),
            requests.read(JobSpec, request.job.spec, "job.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateJob", request),
        )
        return job_messages.job(record)

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: _Context) -> jobs_pb2.Job:
        return job_messages.job(self._jobs.get(*parse_child(request.name, "jobs")))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: _Context) -> jobs_pb2.ListJobsResponse:
        page = self._jobs.list(requests.parent_of(request), requests.page(request), requests.visible())
        return jobs_pb2.ListJobsResponse(
            jobs=[job_messages.job(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateJob(self, request: jobs_pb2.UpdateJobRequest, context: _Context) -> jobs_pb2.Job:
        job = request.job
        paths = masks.paths(request.update_mask, job, _JOB_CHANGEABLE, "a job")
        record = await self._jobs.update(
            *parse_child(job.name, "jobs", "job.name"),
            labels=dict(job.labels) if "labels" in paths else None,
            spec_fields=_spec_fields(paths, requests.read(JobSpec, job.spec, "job.spec")),
            etag=job.etag,
            validate_only=request.validate_only,
        )
        return job_messages.job(record)

    async def DeleteJob(self, request: jobs_pb2.DeleteJobRequest, context: _Context) -> jobs_pb2.DeleteJobResponse:
        await self._jobs.delete(*parse_child(request.name, "jobs"), etag=request.etag)
        return jobs_pb2.DeleteJobResponse()


class CronJobServicer(jobs_pb2_grpc.CronJobServiceServicer):
    """Jobs by the clock."""

    def __init__(self, cron_jobs: CronJobService) -> None:
        self._cron_jobs = cron_jobs

    def _message(self, record: CronJob) -> jobs_pb2.CronJob:
        due = next_time(record, self._cron_jobs.now())
        return job_messages.cron_job(record, due, self._cron_jobs.active(record))

    async def CreateCronJob(self, request: jobs_pb2.CreateCronJobRequest, context: _Context) -> jobs_pb2.CronJob:
        record = await self._cron_jobs.create(
            requests.parent_of(request),
            request.cron_job_id,
            dict(request.cron_job.labels),
            requests.read(CronJobSpec, request.cron_job.spec, "cron_job.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateCronJob", request),
        )
        return self._message(record)

    async def GetCronJob(self, request: jobs_pb2.GetCronJobRequest, context: _Context) -> jobs_pb2.CronJob:
        return self._message(self._cron_jobs.get(*parse_child(request.name, "cronJobs")))

    async def ListCronJobs(
        self, request: jobs_pb2.ListCronJobsRequest, context: _Context
    ) -> jobs_pb2.ListCronJobsResponse:
        page = self._cron_jobs.list(requests.parent_of(request), requests.page(request), requests.visible())
        return jobs_pb2.ListCronJobsResponse(
            cron_jobs=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateCronJob(self, request: jobs_pb2.UpdateCronJobRequest, context: _Context) -> jobs_pb2.CronJob:
        cron = request.cron_job
        paths = masks.paths(request.update_mask, cron, _CRON_CHANGEABLE, "a cron job")
        record = await self._cron_jobs.update(
            *parse_child(cron.name, "cronJobs", "cron_job.name"),
            labels=dict(cron.labels) if "labels" in paths else None,
            spec_fields=_spec_fields(paths, requests.read(CronJobSpec, cron.spec, "cron_job.spec")),
            etag=cron.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteCronJob(
        self, request: jobs_pb2.DeleteCronJobRequest, context: _Context
    ) -> jobs_pb2.DeleteCronJobResponse:
        await self._cron_jobs.delete(*parse_child(request.name, "cronJobs"), etag=request.etag)
        return jobs_pb2.DeleteCronJobResponse()

    async def RunCronJob(self, request: jobs_pb2.RunCronJobRequest, context: _Context) -> jobs_pb2.Job:
        names = parse_child(request.name, "cronJobs")
        return job_messages.job(await self._cron_jobs.run(*names, **requests.retry("RunCronJob", request)))

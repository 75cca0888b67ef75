"""Records of jobs and cron jobs to messages, with what is counted when they are read."""

from collections.abc import Sequence
from datetime import datetime

from controlplane.domain.jobs import CronJob, Job, JobState
from controlplane.services.lookup import etag_of
from moorage import protoconv
from moorage.v1 import jobs_pb2


def job(record: Job) -> jobs_pb2.Job:
    """A job."""
    message = jobs_pb2.Job(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    status = message.status
    protoconv.fill(record, status)
    status.indexes.extend(protoconv.to_proto(index, jobs_pb2.JobIndexStatus) for index in record.begun)
    status.active = sum(index.state is JobState.RUNNING for index in record.begun) if not record.finish_time else 0
    status.succeeded = sum(index.state is JobState.SUCCEEDED for index in record.begun)
    status.failed = sum(index.failures for index in record.begun)
    return message


def cron_job(record: CronJob, next_time: datetime | None, active: Sequence[str]) -> jobs_pb2.CronJob:
    """A cron job, with what is computed when it is read."""
    message = jobs_pb2.CronJob(name=record.name, uid=record.uid, etag=etag_of(record), labels=record.labels)
    message.create_time.FromDatetime(record.create_time)
    protoconv.fill(record.spec, message.spec)
    protoconv.fill(record, message.status)
    if next_time is not None:
        message.status.next_time.FromDatetime(next_time)
    message.status.active.extend(active)
    return message

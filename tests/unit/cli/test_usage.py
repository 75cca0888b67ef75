"""Sums of usage records, as `moor usage --by` prints them."""

from cli.usage import summed
from moorage.v1 import usage_pb2


def record(uid: str, day: int, seconds: float) -> usage_pb2.UsageRecord:
    made = usage_pb2.UsageRecord(project="projects/p", name=f"projects/p/instances/{uid}", uid=uid)
    made.day.seconds = day * 86400
    made.instance_seconds = seconds
    return made


def test_sums() -> None:
    records = [record("a", 1, 1), record("b", 1, 2), record("a", 2, 4)]
    assert [one.instance_seconds for one in summed(records, "project")] == [7]
    assert [(one.day.seconds // 86400, one.instance_seconds) for one in summed(records, "day")] == [(1, 3), (2, 4)]
    assert [(one.name, one.instance_seconds) for one in summed(records, "object")] == [
        ("projects/p/instances/a", 5),
        ("projects/p/instances/b", 2),
    ]

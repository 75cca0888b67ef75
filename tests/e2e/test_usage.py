"""What an instance has used is told, while it runs and after it is gone."""

import csv
import io

import pytest

from cli.dev.fleet import Fleet
from moorage.v1 import common_pb2
from tests.e2e.conftest import moor
from tests.support.plane import Plane, until

MIB = 1024 * 1024


async def test_an_instance_is_counted(plane: Plane, fleet: Fleet) -> None:
    resources = common_pb2.Resources(cpu_millis=100, memory_bytes=64 * MIB)
    made = (await plane.run({"counted": plane.spec(resources=resources)}))["counted"]

    def told() -> dict[str, str] | None:
        rows = csv.DictReader(io.StringIO(moor(fleet, "usage", "--csv")))
        return next((row for row in rows if row["uid"] == made.uid), None)

    async def counts() -> dict[str, str] | None:
        row = told()
        return row if row is not None and float(row["instance_seconds"]) > 1 else None

    while_it_runs = await until(counts, what="its first second")
    assert while_it_runs is not None
    assert while_it_runs["name"] == made.name
    await plane.delete(["counted"], force=True)
    after = told()
    assert after is not None
    seconds = float(after["instance_seconds"])
    assert seconds > float(while_it_runs["instance_seconds"])
    assert float(after["cpu_milli_seconds"]) / seconds == pytest.approx(100)
    assert round(float(after["memory_byte_seconds"]) / seconds) == 64 * MIB
    assert float(after["address_seconds"]) > seconds
    assert told() == after

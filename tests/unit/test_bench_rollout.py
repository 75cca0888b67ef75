"""What the benchmark of rollouts makes of wrk's words, and what it says of them."""

import pytest

from benchmarks.rollout import Taken, result, table
from benchmarks.rollout_work import drained_hosts
from benchmarks.wrk import read
from moorage.errors import Internal

_GOOD = """Running 60m test @ http://172.31.248.2:8080/
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.11ms    3.32ms  60.11ms   97.42%
    Req/Sec   419.71     60.12   480.00     88.10%
  12345 requests in 29.60s, 2.61MB read
Requests/sec:    417.06
Transfer/sec:     90.43KB
"""
_BAD = _GOOD.replace("Requests/sec", "  Socket errors: connect 1, read 20, write 3, timeout 4\nRequests/sec").replace(
    "Transfer/sec", "  Non-2xx or 3xx responses: 45\nTransfer/sec"
)


def test_what_wrk_says() -> None:
    good, bad = read(_GOOD), read(_BAD)
    assert (good.answered, good.refused, good.broken, good.failed) == (12345, 0, 0, 0)
    assert (bad.answered, bad.refused, bad.broken, bad.failed) == (12300, 45, 28, 73)


def test_a_wrk_that_did_not_run_is_an_error() -> None:
    with pytest.raises(Internal, match="unable to connect"):
        read("unable to connect to 172.31.248.2:8080 Connection refused\n")


def test_the_last_line_has_both_sides_and_the_target() -> None:
    def taken(refused: int, broken: int) -> Taken:
        return Taken(answered=100, refused=refused, broken=broken, seconds=2.04)

    measured = {
        "moorage": {"updates": taken(0, 0), "drains": taken(0, 1)},
        "swarm": {"updates": taken(2, 3), "drains": taken(0, 4)},
    }
    found = result(measured, {"updates": 20})
    assert (found["failed_requests"], found["swarm_failed_requests"]) == (1, 9)
    assert found["targets"] == {"failed_requests": {"at_most": 0, "is_met": False}}
    assert found["cases"]["swarm"]["updates"] == {  # type: ignore[index]
        "answered": 100,
        "refused": 2,
        "broken": 3,
        "failed": 5,
        "seconds": 2.0,
    }
    assert len(table(measured).splitlines()) == 5


def test_the_balancers_host_is_not_drained() -> None:
    assert list(drained_hosts(3)) == ["h2", "h3", "h2"]

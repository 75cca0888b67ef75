"""The benchmark in its smallest form: every case is measured, and finds what it is about."""

import json

import pytest

from benchmarks.schedule import CASES, main


def test_every_case_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--hosts", "40", "--group", "4", "--placed", "200"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert {f"{name}_ms" for name in CASES} <= json.loads(last).keys()
    places = {line.partition(":")[0]: line.partition(" ms, ")[2] for line in lines}
    assert places == {name: f"{0 if name == 'refused' else 4} of 4 have a place" for name in CASES}

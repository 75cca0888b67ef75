"""Sources of bind mounts are what they say."""

from pathlib import Path

import pytest

from hostagent.domain import Mount
from hostagent.executor.bind_mounts import check_sources
from moorage.errors import InvalidSpec


def test_real_paths_pass_and_tmpfs_is_not_looked_at(tmp_path: Path) -> None:
    check_sources([Mount("/data", source=str(tmp_path.resolve())), Mount("/tmp", kind="tmpfs")])


def test_links_on_the_way_and_missing_paths_are_refused_together(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    (folder / "real").mkdir()
    (folder / "link").symlink_to("/etc")
    mounts = [
        Mount("/a", source=str(folder / "link")),
        Mount("/b", source=str(folder / "link" / "ssl")),
        Mount("/c", source=str(folder / "nowhere")),
        Mount("/d", source=str(folder / "real")),
    ]
    with pytest.raises(InvalidSpec) as refused:
        check_sources(mounts)
    assert [violation.reason for violation in refused.value.violations] == [
        "BIND_SOURCE_SYMLINK",
        "BIND_SOURCE_SYMLINK",
        "BIND_SOURCE_MISSING",
    ]

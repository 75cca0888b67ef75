"""A file system without room: a tiny tmpfs in a mount namespace of its own, so that nothing is left on the host.

Needs root. The namespace ends with the process, however it ends.
"""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from moorage.errors import StoreUnavailable
from moorage.store import SqliteStore
from tests.contract.store.records import BOXES, KINDS, Box, put

SIZE_BYTES = 2 * 1024 * 1024
LETTERS = "x" * 50_000


async def fill_and_recover(folder: Path) -> dict[str, object]:
    """Fill the disk twice over: by the store itself, and by somebody else's file."""
    path = folder / "s.db"
    store = await SqliteStore.open(path, KINDS)
    reasons: list[str] = []
    written = 0
    while not reasons:
        try:
            await put(store, Box(f"box{written:03}", tags=(LETTERS,)))
            written += 1
        except StoreUnavailable as exc:
            reasons.append(exc.reason)
    assert store.view().count(BOXES) == written
    await store.close()
    try:
        await (await SqliteStore.open(path, KINDS)).close()  # raises the epoch: there may or may not be room for that
    except StoreUnavailable as exc:
        assert exc.reason == "STORE_FULL", exc.message
    mount(folder, 4 * SIZE_BYTES, "remount,")

    store = await SqliteStore.open(path, KINDS)
    assert store.view().count(BOXES) == store.view().revision == written
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    try:
        for number in range(100):
            await put(store, Box(f"more{number}", tags=(LETTERS,)))
    except StoreUnavailable as exc:
        reasons.append(exc.reason)
    kept = store.view().count(BOXES)
    ballast.unlink()
    await put(store, Box("after"))
    assert store.view().count(BOXES) == kept + 1
    await store.close()
    store = await SqliteStore.open(path, KINDS)
    assert store.view().count(BOXES) == store.view().revision == kept + 1
    await store.close()
    return {"written": written, "reasons": reasons}


def mount(folder: Path, size_bytes: int, options: str = "") -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options}size={size_bytes}", "moorage", str(folder)], check=True)


@pytest.mark.root
def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        if "netns" in os.environ.get("MOORAGE_REQUIRE", ""):
            pytest.fail("needs root")
        pytest.skip("needs root, to mount a small file system")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", __name__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["written"] > 5
    assert told["reasons"] == ["STORE_FULL", "STORE_FULL"]
    assert not list(tmp_path.iterdir())  # the mount was seen only inside


if __name__ == "__main__":
    target = Path(sys.argv[1])
    mount(target, SIZE_BYTES)
    print(json.dumps(asyncio.run(fill_and_recover(target))))

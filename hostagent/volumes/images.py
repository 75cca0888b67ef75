"""Volumes of a limited size: a file with an ext4 of its own, mounted by a loop device. Every call blocks.

Holes of the file take no room, so a volume takes what is in it, and never more than its size: a write beyond it gets ENOSPC inside the
instance, and the host's disk is not filled.
"""

import os
import shutil
import subprocess
from pathlib import Path

from moorage.errors import NotReady, NotSupported

SMALLEST_BYTES = 16 * 1024 * 1024
_SECONDS = 120.0
_TOOLS = ("mkfs.ext4", "mount", "umount")


def problem() -> str:
    """Why this host cannot limit the size of a volume; empty: it can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"it lacks {', '.join(missing)}"
    return "" if Path("/dev/loop-control").exists() else "its kernel has no loop devices"


def make(image: Path, size_bytes: int) -> None:
    """Make an image. What an agent that was killed left of one is written over.

    Raises:
        NotSupported: VOLUME_SIZE_NOT_SUPPORTED.
        NotReady: VOLUME_IMAGE_FAILED.
    """
    if text := problem():
        raise NotSupported(f"this host cannot limit the size of a volume: {text}", reason="VOLUME_SIZE_NOT_SUPPORTED")
    fresh = image.with_name(f"{image.name}.new")
    with fresh.open("wb") as file:
        file.truncate(size_bytes)
    # Nothing is kept for root: a container's root is no reason to leave room.
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", str(fresh))
    fresh.rename(image)


def mount(image: Path, folder: Path) -> None:
    """Have an image mounted. Raises NotReady (VOLUME_IMAGE_FAILED)."""
    if os.path.ismount(folder):
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    _run("mount", "-t", "ext4", "-o", "loop,nodev", str(image), str(folder))


def unmount(folder: Path) -> None:
    """Have it unmounted; a process that still has a file of it open keeps it. Raises NotReady (VOLUME_IMAGE_FAILED)."""
    if os.path.ismount(folder):
        _run("umount", str(folder))


def usage(folder: Path) -> tuple[int, int]:
    """(bytes that are taken, bytes that there are) of a mounted image."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_blocks * found.f_frsize


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotReady(f"{words[0]} did not work: {exc}", reason="VOLUME_IMAGE_FAILED") from exc
    if done.returncode != 0:
        raise NotReady(f"{words[0]} failed: {done.stderr.strip()[:300]}", reason="VOLUME_IMAGE_FAILED")

"""The files that the router's image is built of, and what identifies them."""

import hashlib
from importlib.resources import files
from pathlib import Path

#: What the Dockerfile needs beside it.
FILES = ("Dockerfile", "packages.txt", "entrypoint", "router-role")


def context_folder() -> Path:
    """The folder with the Dockerfile; it is data of the installed package."""
    return Path(str(files("hostagent") / "router_image"))


def packages(folder: Path) -> tuple[str, ...]:
    """The distribution's packages that an image of a router needs."""
    return tuple((folder / "packages.txt").read_text().split())


def fingerprint(folder: Path, base: str) -> str:
    """The same for the same files on the same base; another one as soon as anything differs. Fit for a label's value."""
    hasher = hashlib.sha256(base.encode())
    for name in FILES:
        data = (folder / name).read_bytes()
        hasher.update(f"\0{name}\0{len(data)}\0".encode() + data)
    return hasher.hexdigest()[:16]

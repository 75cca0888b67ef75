"""A base for the router's image made of this machine's own package sources, for fleets that reach no image registry.

mmdebstrap makes a root file system of the distribution that this machine runs, with the router's programs in it. Made once for a
list of packages and a set of sources, then kept in a cache outside any checkout.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from moorage.errors import NotSupported, Unavailable

_DISTRIBUTIONS = ("Debian", "Ubuntu")
# What no program of a router reads: not unpacked at all, or, where installing needs it, removed afterwards. keepalived is linked with
# Perl's library by way of SNMP, and never starts it.
_LEFT_OUT = tuple(f"/usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "zoneinfo"))
_REMOVED = 'rm -rf "$1"/usr/share/perl "$1"/usr/share/perl5 "$1"/usr/lib/*/perl "$1"/usr/lib/*/gconv'
_TARGET_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SIGNED_BY)"
_MAKE_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Sources:
    """Where packages come from: a release's code name, and lines as in sources.list."""

    suite: str
    lines: tuple[str, ...]


def parse_sources(targets: str) -> Sources:
    """Take the distribution's own sources out of what `apt-get indextargets` lists; other people's are left out.

    Raises:
        NotSupported: there is none.
    """
    lines: dict[str, None] = {}
    suite = ""
    for row in targets.splitlines():
        uri, release, component, origin, signed_by = (row.split("|") + [""] * 5)[:5]
        if origin not in _DISTRIBUTIONS or not component:
            continue
        if not suite or len(release) < len(suite):  # bookworm before bookworm-updates
            suite = release
        option = f" [signed-by={signed_by}]" if signed_by.startswith("/") else ""
        lines[f"deb{option} {uri} {release} {component}"] = None
    if not lines:
        raise NotSupported(
            "this machine's apt has no package list of Debian or Ubuntu; run `apt-get update`, or name an image that has "
            "the router's programs: moor router-image register --base IMAGE"
        )
    return Sources(suite, tuple(lines))


def command(target: Path, packages: tuple[str, ...], sources: Sources) -> list[str]:
    """The command that makes the base as a tar in `target`."""
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        f"--customize-hook={_REMOVED}",
        sources.suite,
        str(target),
        *sources.lines,
    ]


def cache_folder() -> Path:
    """/var/cache/moorage for root, else in the user's own cache."""
    if os.geteuid() == 0:
        return Path("/var/cache/moorage")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moorage"


def ensure(packages: tuple[str, ...], cache: Path) -> Path:
    """The base as a tar: from the cache, else made, which takes half a minute.

    Raises:
        NotSupported: this machine lacks mmdebstrap or apt. Unavailable: packages could not be had.
    """
    for program in ("mmdebstrap", "apt-get"):
        if shutil.which(program) is None:
            raise NotSupported(
                f"there is no {program} here to make a base with; install it, or name an image that has the router's "
                "programs: moor router-image register --base IMAGE"
            )
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", _TARGET_FORMAT, "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    sources = parse_sources(listed)
    key = hashlib.sha256(repr((packages, sources, _LEFT_OUT, _REMOVED)).encode()).hexdigest()[:16]
    path = cache / f"router-base-{key}.tar"
    if path.exists():
        return path
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as folder:
        made = Path(folder) / "base.tar"
        try:
            done = subprocess.run(
                command(made, packages, sources),
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=_MAKE_SECONDS,
            )
        except subprocess.TimeoutExpired as late:
            raise Unavailable(f"mmdebstrap was not done after {_MAKE_SECONDS} s") from late
        if done.returncode != 0:
            raise Unavailable(f"mmdebstrap could not make the base: {done.stderr.strip()[-2000:]}")
        made.chmod(0o644)
        made.replace(path)
    return path

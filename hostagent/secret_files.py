"""Secrets and configs of instances: where their bytes lie on this host, always in memory.

`run_dir/secrets` is a tmpfs of our own that only root can enter; nothing of it reaches a disk, and a reboot empties it. Below it,
for each instance:

    run-secrets/, run-configs/   mounted as a whole at /run/secrets and /run/configs, so that a file that is replaced is seen at once
    single/<digest of path>      mounted at any other path, as one file: what replaces it is seen from the next start on
    env.sed                      puts variables into the configuration that the runtime is given (hostagent/runtime/wrapper.py)
    bundle/                      the wrapper's copy of that configuration
    placed.json                  what is placed, without any bytes, written last

What is to be where is decided by `layout` and `env_script`, both pure.
"""

import ctypes
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from hostagent.domain import Mount, PayloadAssignment
from moorage.ids import InstanceId

log = logging.getLogger(__name__)

Payloads = Mapping[tuple[str, int], bytes]  # by id and version

_FOLDERS = {"/run/secrets": "run-secrets", "/run/configs": "run-configs"}
_SINGLE, _ENV, _PLACED = "single", "env.sed", "placed.json"
_MNT_DETACH = 2
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8  # mount.h


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file in an instance's folder. `where` is below it."""

    where: str
    payload: PayloadAssignment


def layout(payloads: Sequence[PayloadAssignment]) -> tuple[PlacedFile, ...]:
    """Where each file lies; variables have none."""
    return tuple(PlacedFile(_where(payload.path), payload) for payload in payloads if payload.path)


def mounts(payloads: Sequence[PayloadAssignment], folder: Path) -> tuple[Mount, ...]:
    """How the files come into the container.

    Args:
        folder: of the instance.
    """
    found: dict[str, Mount] = {}
    for file in layout(payloads):
        top = file.where.partition("/")[0]
        is_single = top == _SINGLE
        source = folder / (file.where if is_single else top)
        target = file.payload.path if is_single else next(path for path, name in _FOLDERS.items() if name == top)
        found[target] = Mount(target=target, source=str(source), read_only=True)
    return tuple(found[target] for target in sorted(found))


def env_script(payloads: Sequence[PayloadAssignment], contents: Payloads) -> str:
    """The sed script that sets the variables in the process's environment of a bundle's config.json; empty: there are none.

    The first "env" of the file is the process's, since it comes first in the specification's order; the character 1, which JSON does not
    have, marks it. A variable that the image sets is replaced, another one put in front. It ends with 1 when there is no such place.
    """
    variables = [payload for payload in payloads if payload.env]
    if not variables:
        return ""
    space = "[[:space:]]*"
    item = r'"([^"\\]|\\.)*"'
    lines = [rf's#"env"{space}:{space}\[#"env":[\x01#', "tfound", "q1", ":found"]
    for number, payload in enumerate(variables):
        value = contents[(payload.payload_id, payload.version)].decode()
        entry = _in_replacement(json.dumps(f"{payload.env}={value}"))
        lines += [
            rf's#(\[\x01({space}{item}{space},)*{space})"{payload.env}=([^"\\]|\\.)*"#\1{entry}#',
            f"tset{number}",
            rf"s#\[\x01({space}\])#[\x01{entry}\1#",
            f"tset{number}",
            rf"s#\[\x01#[\x01{entry},#",
            f"tset{number}",
            "q1",
            f":set{number}",
        ]
    return "\n".join([*lines, r"s#\[\x01#[#", ""])


def _in_replacement(text: str) -> str:
    return text.replace("\\", "\\\\").replace("&", "\\&").replace("#", "\\#")


def _where(path: str) -> str:
    for target, name in _FOLDERS.items():
        if path.startswith(f"{target}/"):
            return f"{name}/{path.removeprefix(target).lstrip('/')}"
    return f"{_SINGLE}/{hashlib.sha256(path.encode()).hexdigest()[:32]}"


class SecretFiles:
    """The folder run_dir/secrets. `prepare` once before all else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Mount the file system in memory, unless it is there. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.path.ismount(self._folder):
            return
        try:
            _mount_tmpfs(self._folder, "mode=0700,size=25%,noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount_tmpfs(self._folder, "mode=0700,size=25%")
            log.warning("this kernel cannot keep secrets out of its swap space: have none, or encrypt it")

    def release(self) -> None:
        """Undo of `prepare`, with all that is there. Raises OSError."""
        if os.path.ismount(self._folder):
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.umount2(os.fsencode(self._folder), _MNT_DETACH) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"unmount {self._folder}: {os.strerror(code)}")

    def folder_of(self, instance_id: InstanceId) -> Path:
        """An instance's folder."""
        return self._folder / instance_id

    def found(self) -> dict[InstanceId, tuple[PayloadAssignment, ...]]:
        """Instances that have a folder, and what is placed there for certain."""
        if not self._folder.is_dir():
            return {}
        return {InstanceId(entry.name): _read_placed(entry) for entry in self._folder.iterdir() if entry.is_dir()}

    def place(self, instance_id: InstanceId, payloads: Sequence[PayloadAssignment], contents: Payloads) -> None:
        """Have exactly these files, each replaced as a whole; `finish` says that it is done. Raises OSError."""
        folder = self._folder / instance_id
        (folder / _PLACED).unlink(missing_ok=True)
        if not payloads:
            self.remove(instance_id)
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted = layout(payloads)
        for file in wanted:
            path = folder / file.where
            _make_folders(folder, PurePosixPath(file.where).parent)
            payload = file.payload
            _write(path, contents[(payload.payload_id, payload.version)], payload.mode, payload.uid, payload.gid)
        keep = {str(folder / file.where) for file in wanted}
        for top in (*_FOLDERS.values(), _SINGLE):
            for path in sorted((folder / top).rglob("*"), reverse=True):
                if not path.is_dir() and str(path) not in keep:
                    path.unlink()
        script = env_script(payloads, contents)
        if script:
            _write(folder / _ENV, script.encode(), 0o600, 0, 0)
        else:
            (folder / _ENV).unlink(missing_ok=True)

    def finish(self, instance_id: InstanceId, payloads: Sequence[PayloadAssignment]) -> None:
        """Record what is placed. Raises OSError."""
        if payloads:
            text = json.dumps([asdict(payload) for payload in payloads])
            _write(self._folder / instance_id / _PLACED, text.encode(), 0o600, 0, 0)

    def remove(self, instance_id: InstanceId) -> None:
        """Remove all of an instance; fine if there is nothing. Raises OSError."""
        folder = self._folder / instance_id
        if folder.is_dir():
            shutil.rmtree(folder)


def _read_placed(folder: Path) -> tuple[PayloadAssignment, ...]:
    try:
        return tuple(PayloadAssignment(**item) for item in json.loads((folder / _PLACED).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return ()  # cut off, or of another version of the agent: it is placed again


def _make_folders(base: Path, inside: PurePosixPath) -> None:
    """Folders that any user of the container can pass through; the one above them only root can."""
    for part in reversed([inside, *inside.parents]):
        if str(part) != ".":
            (base / part).mkdir(mode=0o755, exist_ok=True)


def _write(path: Path, data: bytes, mode: int, uid: int, gid: int) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if (uid, gid) != (os.geteuid(), os.getegid()):
            os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mode)
    os.replace(temporary, path)


def _mount_tmpfs(folder: Path, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_NOSUID | _NODEV | _NOEXEC)
    if libc.mount(b"moorage-secrets", os.fsencode(folder), b"tmpfs", flags, options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {folder}: {os.strerror(code)}")

"""The folder data_dir/volumes with one folder for each volume and incarnation. Every call blocks: call it in a thread.

    volumes/{id}-{incarnation}/data    what instances see
    volumes/{id}-{incarnation}/snapshots/{id}
    volumes/{id}-{incarnation}/image   of limited size: a file system, mounted on mounted, where data is then
    volumes/.removed-*                 what is being removed, so that half a volume is never taken for a whole one

Only root passes through the outer folders: files with the set-user-id bit that an instance leaves are of no use to the host's users.
"""

import os
import shutil
from pathlib import Path

from hostagent.domain import HostVolume
from hostagent.volumes import images
from moorage.errors import InvalidSpec, NotFound, NotReady
from moorage.ids import new_id

_REMOVED = ".removed-"
_IMAGE = "image"
_MOUNTED = "mounted"
_INCOMING = "data.incoming"
_SNAPSHOTS = "snapshots"
_UNFINISHED = ".new"
_WHOLE = "data.incoming.whole"  # a file beside it: it came in whole


class VolumeStore:
    """Makes, finds, measures and removes volumes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self, volume: HostVolume) -> Path:
        """Have a volume's files here. Returns what instances see.

        Raises:
            NotReady: VOLUME_MISSING, it was made before and is not here.
        """
        self._mount(volume)
        data = self._place(volume) / "data"
        if not data.is_dir() and not self._mend(volume):
            if volume.must_exist:
                raise NotReady(
                    f"volume {volume.volume_id} was made on this host and is not at {data} any more; put it back, or delete the volume",
                    reason="VOLUME_MISSING",
                )
            self._make(volume, data)
        return data

    def _mount(self, volume: HostVolume) -> None:
        """Have the file system of a volume of limited size here, and made if it may be."""
        if not volume.size_bytes:
            return
        image = self._folder(volume) / _IMAGE
        if not image.exists():
            if volume.must_exist:
                raise NotReady(
                    f"volume {volume.volume_id} was made on this host and {image} is not there any more; put it back, or delete the volume",
                    reason="VOLUME_MISSING",
                )
            self._root.mkdir(mode=0o700, exist_ok=True)
            image.parent.mkdir(mode=0o700, exist_ok=True)
            images.make(image, volume.size_bytes)
        images.mount(image, self._place(volume))

    def _mend(self, volume: HostVolume) -> bool:
        """Finish the exchange of a volume's files that was cut off between its two renames; whether there was one."""
        incoming = self._place(volume) / _INCOMING
        whole = self._place(volume) / _WHOLE
        if not whole.exists() or not incoming.is_dir():
            return False
        incoming.rename(incoming.with_name("data"))
        whole.unlink()
        return True

    def _make(self, volume: HostVolume, data: Path) -> None:
        self._root.mkdir(mode=0o700, exist_ok=True)
        self._folder(volume).mkdir(mode=0o700, exist_ok=True)
        fresh = data.with_name("data.new")
        if fresh.exists():
            shutil.rmtree(fresh)  # of an agent that was killed here: nobody has seen it
        fresh.mkdir()
        os.chown(fresh, volume.owner_uid, volume.owner_gid)
        fresh.chmod(volume.mode or 0o755)
        fresh.rename(data)

    def begin_refill(self, volume: HostVolume) -> Path:
        """An empty folder that is to take the place of a volume's files, with the owner and permissions of their top folder."""
        data = self.prepare(volume)
        incoming = data.with_name(_INCOMING)
        data.with_name(_WHOLE).unlink(missing_ok=True)
        if incoming.exists():
            shutil.rmtree(incoming)
        top = data.stat()
        incoming.mkdir()
        os.chown(incoming, top.st_uid, top.st_gid)
        incoming.chmod(top.st_mode & 0o7777)
        return incoming

    def finish_refill(self, volume: HostVolume) -> None:
        """Put that folder in the place of the files, which are removed."""
        data = self._place(volume) / "data"
        incoming, old = data.with_name(_INCOMING), data.with_name(f"{_REMOVED}{new_id()}")
        whole = data.with_name(_WHOLE)
        whole.touch()
        data.rename(old)
        incoming.rename(data)
        whole.unlink()
        _clear(data.parent)

    def abandon_refill(self, volume: HostVolume) -> None:
        """Remove that folder, if it is there."""
        incoming = self._place(volume) / _INCOMING
        if incoming.exists():
            shutil.rmtree(incoming)

    def snapshot_folder(self, volume: HostVolume, snapshot_id: str) -> Path:
        """What a snapshot has. Raises NotFound (SNAPSHOT_MISSING)."""
        found = self._folder(volume) / _SNAPSHOTS / snapshot_id
        if not found.is_dir():
            raise NotFound(f"snapshot {snapshot_id} is not on this host", reason="SNAPSHOT_MISSING")
        return found

    def has_snapshot(self, volume: HostVolume, snapshot_id: str) -> bool:
        """Whether it was made already."""
        return (self._folder(volume) / _SNAPSHOTS / snapshot_id).is_dir()

    def begin_snapshot(self, volume: HostVolume, snapshot_id: str) -> Path:
        """An empty folder that becomes the snapshot, with the owner and permissions of the volume's top folder."""
        top = self.prepare(volume).stat()
        fresh = self._folder(volume) / _SNAPSHOTS / f"{snapshot_id}{_UNFINISHED}"
        fresh.parent.mkdir(mode=0o700, exist_ok=True)
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir()
        os.chown(fresh, top.st_uid, top.st_gid)
        fresh.chmod(top.st_mode & 0o7777)
        return fresh

    def finish_snapshot(self, volume: HostVolume, snapshot_id: str) -> None:
        """That folder is whole."""
        folder = self._folder(volume) / _SNAPSHOTS
        (folder / f"{snapshot_id}{_UNFINISHED}").rename(folder / snapshot_id)

    def remove_snapshot(self, volume: HostVolume, snapshot_id: str) -> None:
        """Remove a snapshot, or what there is of it; nothing happens when there is nothing."""
        folder = self._folder(volume) / _SNAPSHOTS
        for left in (folder / snapshot_id, folder / f"{snapshot_id}{_UNFINISHED}"):
            if left.is_dir():
                left.rename(self._root / f"{_REMOVED}{new_id()}")
        self.clear_removed()

    def resolve(self, volume: HostVolume, sub_path: str) -> Path:
        """What an instance sees of a volume that is here; a folder that it names is made, owned as the volume's top folder.

        Raises:
            InvalidSpec: VOLUME_PATH_INVALID, the path leads through a symbolic link or a file: it could lead out of the volume.
        """
        data = self._place(volume) / "data"
        top = data.stat()
        found = data
        for part in filter(None, sub_path.split("/")):
            found = found / part
            try:
                found.mkdir()
            except FileExistsError:
                if found.is_symlink() or not found.is_dir():
                    raise InvalidSpec.of(
                        "sub_path", f"{sub_path} passes through something that is no folder", "VOLUME_PATH_INVALID"
                    ) from None
            else:
                os.chown(found, top.st_uid, top.st_gid)
                found.chmod(top.st_mode & 0o7777)
        return found

    def usage(self, volume: HostVolume) -> tuple[int, int] | None:
        """(bytes that its files take of the disk, each file counted once; bytes that it has room for, 0 for no limit), or None when they
        are not here.
        """
        place = self._place(volume)
        if not (place / "data").is_dir():
            return None
        if volume.size_bytes:
            return images.usage(place)
        seen: set[tuple[int, int]] = set()
        return _taken(place / "data", seen), 0

    def remove(self, volume: HostVolume) -> None:
        """Remove a volume's files; nothing happens when there are none. Raises NotReady (VOLUME_IMAGE_FAILED): it is still mounted."""
        folder = self._folder(volume)
        if folder.is_dir():
            images.unmount(folder / _MOUNTED)
            folder.rename(self._root / f"{_REMOVED}{new_id()}")
        self.clear_removed()

    def clear_removed(self) -> None:
        """Finish removals that were cut off."""
        _clear(self._root)

    def _place(self, volume: HostVolume) -> Path:
        """The folder in which the volume's files are."""
        return self._folder(volume) / _MOUNTED if volume.size_bytes else self._folder(volume)

    def _folder(self, volume: HostVolume) -> Path:
        return self._root / f"{volume.volume_id}-{volume.incarnation}"


def _clear(folder: Path) -> None:
    for left in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(left)


def _taken(folder: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    pending = [os.fspath(folder)]
    while pending:
        current = pending.pop()
        try:
            entries = list(os.scandir(current))
        except FileNotFoundError:
            continue  # an instance removed it meanwhile
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return total

"""A folder that somebody else may fill with anything."""

import os
import socket
from pathlib import Path

import pytest

from hostagent.router.folder import Folder, NotOurs


def test_a_file_is_written_read_and_removed(tmp_path: Path) -> None:
    with Folder.at(tmp_path) as folder:
        assert folder.read("a") is None
        folder.write("a", "one")
        folder.write("a", "two")
        assert folder.read("a") == "two"
        assert folder.read("a", limit=2) == "tw"
        assert folder.names() == {"a"}
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
        folder.remove("a")
        folder.remove("a")
        assert folder.names() == set()


def test_links_are_not_followed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("secret")
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("a", ".b.new"):
        (shared / name).symlink_to(theirs)
    (shared / "sub").symlink_to(tmp_path)
    with Folder.at(shared) as folder:
        with pytest.raises(OSError, match="symbolic links"):
            folder.read("a")
        with pytest.raises(OSError, match="Not a directory"):
            folder.sub("sub")
        folder.write("a", "ours")
        folder.write("b", "ours")
    assert theirs.read_text() == "secret"
    assert (shared / "a").read_text() == (shared / "b").read_text() == "ours"


def test_a_pipe_in_place_of_a_file_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with Folder.at(tmp_path) as folder, pytest.raises(NotOurs):
        folder.read("a")


async def test_only_a_socket_is_connected_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    (tmp_path / "link").symlink_to(tmp_path / "socket")
    with Folder.at(tmp_path) as folder:
        _, writer = await folder.connect("socket")
        writer.close()
        with pytest.raises(NotOurs):
            await folder.connect("file")
        with pytest.raises(NotOurs):
            await folder.connect("link")
        with pytest.raises(FileNotFoundError):
            await folder.connect("none")
    listener.close()

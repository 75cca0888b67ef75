"""A root file system for machines without a registry: a static busybox, its applets, and a page for its web server.

The tar is the same, byte for byte, for the same busybox and page: registered twice, it is one digest.
"""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from moorage.errors import NotSupported

_FOLDERS = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var", "www")
_PAGE = b"<!doctype html>\n<title>Moorage</title>\n<h1>It runs</h1>\n"


def demo_rootfs(path: Path, *, page: bytes = _PAGE) -> Path:
    """Write the root file system as a tar to `path`, about 2 MB, and return the path.

    Args:
        page: /www/index.html, for `httpd -f -h /www`.

    Raises:
        NotSupported: there is no static busybox.
    """
    binary = _static_busybox()
    applets = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split()
    files = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        "www/index.html": page,
    }
    new = path.with_name(f"{path.name}.new")
    with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        _add(tar, "bin/busybox", Path(binary).read_bytes(), 0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(link)
        for name, content in files.items():
            _add(tar, name, content, 0o644)
    new.replace(path)
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    file = tarfile.TarInfo(name)
    file.size, file.mode = len(content), mode
    tar.addfile(file, io.BytesIO(content))


def _static_busybox() -> str:
    binary = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    if binary is None:
        raise NotSupported("there is no busybox; run `make setup` (package busybox-static)")
    # A dynamic one names its loader in a PT_INTERP entry; a container has no such file.
    if b"/ld-linux" in Path(binary).read_bytes()[:4096] or b"/ld-musl" in Path(binary).read_bytes()[:4096]:
        raise NotSupported(f"{binary} is not static; install the package busybox-static")
    return binary

"""Copies .proto files of other projects from installed packages into third_party/, for buf and the archive.

The folder is git-ignored. google/protobuf comes from grpcio-tools (buf has a copy of its own, so only the archive takes
it), google/rpc from googleapis-common-protos.
"""

import re
import shutil
from pathlib import Path

from generate_stubs import proto_includes

_IMPORT = re.compile(r'^import\s+(?:public\s+)?"([^"]+)";', re.MULTILINE)


# Nothing imports it, and every client needs it: the details of an error are messages of this file.
ERROR_DETAILS = "google/rpc/error_details.proto"


def imported(files: list[Path]) -> dict[str, Path]:
    """Every .proto file of other projects that `files` import, directly or not, and the error details, by import path.

    Raises:
        SystemExit: one is not installed.
    """
    found: dict[str, Path] = {}
    waiting = [f'import "{ERROR_DETAILS}";', *(file.read_text() for file in files)]
    while waiting:
        for name in _IMPORT.findall(waiting.pop()):
            if name.startswith("moorage/") or name in found:
                continue
            path = next((folder / name for folder in proto_includes() if (folder / name).exists()), None)
            if path is None:
                raise SystemExit(f"{name} is imported but no installed package has it")
            found[name] = path
            waiting.append(path.read_text())
    return found


def copy(root: Path) -> None:
    """Make third_party/googleapis anew."""
    target = root / "third_party/googleapis"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, path in imported(sorted((root / "protos").rglob("*.proto"))).items():
        if not name.startswith("google/protobuf/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


if __name__ == "__main__":
    copy(Path(__file__).resolve().parents[1])

"""Packs the API for clients in other languages: dist/moorage-protos-VERSION.tar.gz.

It holds all .proto files, every file that they import, LICENSE and NOTICE, and `moorage.binpb`, a descriptor set with
source comments that reflection-less clients can load. The archive is the same, byte for byte, for the same sources.
"""

import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from generate_stubs import proto_includes
from third_party_protos import ERROR_DETAILS, imported


def descriptor_set(root: Path, protos: list[Path]) -> bytes:
    """The serialized FileDescriptorSet of the protos with all imports and comments.

    Raises:
        SystemExit: protoc refused a file; its own words are on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "set.binpb")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root / 'protos'}"]
        command += [f"-I{include}" for include in proto_includes()]
        command += ["--include_imports", "--include_source_info", f"--descriptor_set_out={output}"]
        result = subprocess.run([*command, *map(str, protos), ERROR_DETAILS], check=False)
        if result.returncode != 0:
            raise SystemExit(result.returncode)
        return output.read_bytes()


def pack(root: Path) -> Path:
    """Write the archive and return its path."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    protos = sorted((root / "protos").rglob("*.proto"))
    contents = {str(path.relative_to(root / "protos")): path.read_bytes() for path in protos}
    contents |= {name: path.read_bytes() for name, path in imported(protos).items()}
    contents |= {name: (root / name).read_bytes() for name in ("LICENSE", "NOTICE")}
    contents["moorage.binpb"] = descriptor_set(root, protos)
    archive = root / f"dist/moorage-protos-{version}.tar.gz"
    archive.parent.mkdir(exist_ok=True)
    with archive.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(contents):
                member = tarfile.TarInfo(f"moorage-protos-{version}/{name}")
                member.size, member.mode = len(contents[name]), 0o644
                tar.addfile(member, io.BytesIO(contents[name]))
    return archive


if __name__ == "__main__":
    print(pack(Path(__file__).resolve().parents[1]))

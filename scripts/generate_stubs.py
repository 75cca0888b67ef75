"""Generates Python stubs and type stubs of protos/moorage/v1 into moorage/v1 (never committed, never edited)."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path


def proto_includes() -> list[Path]:
    """Folders that hold the imported .proto files: google/protobuf from grpcio-tools, google/rpc from googleapis."""
    import google.rpc
    import grpc_tools

    google_rpc = Path(next(iter(google.rpc.__path__)))
    return [Path(str(files(grpc_tools))) / "_proto", google_rpc.parents[1]]


def generate(root: Path) -> None:
    """Run protoc over every proto of the project.

    Raises:
        SystemExit: protoc refused a file; its own words are on stderr.
    """
    protos = sorted((root / "protos").glob("moorage/v1/*.proto"))
    output = root / "moorage" / "v1"
    output.mkdir(exist_ok=True)
    (output / "__init__.py").write_text('"""Generated from protos/; do not edit."""\n')
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root / 'protos'}"]
    command += [f"-I{include}" for include in proto_includes()]
    command += [f"--{kind}_out={root}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command += [str(proto) for proto in protos]
    # The plugins lie beside the interpreter, whether or not its environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    result = subprocess.run(command, check=False, env={**os.environ, "PATH": path})
    if result.returncode != 0:
        raise SystemExit(result.returncode)


if __name__ == "__main__":
    generate(Path(__file__).resolve().parents[1])

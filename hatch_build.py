"""Build hook: generates the gRPC stubs of `protos/` into `moorage/v1` before the package is put together."""

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs scripts/generate_stubs.py for wheels and editable installs; the sdist ships the protos only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "sdist":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root / "scripts"))
        import generate_stubs

        # In pip's isolated build environment the protoc plugins lie beside the build's own interpreter packages.
        import grpc_tools

        overlay_bin = Path(grpc_tools.__file__).parents[4] / "bin"
        os.environ["PATH"] = f"{overlay_bin}{os.pathsep}{os.environ.get('PATH', '')}"
        generate_stubs.generate(root)

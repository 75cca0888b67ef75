"""Run inside an engine's namespaces: a registry with two images made of an archive, and the agent's proxy before it.

Started as `python -m tests.integration.registry.door_program FOLDER`; FOLDER holds `saved.tar` (of `docker save`) and
`root.tar` (a root file system). When all is ready, `ready.json` appears there; the program then waits to be killed.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from controlplane.images.tar import import_tar
from hostagent.images.proxy import RegistryProxy
from tests.integration.registry.bed import RegistryBed

BUILT = "p1/built"


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(65536):
            yield chunk


async def _serve(folder: Path) -> None:
    bed = RegistryBed(folder)
    await bed.registry.start()
    async with bed.new_session() as session:
        client = bed.new_client(session)
        saved = await import_tar(_read(folder / "saved.tar"), client, "p1/saved")
        root = await import_tar(_read(folder / "root.tar"), client, "p1/root")
        assigned = {"p1/saved": {saved.digest}, "p1/root": {root.digest}}
        proxy = RegistryProxy(
            listen_port=0,
            upstream_url=bed.registry.url,
            ssl_context=bed.ssl_context,
            token_for=bed.token_for,
            assigned=lambda repository: assigned.get(repository, set()),
        )
        port = await proxy.start()
        with proxy.grant_push(BUILT):
            ready = {"port": port, "saved": saved.digest, "root": root.digest}
            (folder / "ready.tmp").write_text(json.dumps(ready))
            (folder / "ready.tmp").rename(folder / "ready.json")
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))

"""Images from Dockerfiles, by the engine's classic builder.

The one whose processor, memory and network the API can bound.

A build is a stranger's program: it gets no network unless asked, its output and time are bounded, and the engine
stops it when we hang up.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterable, Callable, Mapping
from pathlib import Path

from hostagent.engine.connection import EngineConnection, EngineRefusal, ErrorTable
from hostagent.engine.context import context_file, read_dockerfile, read_file
from hostagent.engine.dockerfile import buildkit_features
from hostagent.engine.images import json_lines
from hostagent.engine.spec import CPU_PERIOD_MICROS
from moorage.errors import DeadlineExceeded, Exhausted, InvalidSpec, MoorageError, NotSupported

TAIL_LINES = 30


class Builder:
    """Builds, each one request."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection

    async def build(
        self,
        context: AsyncIterable[bytes] | Path,
        *,
        dockerfile: str,
        tag: str,
        build_args: Mapping[str, str],
        labels: Mapping[str, str],
        target: str,
        memory_bytes: int,
        cpu_millis: int,
        network: str,
        timeout_seconds: float,
        output_limit_bytes: int,
        on_output: Callable[[str], None] | None,
    ) -> str:
        """Build an image. Returns its id.

        Args:
            context: a tar (plain or compressed), as a file or as a stream.
            dockerfile: its path inside the context.
            tag: a name for the image; empty for none.
            build_args: values of ARG. They stay visible in the image's history: no place for secrets.
            target: stage to stop at; empty for the last.
            memory_bytes, cpu_millis: limits of each step; 0 for none.
            network: of RUN steps: none, host, or a network of the engine.
            on_output: called in the event loop with each piece of the log.
        Raises:
            InvalidSpec: BUILD_FAILED, `metadata["log_tail"]` has the last lines; TAR_INVALID; DOCKERFILE_INVALID.
            NotFound: DOCKERFILE_NOT_FOUND.
            NotSupported: BUILDKIT_NEEDED, `metadata["features"]` names what the Dockerfile uses.
            DeadlineExceeded: BUILD_TIMEOUT. Exhausted: BUILD_OUTPUT_LIMIT. In both cases the engine stops the build.
        """
        async with context_file(context) as path:
            text = await asyncio.to_thread(read_dockerfile, path, dockerfile)
            features = buildkit_features(text)
            if features:
                raise NotSupported(
                    f"this Dockerfile needs BuildKit for {', '.join(features)}; write it without",
                    reason="BUILDKIT_NEEDED",
                    metadata={"features": ",".join(features)},
                )
            query = {
                "version": "1",
                "dockerfile": dockerfile,
                "t": tag or None,
                "buildargs": json.dumps(dict(build_args)),
                "labels": json.dumps(dict(labels)),
                "target": target or None,
                "networkmode": network,
                "rm": 1,
                "forcerm": 1,
                **_limits(memory_bytes, cpu_millis),
            }
            log = _Log(output_limit_bytes, on_output)
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await self._run(path, query, log)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"the build took longer than {timeout_seconds:g} seconds",
                    reason="BUILD_TIMEOUT",
                    metadata={"log_tail": log.tail()},
                ) from error

    async def _run(self, path: Path, query: Mapping[str, str | int | None], log: "_Log") -> str:
        errors: ErrorTable = {
            400: lambda text: InvalidSpec.of("dockerfile", text, reason="DOCKERFILE_INVALID"),
            404: lambda text: InvalidSpec.of("dockerfile", text, reason="DOCKERFILE_INVALID"),
            500: lambda text: _failed(text, log),
        }
        image_id = ""
        async with self._connection.request(
            "POST",
            "/build",
            query=query,
            data=read_file(path),
            headers={"Content-Type": "application/x-tar"},
            errors=errors,
        ) as answer:
            async for line in json_lines(self._connection, answer):
                if "errorDetail" in line or "error" in line:
                    detail = line.get("errorDetail") or {}
                    message = str(detail.get("message") or line.get("error"))
                    raise _failed(message, log) from EngineRefusal(int(detail.get("code") or 200), message)
                image_id = str((line.get("aux") or {}).get("ID", image_id))
                log.add(str(line.get("stream") or line.get("status") or ""))
        return image_id


class _Log:
    """Counts the output, keeps its tail, passes it on."""

    def __init__(self, limit_bytes: int, on_output: Callable[[str], None] | None) -> None:
        self._left = limit_bytes
        self._limit_bytes = limit_bytes
        self._on_output = on_output
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def add(self, text: str) -> None:
        if not text:
            return
        self._left -= len(text.encode())
        if self._left < 0:
            raise Exhausted(
                f"the build wrote more than {self._limit_bytes} bytes of output",
                reason="BUILD_OUTPUT_LIMIT",
                metadata={"log_tail": self.tail()},
            )
        self._tail.extend(line for line in text.splitlines() if line.strip())
        if self._on_output is not None:
            self._on_output(text)

    def tail(self) -> str:
        return "\n".join(self._tail)


def _failed(message: str, log: _Log) -> MoorageError:
    if "no space left on device" in message.lower():
        return Exhausted(message, reason="DISK_FULL", metadata={"log_tail": log.tail()})
    error = InvalidSpec.of("dockerfile", message, reason="BUILD_FAILED")
    error.metadata["log_tail"] = log.tail()
    return error


def _limits(memory_bytes: int, cpu_millis: int) -> dict[str, str | int | None]:
    limits: dict[str, str | int | None] = {}
    if memory_bytes:
        limits |= {"memory": memory_bytes, "memswap": memory_bytes}
    if cpu_millis:
        limits |= {"cpuperiod": CPU_PERIOD_MICROS, "cpuquota": max(1000, cpu_millis * CPU_PERIOD_MICROS // 1000)}
    return limits

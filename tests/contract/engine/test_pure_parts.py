"""What the engine layer decides without an engine: bodies, references, frames, progress, Dockerfiles, errors."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.domain import ContainerSpec, Resources
from hostagent.engine.connection import error_of, message_of, segment
from hostagent.engine.dockerfile import buildkit_features
from hostagent.engine.images import registry_error, split_reference
from hostagent.engine.progress import LayerProgress
from hostagent.engine.spec import NO_MEMORY_LIMIT, create_body, update_body
from hostagent.engine.streams import FrameReader, LineReader
from moorage.errors import (
    EngineUnavailable,
    Exhausted,
    Forbidden,
    Internal,
    InvalidSpec,
    MoorageError,
    NotFound,
    NotReady,
    NotSupported,
    Unauthenticated,
    Unavailable,
)


def test_a_container_never_gets_dockers_network_or_restart_policy() -> None:
    body = create_body(ContainerSpec(name="a1", image="i"), "moorage")
    assert body["NetworkDisabled"] is True
    assert body["HostConfig"]["NetworkMode"] == "none"
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert body["HostConfig"]["Runtime"] == "moorage"
    json.dumps(body)


def test_absent_values_stay_absent() -> None:
    body = create_body(ContainerSpec(name="a1", image="i"), "")
    assert not {"Cmd", "Entrypoint", "StopSignal", "Healthcheck"} & body.keys()
    assert not {"Memory", "CpuQuota", "PidsLimit", "ShmSize", "Runtime"} & body["HostConfig"].keys()


def test_the_images_entrypoint_is_kept_replaced_or_cleared() -> None:
    assert "Entrypoint" not in create_body(ContainerSpec(name="a1", image="i", entrypoint=None), "")
    assert create_body(ContainerSpec(name="a1", image="i", entrypoint=("x",)), "")["Entrypoint"] == ["x"]
    assert create_body(ContainerSpec(name="a1", image="i", entrypoint=()), "")["Entrypoint"] == [""]


def test_update_names_every_limit() -> None:
    lifted = update_body(Resources())
    assert lifted == {
        "CpuQuota": -1,
        "CpuPeriod": 100_000,
        "CpuShares": 1024,
        "Memory": NO_MEMORY_LIMIT,
        "MemorySwap": NO_MEMORY_LIMIT,
        "PidsLimit": -1,
    }
    tight = update_body(Resources(cpu_millis=250, memory_bytes=1 << 26, pids=5))
    assert (tight["CpuQuota"], tight["Memory"], tight["MemorySwap"], tight["PidsLimit"]) == (
        25_000,
        1 << 26,
        1 << 26,
        5,
    )


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("busybox", ("busybox", "latest")),
        ("library/busybox:1", ("library/busybox", "1")),
        ("host:5000/a/b", ("host:5000/a/b", "latest")),
        ("host:5000/a/b:t", ("host:5000/a/b", "t")),
        ("host:5000/a/b@sha256:00", ("host:5000/a/b", "sha256:00")),
        ("host:5000/a/b:t@sha256:00", ("host:5000/a/b", "sha256:00")),
    ],
)
def test_references(reference: str, parts: tuple[str, str]) -> None:
    assert split_reference(reference) == parts


def test_no_name_climbs_out_of_its_place_in_the_path() -> None:
    assert segment("../images/x?y#z") == "..%2Fimages%2Fx%3Fy%23z"


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=50)), max_size=8),
    st.lists(st.integers(0, 300), max_size=10),
)
def test_frames_come_out_whole_however_they_are_cut(frames: list[tuple[str, bytes]], cuts: list[int]) -> None:
    wire = b"".join(
        bytes([1 if stream == "stdout" else 2, 0, 0, 0]) + len(data).to_bytes(4, "big") + data
        for stream, data in frames
    )
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    reader = FrameReader()
    got = [frame for start, end in itertools.pairwise(edges) for frame in reader.feed(wire[start:end])]
    assert got == frames


@given(st.binary(max_size=80), st.integers(0, 80))
def test_lines_lose_nothing(data: bytes, cut: int) -> None:
    reader = LineReader()
    lines = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
    assert b"".join(lines) + reader.rest() == data
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


def test_progress_rises_to_a_hundred() -> None:
    progress = LayerProgress()
    lines: list[dict[str, Any]] = [
        {"status": "Pulling from suite/app", "id": "1.0"},
        {"status": "Pulling fs layer", "id": "a"},
        {"status": "Pulling fs layer", "id": "b"},
        {"status": "Already exists", "id": "c"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 50, "total": 100}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 1, "total": 900}},
        {"status": "Download complete", "id": "a"},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 900, "total": 900}},
        {"status": "Verifying Checksum", "id": "b"},
        {"status": "Download complete", "id": "b"},
        {"status": "Extracting", "id": "a", "progressDetail": {"current": 100, "total": 100}},
        {"status": "Pull complete", "id": "a"},
        {"status": "Extracting", "id": "b", "progressDetail": {"current": 450, "total": 900}},
        {"status": "Pull complete", "id": "b"},
        {"status": "Digest: sha256:00"},
    ]
    steps = [progress.feed(line) for line in lines]
    assert [step.percent for step in steps] == sorted(step.percent for step in steps)
    assert steps[0].phase == "RESOLVING"
    assert steps[5].phase == "DOWNLOADING"
    assert steps[12].phase == "EXTRACTING"
    assert steps[12].current_bytes == steps[12].total_bytes == 1000
    assert steps[-1].percent == 99
    assert progress.done().percent == 100


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Waiting", "Downloading", "Download complete", "Extracting", "Pull complete", "Odd"]),
            st.sampled_from(["a", "b", "c", ""]),
            st.integers(0, 200),
            st.integers(0, 100),
        )
    )
)
def test_progress_never_falls(lines: list[tuple[str, str, int, int]]) -> None:
    progress = LayerProgress()
    last = 0
    for status, layer, current, total in lines:
        step = progress.feed({"status": status, "id": layer, "progressDetail": {"current": current, "total": total}})
        assert last <= step.percent <= 99
        last = step.percent


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("FROM a\nRUN --mount=type=cache,target=/x make\n", ("RUN --mount",)),
        ("FROM a\nRUN --network=none \\\n  --security=insecure x\n", ("RUN --network", "RUN --security")),
        ("FROM a\nCOPY --link a b\nCOPY --link c d\n", ("COPY --link",)),
        ("FROM a\ncopy --chmod=755 --chown=1 a b\n", ("COPY --chmod",)),
        ("FROM a\nADD --checksum=sha256:0 http://x/y /\n", ("ADD --checksum",)),
        ("FROM a\nADD git@github.com:a/b.git /src\n", ("ADD of a git repository",)),
        ("FROM --platform=$BUILDPLATFORM a\n", ("FROM --platform=$BUILDPLATFORM",)),
        ("FROM a\nARG TARGETARCH\n", ("ARG TARGETARCH",)),
        ("FROM a\nRUN <<EOF\necho hi\nEOF\n", ("RUN with a heredoc (<<)",)),
        ("FROM a\nRUN python3 <<-'END'\nEND\n", ("RUN with a heredoc (<<)",)),
        ("FROM a\nCOPY <<EOF /x\nhi\nEOF\n", ("COPY with a heredoc (<<)",)),
        ("# syntax=docker/dockerfile:1\nFROM a AS b\nCOPY --from=b --chown=1:1 x y\nRUN echo $((1 << 3))\n", ()),
        ("FROM --platform=linux/amd64 a\nARG TARGETARCH=amd64\nHEALTHCHECK --interval=5s CMD true\n", ()),
        ("# RUN --mount=x\nFROM a\nRUN echo '--mount=x' && x --mount=y\n", ()),
        ("FROM a\nRUN bash -c 'cat <<EOF > /x'\nRUN cat <<<word && echo $((n << m)) $((n <<m))\n", ()),
        ("# escape=`\nFROM a\nRUN dir `\n  c:\\\nRUN --mount=x y\n", ("RUN --mount",)),
    ],
)
def test_what_needs_buildkit(text: str, features: tuple[str, ...]) -> None:
    assert buildkit_features(text) == features


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidSpec),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, NotReady),
        (500, Internal),
        (501, NotSupported),
        (503, EngineUnavailable),
        (418, Internal),
    ],
)
def test_status_codes_decide(status: int, error: type[MoorageError]) -> None:
    assert type(error_of(status, "words")) is error
    assert type(error_of(status, "words", {status: lambda text: Exhausted(text)})) is Exhausted


def test_a_lost_containerd_counts_as_a_lost_engine() -> None:
    """Whatever the call made of a 500: it is to be tried again, and no fault of the container."""
    for words in ("transport is closing: unavailable", "error reading from server: EOF: unavailable"):
        assert type(error_of(500, words, {500: lambda text: NotReady(text)})) is EngineUnavailable


@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        ("Get https://r/v2/: dial tcp 10.0.0.1:443: connect: connection refused", Unavailable, "REGISTRY_UNREACHABLE"),
        ("manifest unknown: manifest unknown", NotFound, "IMAGE_NOT_FOUND"),
        ("no matching manifest for linux/arm64 in the manifest list entries", NotFound, "PLATFORM_NOT_AVAILABLE"),
        ("unauthorized: authentication required", Unauthenticated, "REGISTRY_UNAUTHENTICATED"),
        ("denied: requested access to the resource is denied", Forbidden, "REGISTRY_FORBIDDEN"),
        ("write /var/lib/docker/tmp/x: no space left on device", Exhausted, "DISK_FULL"),
    ],
)
def test_words_of_registries(words: str, error: type[MoorageError], reason: str) -> None:
    caught = registry_error(words)
    assert type(caught) is error
    assert caught.reason == reason


def test_messages_are_found_in_any_answer() -> None:
    assert message_of(b'{"message":"no such thing"}') == "no such thing"
    assert message_of(b"plain words\n") == "plain words"
    assert message_of(b"") == ""

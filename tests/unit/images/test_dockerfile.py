"""What is read from a Dockerfile before it is built."""

import pytest

from controlplane.images.dockerfile import inspect_dockerfile
from moorage.errors import InvalidSpec


def test_a_plain_one() -> None:
    info = inspect_dockerfile(
        "# comment\nARG TAG=12\nFROM debian:${TAG}-slim AS base\nRUN apt-get update && \\\n  # inside\n\n  true\n"
        "FROM base\nCOPY --from=base --chown=1:1 /a /b\nCOPY --from=busybox:1 /bin/busybox /\nCMD []\n"
    )
    assert [(s.base, s.name) for s in info.stages] == [("debian:12-slim", "base"), ("base", "")]
    assert info.images == ("debian:12-slim", "busybox:1")
    assert info.buildkit_features == ()


def test_build_arguments_decide_bases() -> None:
    text = "ARG BASE\nARG TAG=1\nFROM ${BASE:-alpine}:$TAG\n"
    assert inspect_dockerfile(text).images == ("alpine:1",)
    assert inspect_dockerfile(text, {"BASE": "debian", "TAG": "2"}).images == ("debian:2",)
    assert inspect_dockerfile("ARG X\nFROM a${X:+-y}\n").images == ("a",)
    assert inspect_dockerfile("ARG X=1\nFROM a${X:+-y}\n").images == ("a-y",)


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("# syntax=docker/dockerfile:1\nFROM a\n", ("# syntax=",)),
        ("FROM a\n# syntax=not-at-the-top\n", ()),
        ("FROM a\nRUN --mount=type=cache,target=/x --network=none make\n", ("RUN --mount", "RUN --network")),
        ("FROM a\nRUN <<EOF\nFROM inside\nNONSENSE\nEOF\nRUN true\n", ("RUN heredoc",)),
        ("FROM a\nCOPY <<-'X' /etc/x\n\tcontent\n\tX\nRUN true\n", ("COPY heredoc",)),
        ("FROM a\nRUN echo $((1<<N))\n", ()),
        ("FROM a\nCOPY --link --chmod=755 --parents a b\n", ("COPY --link", "COPY --chmod", "COPY --parents")),
        ("FROM a\nADD --checksum=sha256:00 https://x/y /\n", ("ADD --checksum",)),
        ("FROM a\nADD https://github.com/a/b.git#main /src\n", ("ADD from git",)),
        ("FROM a\nADD https://example.com/a.tar.gz /src\n", ()),
        ("FROM --platform=$BUILDPLATFORM a\n", ("platform ARGs",)),
        ("FROM --platform=linux/arm64 a\n", ()),
        ("FROM a\nHEALTHCHECK --interval=5s --retries=3 CMD true\n", ()),
        ("FROM a\nONBUILD COPY --link a b\n", ("COPY --link",)),
    ],
)
def test_what_only_buildkit_can_do(text: str, features: tuple[str, ...]) -> None:
    assert inspect_dockerfile(text).buildkit_features == features


def test_images_of_mounts_count_and_stages_do_not() -> None:
    info = inspect_dockerfile(
        "FROM golang:1 AS Build\nRUN --mount=type=bind,from=tools:2,target=/t make\nFROM scratch\n"
        "COPY --from=build /a /\nCOPY --from=0 /b /\n"
    )
    assert info.images == ("golang:1", "tools:2")


def test_escape_directive() -> None:
    assert inspect_dockerfile("# escape=`\nFROM a\nRUN one `\n two\n").images == ("a",)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", ["dockerfile:1"]),
        ("# nothing\n", ["dockerfile:1"]),
        ("RUN true\n", ["dockerfile:1"]),
        ("FROM a\nRNU true\nCPOY a b\n", ["dockerfile:2", "dockerfile:3"]),
        ("FROM a b\n", ["dockerfile:1"]),
        ("FROM ${TAG}\n", ["dockerfile:1"]),
        ("FROM a AS x\nFROM b AS X\n", ["dockerfile:2"]),
        ("FROM\n", ["dockerfile:1"]),
        ("FROM a\nONBUILD FROM b\n", ["dockerfile:2"]),
        ("\\\n", ["dockerfile:1"]),
    ],
)
def test_what_no_builder_takes(text: str, fields: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        inspect_dockerfile(text)
    assert caught.value.reason == "DOCKERFILE_INVALID"
    assert [violation.field for violation in caught.value.violations] == fields

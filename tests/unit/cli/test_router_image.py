"""router-image: what the base is made of, what identifies an image, and what is asked of the control plane."""

from pathlib import Path

import pytest

from cli.router_image import recipe
from cli.router_image.base import Sources, command, parse_sources
from moorage.errors import NotSupported
from moorage.v1 import projects_pb2, templates_pb2
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import Plane

DEBIAN = """\
http://deb.example/debian/|bookworm-updates|main|Debian|$(SIGNED_BY)
http://deb.example/debian/|bookworm|main|Debian|/usr/share/keyrings/debian-archive-keyring.gpg
http://deb.example/debian/|bookworm|main|Debian|/usr/share/keyrings/debian-archive-keyring.gpg
https://download.example/linux|bookworm|stable|Somebody|/etc/apt/keyrings/somebody.gpg
file:/srv/flat/||||
"""


def test_only_the_distributions_own_sources_are_taken() -> None:
    assert parse_sources(DEBIAN) == Sources(
        "bookworm",
        (
            "deb http://deb.example/debian/ bookworm-updates main",
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.example/debian/ bookworm main",
        ),
    )


def test_a_machine_without_package_lists_is_told_what_to_do() -> None:
    with pytest.raises(NotSupported, match="apt-get update"):
        parse_sources("https://download.example/linux|bookworm|stable|Somebody|\n")


def test_the_command_names_packages_suite_and_sources() -> None:
    words = command(Path("/c/base.tar"), ("haproxy", "keepalived"), Sources("noble", ("deb http://u noble main",)))
    assert "--include=haproxy,keepalived" in words
    assert words[-3:] == ["noble", "/c/base.tar", "deb http://u noble main"]


def test_the_fingerprint_follows_files_and_base(tmp_path: Path) -> None:
    source = recipe.context_folder()
    for path in source.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    same = recipe.fingerprint(tmp_path, "base-1")
    assert same == recipe.fingerprint(source, "base-1")
    assert same != recipe.fingerprint(source, "base-2")
    (tmp_path / "entrypoint").write_text("#!/bin/sh\n")
    assert same != recipe.fingerprint(tmp_path, "base-1")


def test_all_that_the_dockerfile_copies_is_in_the_fingerprint() -> None:
    folder = recipe.context_folder()
    copied = next(
        line.split()[1:-1] for line in (folder / "Dockerfile").read_text().splitlines() if line.startswith("COPY")
    )
    assert {"Dockerfile", *copied} == set(recipe.FILES)


def test_registering_makes_project_base_and_image_once(moor: Moor, plane: Plane) -> None:
    result = moor("router-image", "register", "--base", "registry.example.net/base:1", "--plain-http")
    assert result.stdout == "projects/system/templates/router\n"
    assert [made.project_id for made in plane.requests("CreateProject")] == ["system"]
    base, router = plane.get("projects/system/templates/router-base"), plane.get("projects/system/templates/router")
    assert base.source.repository == templates_pb2.RepositorySource(
        reference="registry.example.net/base:1", plain_http=True
    )
    assert dict(router.source.dockerfile.build_args) == {"BASE": "router-base"}
    assert len(plane.uploads) == 1

    moor("router-image", "register", "--base", "registry.example.net/base:1", "--plain-http")
    assert len(plane.uploads) == 1
    assert not plane.requests("DeleteTemplate")

    moor("router-image", "register", "--base", "registry.example.net/base:2")
    assert [gone.name for gone in plane.requests("DeleteTemplate")] == [router.name, base.name]
    assert len(plane.uploads) == 2


def test_a_tar_becomes_the_base(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    plane.put(projects_pb2.Project(name="projects/system"))
    tar = tmp_path / "base.tar"
    tar.write_bytes(b"not looked at here")
    moor("router-image", "register", "--base", str(tar))
    assert plane.get("projects/system/templates/router-base").source.HasField("tar")
    assert plane.uploads[0] == b"not looked at here"

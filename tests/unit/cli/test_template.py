"""template register in each of its ways, and what becomes of a failure."""

import io
import tarfile
from pathlib import Path

import pytest

from cli.build_context import context_entries, is_ignored, parse_ignore
from moorage.errors import InvalidSpec
from moorage.v1 import templates_pb2
from tests.unit.cli.conftest import Moor
from tests.unit.cli.plane import Plane


def asked(plane: Plane, method: str = "CreateTemplate") -> templates_pb2.CreateTemplateRequest:
    return plane.requests(method)[-1]  # type: ignore[no-any-return]


def test_from_repository(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("pw\n")
    words = ["--username", "u", "--password-file", str(password), "--platform", "linux/arm64", "--plain-http"]
    defaults = ["--port", "80", "-e", "A=1", "--cpu", "250m", "--health-cmd", "true", "--command", "a 'b c'"]
    result = moor("template", "register", "--from-repository", "example.net/a/b:2", *words, *defaults, "-l", "x=y")
    assert result.stdout == "projects/default/templates/b-2\n"
    assert result.stderr == "template b-2: pull\n"
    template = asked(plane).template
    assert template.source.repository == templates_pb2.RepositorySource(
        reference="example.net/a/b:2", username="u", password="pw", platforms=["linux/arm64"], plain_http=True
    )
    assert dict(template.labels) == {"x": "y"}
    assert list(template.defaults.ports) == ["80/tcp"]
    assert list(template.defaults.command) == ["a", "b c"]
    assert template.defaults.resources.cpu_millis == 250
    assert list(template.defaults.health_check.test) == ["CMD-SHELL", "true"]


def test_table_of_a_new_template(moor: Moor) -> None:
    result = moor("template", "register", "web", "--from-repository", "nginx", "-o", "table")
    assert result.stdout.splitlines()[1].startswith("web    READY   nginx    3Mi    linux/amd64")


def test_dockerfile_as_text(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM busybox\n")
    words = ["--build-arg", "V=1", "--target", "t", "--build-memory", "2g", "--build-cpu", "2", "--egress"]
    moor("template", "register", "web", "--dockerfile", str(file), *words)
    assert asked(plane).template.source.dockerfile == templates_pb2.DockerfileSource(
        inline="FROM busybox\n",
        build_args={"V": "1"},
        target="t",
        memory_bytes=2 * 1024**3,
        cpu_millis=2000,
        egress=True,
    )
    moor("template", "register", "--dockerfile", str(file), code=2)  # no name can be derived


def test_dockerfile_with_a_directory(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    root = tmp_path / "my-app"
    (root / "src").mkdir(parents=True)
    (root / "Dockerfile").write_text("FROM busybox\n")
    (root / "src" / "main.py").write_bytes(b"x" * 700_000)
    (root / "secret").write_text("no")
    (root / ".dockerignore").write_text("secret\nDockerfile\n")
    assert moor("template", "register", "--dockerfile", str(root)).stdout == "projects/default/templates/my-app\n"
    assert asked(plane, "UploadTemplate").template.source.WhichOneof("source") == "dockerfile"
    with tarfile.open(fileobj=io.BytesIO(plane.uploads[0])) as archive:
        assert archive.getnames() == [".dockerignore", "Dockerfile", "src", "src/main.py"]
        assert {member.uid for member in archive} == {0}
        assert archive.extractfile("src/main.py").read() == b"x" * 700_000  # type: ignore[union-attr]


def test_tar(moor: Moor, plane: Plane, tmp_path: Path) -> None:
    file = tmp_path / "App.tar.gz"
    file.write_bytes(b"t" * 1_200_000)
    assert moor("template", "register", "--tar", str(file)).stdout == "projects/default/templates/app\n"
    assert plane.uploads == [b"t" * 1_200_000]
    moor("template", "register", "piped", "--tar", "-", input=b"from a pipe")
    assert plane.uploads[1] == b"from a pipe"
    assert "cannot be read" in moor("template", "register", "--tar", str(tmp_path / "none"), code=2).stderr


def test_url_and_snapshot(moor: Moor, plane: Plane) -> None:
    moor("template", "register", "a", "--url", "https://example.net/a.tar", "--platform", "linux/arm64")
    assert asked(plane).template.source.tar == templates_pb2.TarSource(
        url="https://example.net/a.tar", platform="linux/arm64"
    )
    moor("template", "register", "b", "--snapshot", "web", "--no-pause")
    assert asked(plane).template.source.snapshot == templates_pb2.SnapshotSource(
        instance="projects/default/instances/web", no_pause=True
    )
    moor("template", "register", "c", "--context-url", "https://example.net/c.tar", "-f", "sub/Dockerfile")
    assert asked(plane).template.source.dockerfile == templates_pb2.DockerfileSource(
        context_url="https://example.net/c.tar", path="sub/Dockerfile"
    )


def test_exactly_one_source(moor: Moor, plane: Plane) -> None:
    assert "give one of" in moor("template", "register", "a", code=2).stderr
    moor("template", "register", "a", "--url", "u", "--snapshot", "s", code=2)
    assert plane.requests("CreateTemplate") == []


def test_a_failed_build_shows_its_log(moor: Moor, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM bad\n")
    result = moor("template", "register", "web", "--dockerfile", str(file), code=3)
    assert result.stderr.splitlines()[-2:] == ["Step 1/1 : FROM bad", "Error: the registry has no such image"]


def test_validate_only_and_no_wait(moor: Moor, plane: Plane) -> None:
    result = moor("template", "register", "a", "--from-repository", "nginx", "--validate-only")
    assert result.stdout == "Template a can be registered.\n"
    assert plane.listed(templates_pb2.Template) == []
    moor("template", "register", "a", "--from-repository", "nginx", "--no-wait")
    assert plane.requests("Watch") == []
    moor("template", "rm", "a")
    assert plane.listed(templates_pb2.Template) == []


@pytest.mark.parametrize(
    ("rules", "name", "ignored"),
    [
        ("*.log", "a.log", True),
        ("*.log", "sub/a.log", False),
        ("**/*.log", "sub/a.log", True),
        ("sub", "sub/deep/file", True),
        ("/sub/", "sub/file", True),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "other", True),
        ("# sub\n\n", "sub", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
    ],
)
def test_ignore_rules(rules: str, name: str, ignored: bool) -> None:
    assert is_ignored(name, parse_ignore(rules)) is ignored


def test_exceptions_below_ignored_directories(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("Dockerfile", "sub/keep", "sub/drop"):
        (tmp_path / name).write_text("")
    (tmp_path / ".dockerignore").write_text("sub\n!sub/keep\n")
    assert [name for _, name in context_entries(tmp_path, "Dockerfile")] == [".dockerignore", "Dockerfile", "sub/keep"]
    with pytest.raises(InvalidSpec):
        context_entries(tmp_path, "Other")

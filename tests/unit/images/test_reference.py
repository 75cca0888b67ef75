"""References as people type them."""

import pytest

from controlplane.images.reference import familiar, parse_reference, registry_url
from moorage.errors import InvalidSpec

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "explicit", "short"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.2", "docker.io/library/nginx:1.2", "nginx:1.2"),
        ("docker.io/library/nginx:1.2", "docker.io/library/nginx:1.2", "nginx:1.2"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1"),
        ("a/b", "docker.io/a/b:latest", "a/b:latest"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"host:5000/a/b@{DIGEST}", f"host:5000/a/b@{DIGEST}", f"host:5000/a/b@{DIGEST}"),
        (f"ghcr.io/a/b:1@{DIGEST}", f"ghcr.io/a/b:1@{DIGEST}", f"ghcr.io/a/b:1@{DIGEST}"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("GHCR.io/a", "ghcr.io/a:latest", "ghcr.io/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("10.0.0.1:5000/a_b/c--d:T", "10.0.0.1:5000/a_b/c--d:T", "10.0.0.1:5000/a_b/c--d:T"),
    ],
)
def test_parses(text: str, explicit: str, short: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == explicit
    assert familiar(reference) == short
    assert parse_reference(explicit) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        " nginx",
        "Nginx",
        "https://docker.io/nginx",
        "nginx:",
        "nginx:a b",
        "nginx@sha256:abc",
        "nginx@",
        "host:99999/a",
        "host:0/a",
        "-host.com/a",
        "ghcr.io/",
        "ghcr.io/a//b",
        "ghcr.io/../b",
        "a/b/../../c",
        "a" * 300,
        "nginx:" + "t" * 129,
        "user:pw@host.com/a",
        "[::zz]:5000/a",
        "exa\nmple.com/a",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_reference(text, "spec.source")
    assert caught.value.reason == "REFERENCE_INVALID"
    assert caught.value.violations[0].field == "spec.source"


def test_where_a_registry_is() -> None:
    assert registry_url("docker.io") == "https://registry-1.docker.io"
    assert registry_url("ghcr.io") == "https://ghcr.io"
    assert registry_url("host:5000", plain_http={"host:5000"}) == "http://host:5000"

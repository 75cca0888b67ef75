"""Configuration and keys: what an operator writes, and what a first start makes."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509

from controlplane import keys
from controlplane.config import Config, load, parse
from controlplane.liveness.terms import LivenessTerms
from controlplane.registry.tokens import Grant
from moorage.clock import ManualClock
from moorage.errors import InvalidSpec, MoorageError
from moorage.tls import Authority, certificate_facts


def _ca_file(folder: Path) -> Path:
    file = folder / "registry-ca.pem"
    file.write_bytes(Authority.create("the registry's").cert_pem)
    return file


def test_all_settings(tmp_path: Path) -> None:
    ca_file = _ca_file(tmp_path)
    file = tmp_path / "c.yaml"
    file.write_text(
        "data_dir: /var/lib/moorage\n"
        "api_listen: 0.0.0.0:1\n"
        "agent_listen: ['[::]:2', '0.0.0.0:3']\n"
        "registry_listen: 10.0.0.1:4\n"
        "registry_url: https://registry.example.org:5000\n"
        f"registry_ca_file: {ca_file}\n"
        "advertise: [cp.example.org]\n"
        "plain_http_registries: [mirror:5000]\n"
        "outbound_denied: [10.0.0.0/8]\n"
        "outbound_allowed: ['fd00::/64']\n"
        "log_format: json\n"
        "log_level: debug\n"
    )
    assert load(file) == Config(
        Path("/var/lib/moorage"),
        ("0.0.0.0:1",),
        ("[::]:2", "0.0.0.0:3"),
        "10.0.0.1:4",
        "https://registry.example.org:5000",
        str(ca_file),
        ("cp.example.org",),
        ("mirror:5000",),
        ("10.0.0.0/8",),
        ("fd00::/64",),
        "json",
        "debug",
    )


def test_defaults() -> None:
    config = parse({"data_dir": "/d"})
    assert config.api_listen == ("127.0.0.1:7460",), "callers on this machine only, unless somebody says otherwise"
    assert config == Config(Path("/d"))


def test_every_bad_setting_at_once() -> None:
    bad: dict[Any, Any] = {
        "api_listen": ["nowhere", ":1", "a:99999", "a:²"],
        "agent_listen": [1],
        "registry_listen": "x",
        "registry_url": "http://registry.example.org",
        "registry_ca_file": "/nowhere/ca.pem",
        "advertise": [],
        "log_format": "xml",
        "log_level": "loud",
        "outbound_denied": ["10.0.0.1/8", "x"],
        "colour": "red",
        7: "x",
    }
    with pytest.raises(InvalidSpec) as caught:
        parse(bad)
    assert caught.value.reason == "CONFIG_INVALID"
    assert sorted(v.field for v in caught.value.violations) == sorted(
        ["colour", "7", "agent_listen", "advertise", *["api_listen"] * 4, "registry_listen", "log_format", "log_level"]
        + ["outbound_denied"] * 2
        + ["registry_url", "registry_ca_file"]
        + ["data_dir"]
    )


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"heartbeat_seconds": 5}, ["silent_after_seconds", "lost_after_seconds"]),
        ({"heartbeat_seconds": 0}, ["heartbeat_seconds"]),
        ({"heartbeat_seconds": float("nan")}, ["heartbeat_seconds", "silent_after_seconds", "lost_after_seconds"]),
        ({"silent_after_seconds": 2.5}, ["lost_after_seconds"]),
        ({"lost_after_seconds": 60}, ["agent_restart_seconds"]),
        ({"lost_after_seconds": "3", "agent_restart_seconds": True}, ["agent_restart_seconds", "lost_after_seconds"]),
    ],
)
def test_times_that_do_not_go_together(settings: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse({"data_dir": "/d", **settings})
    assert sorted(_fields(caught)) == sorted(fields)


def test_times_of_a_loss() -> None:
    times = {
        "heartbeat_seconds": 5,
        "silent_after_seconds": 10,
        "lost_after_seconds": 20.5,
        "agent_restart_seconds": 60,
    }
    assert parse({"data_dir": "/d", **times}).liveness == LivenessTerms(5.0, 10.0, 20.5, 60.0)
    never = {"lost_after_seconds": float("inf"), "agent_restart_seconds": float("inf")}
    assert parse({"data_dir": "/d", **never}).liveness.lost_after_seconds == float("inf")


def _fields(caught: pytest.ExceptionInfo[InvalidSpec]) -> list[str]:
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize("url", ["https://r", "https://R.example.org:5000", "https://192.0.2.1", "https://[fd00::1]:1"])
def test_registries_of_an_operators_own(url: str) -> None:
    assert parse({"data_dir": "/d", "registry_url": url}).registry_url == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "r:5000",
            "http://r",
            "https://",
            "https://:1",
            "https://r:",
            "https://r:0",
            "https://r:x",
            "https://r:70000",
        ),
        *("https://r/", "https://r/v2", "https://r?x", "https://r#", "https://u:p@r", "https://[::1", "https://r\n"),
    ],
)
def test_addresses_that_no_registry_has(url: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse({"data_dir": "/d", "registry_url": url})
    assert _fields(caught) == ["registry_url"]


def test_what_signed_the_registrys_certificate(tmp_path: Path) -> None:
    given = {"data_dir": "/d", "registry_url": "https://r"}
    ca_file = _ca_file(tmp_path)
    assert parse({**given, "registry_ca_file": str(ca_file)}).registry_ca_file == str(ca_file)
    with pytest.raises(InvalidSpec) as caught:
        parse({"data_dir": "/d", "registry_ca_file": str(ca_file)})
    assert _fields(caught) == ["registry_ca_file"], "of no use without an address"
    ca_file.write_text("no certificate")
    for bad in (ca_file, tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidSpec) as caught:
            parse({**given, "registry_ca_file": str(bad)})
        assert _fields(caught) == ["registry_ca_file"]


@pytest.mark.parametrize("content", [b"[1, 2]", b"a: [", b"\xff\xfe\x00", b"data_dir: 5", b""])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidSpec) as caught:
        load(file)
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        load(tmp_path / "none")
    assert str(tmp_path / "none") in caught.value.message


def test_the_authority_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    made = keys.authority(folder)
    assert keys.authority(folder).digest() == made.digest()
    assert os.stat(folder).st_mode & 0o777 == 0o700
    for file in folder.iterdir():
        if file.suffix == ".key":
            assert file.stat().st_mode & 0o077 == 0, file


def test_a_broken_authority_is_not_replaced(tmp_path: Path) -> None:
    """A new one would lock out every host; the operator must know."""
    keys.authority(tmp_path)
    (file,) = [f for f in tmp_path.iterdir() if f.suffix == ".crt"]
    file.write_text("garbage")
    with pytest.raises(MoorageError):
        keys.authority(tmp_path)


def test_the_servers_certificate(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    ca = Authority.create("test")
    names = ("cp.example.org", "192.0.2.1", "fd00::1")
    first = keys.server_identity(tmp_path, ca, names, clock)
    assert keys.server_identity(tmp_path, ca, names[:1], clock) == first
    assert keys.server_identity(tmp_path, ca, ("fd00:0::0:1",), clock) == first, "one address, two spellings"
    certificate = x509.load_pem_x509_certificate(first.cert_pem)
    names_of = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names_of.get_values_for_type(x509.DNSName) == ["cp.example.org"]
    more = keys.server_identity(tmp_path, ca, (*names, "other.example.org"), clock)
    assert more != first
    assert keys.server_identity(tmp_path, ca, names, clock) == more
    end = certificate_facts(more.cert_pem).not_after
    clock.advance((end - clock.now() - timedelta(days=59)).total_seconds())
    assert keys.server_identity(tmp_path, ca, names, clock) != more, "it would end soon"


def test_a_certificate_of_another_authority_is_made_anew(tmp_path: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    first = keys.server_identity(tmp_path, Authority.create("one"), ("a",), clock)
    other = Authority.create("two")
    second = keys.server_identity(tmp_path, other, ("a",), clock)
    assert second != first
    assert other.has_issued(second.cert_pem)


def test_what_signs_registry_tokens_is_kept(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    one = keys.registry_tokens(tmp_path)
    token = one.issue("host x", [Grant("p/r", frozenset({"pull"}))], 60, now)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["sub"]) == (keys.ISSUER, keys.REGISTRY_SERVICE, "host x")
    again = keys.registry_tokens(tmp_path)
    header = jwt.get_unverified_header(token)
    assert jwt.get_unverified_header(again.issue("y", [], 60, now))["x5c"] == header["x5c"]
    ca = keys.authority(tmp_path / "ca")
    assert not ca.has_issued((tmp_path / "registry-tokens.crt").read_bytes()), "never by the hosts' authority"

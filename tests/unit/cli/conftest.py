"""A control plane for each test, one certificate for all, and `moor` as a function."""

import datetime
import ipaddress
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc is loaded: a server that stops makes it talk

from cli.main import moor as root
from tests.unit.cli.plane import KEY, Plane, serve

Moor = Callable[..., Result]


@dataclass(frozen=True)
class Certificate:
    """Of 127.0.0.1, signed by itself."""

    key_pem: bytes
    pem: bytes


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "moorage test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(key_pem, made.public_bytes(serialization.Encoding.PEM))


@dataclass
class Served:
    """A control plane that answers."""

    plane: Plane
    address: str
    ca_file: Path


@pytest.fixture
def served(certificate: Certificate, tmp_path: Path) -> Iterator[Served]:
    plane = Plane()
    server, port = serve(plane, certificate.key_pem, certificate.pem)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(certificate.pem)
    yield Served(plane, f"127.0.0.1:{port}", ca_file)
    server.stop(None).wait()


@pytest.fixture
def plane(served: Served) -> Plane:
    return served.plane


@pytest.fixture
def environment(served: Served, tmp_path: Path) -> dict[str, str]:
    return {
        "MOORAGE_ADDRESS": served.address,
        "MOORAGE_API_KEY": KEY,
        "MOORAGE_CA_FILE": str(served.ca_file),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


@pytest.fixture
def moor(environment: dict[str, str]) -> Moor:
    """Run moor; `code` is the exit code that is expected."""

    def run(*words: str, code: int = 0, input: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        result = CliRunner().invoke(
            root, list(words), input=input, env={**environment, **(env or {})}, prog_name="moor"
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run

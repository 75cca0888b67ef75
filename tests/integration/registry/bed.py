"""A real `docker-registry` on 127.0.0.1 for tests, with a certificate authority, tokens and clients of its own."""

import datetime
import ipaddress
import os
import shutil
import ssl
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controlplane.registry.auth import IssuedTokens
from controlplane.registry.client import RegistryClient
from controlplane.registry.managed import PROGRAM, ManagedRegistry
from controlplane.registry.tokens import Grant, RegistryTokens, create_signing_identity
from tests.support.free_ports import free_ports


def require_registry() -> None:
    """Skip the calling test where the registry's program is missing; fail where MOORAGE_REQUIRE asks for `docker`."""
    if shutil.which(PROGRAM) is not None:
        return
    if "docker" in os.environ.get("MOORAGE_REQUIRE", "").split(","):
        pytest.fail(f"{PROGRAM} is not installed")
    pytest.skip(f"{PROGRAM} is not installed")


def now() -> datetime.datetime:
    """The time, with its zone."""
    return datetime.datetime.now(datetime.UTC)


class RegistryBed:
    """Keys, certificate and a ManagedRegistry (not started) in one folder."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_ports(1)[0]
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry test")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - datetime.timedelta(minutes=5))
            .not_valid_after(now() + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.certificate_file = folder / "server.crt"
        self.key_file = folder / "server.key"
        self.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        signing_key, signing_certificate = create_signing_identity("moorage registry tokens", now())
        self.tokens = RegistryTokens(
            signing_key, issuer="moorage", service="moorage-registry", certificate_chain=[signing_certificate]
        )
        self.registry = self.new_registry()
        self.ssl_context = ssl.create_default_context(cafile=str(self.certificate_file))

    def new_registry(self, *, check_period_seconds: float = 10.0) -> ManagedRegistry:
        """A second handle on the same data, as a control plane that was started again has."""
        return ManagedRegistry(
            data_dir=self.folder / "registry",
            listen=f"127.0.0.1:{self.port}",
            certificate_file=self.certificate_file,
            key_file=self.key_file,
            tokens=self.tokens,
            check_period_seconds=check_period_seconds,
        )

    async def token_for(self, repository: str, actions: frozenset[str]) -> str:
        """What the control plane's token service will answer."""
        return self.tokens.issue("test", [Grant(repository, actions)], 300, now())

    def new_session(self) -> aiohttp.ClientSession:
        """An HTTP session that trusts the bed's certificate."""
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.ssl_context))

    def new_client(self, session: aiohttp.ClientSession) -> RegistryClient:
        """A client with every permission."""

        async def issue(grants: tuple[Grant, ...]) -> str:
            return self.tokens.issue("test", grants, 300, now())

        return RegistryClient(self.registry.url, session=session, auth=IssuedTokens(issue), backoff_seconds=0.05)

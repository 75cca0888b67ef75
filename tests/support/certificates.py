"""Certificates for tests: self-signed, or issued by a chain."""

import datetime
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Made:
    """A certificate, its key, and what makes it an issuer."""

    certificate_pem: str
    private_key_pem: str
    certificate: x509.Certificate
    key: Any


def make(
    name: str,
    *,
    issuer: Made | None = None,
    days: float = 1.0,
    now: datetime.datetime | None = None,
    key: Any = None,
) -> Made:
    """One for this name, valid for this long from a minute ago."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = now or datetime.datetime.now(datetime.UTC)
    begin = now - datetime.timedelta(minutes=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(begin, begin + datetime.timedelta(days=days - 1)))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Made(certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode(), certificate, key)


def trusting(*certificates: str) -> ssl.SSLContext:
    """A client that believes these certificates (PEM) and no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for pem in certificates:
        context.load_verify_locations(cadata=pem)
    return context

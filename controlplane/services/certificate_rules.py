"""Certificates that users give to balancers: whether each can be used, and how it is kept. Pure.

What is kept is written anew from what was read, block by block, so a private key that somebody put among the certificates can neither
be stored nor read back as one. No sentence here quotes what it speaks of.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from moorage.errors import FieldViolation
from moorage.router_bundle import Certificate

LARGEST_PEM = 128 * 1024
LEAST_RSA_BITS = 2048

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_PRIVATE_KEYS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)


@dataclass(frozen=True, slots=True)
class _Wrong(Exception):
    problem: str
    reason: str = "CERTIFICATE_INVALID"


def admit(
    wanted: Sequence[Certificate], held: Iterable[Certificate], now: datetime, field: str
) -> tuple[tuple[Certificate, ...], list[FieldViolation]]:
    """The certificates as they are kept, and what is wrong with them.

    Args:
        held: those that the balancer has; one of them that comes without its key keeps it, and may have ended meanwhile.
        field: path of the list in the request.
    """
    keys = {certificate.certificate_pem: certificate.private_key_pem for certificate in held}
    admitted: list[Certificate] = []
    violations: list[FieldViolation] = []
    for index, certificate in enumerate(wanted):
        where = f"{field}[{index}]"
        try:
            chain = _chain(certificate.certificate_pem)
        except _Wrong as wrong:
            violations.append(FieldViolation(f"{where}.certificate_pem", wrong.problem, wrong.reason))
            continue
        pem = _pem(chain)
        if pem in keys and certificate.private_key_pem in ("", keys[pem]):
            admitted.append(Certificate(pem, keys[pem]))
            continue
        if now >= chain[0].not_valid_after_utc:
            text = f"ended at {chain[0].not_valid_after_utc:%Y-%m-%d %H:%M} UTC; give its successor"
            violations.append(FieldViolation(f"{where}.certificate_pem", text, "CERTIFICATE_EXPIRED"))
        try:
            key = _key(certificate.private_key_pem, chain[0])
        except _Wrong as wrong:
            violations.append(FieldViolation(f"{where}.private_key_pem", wrong.problem, wrong.reason))
            continue
        admitted.append(Certificate(pem, key))
    return tuple(admitted), violations


def without_key(certificate: Certificate) -> Certificate:
    """As users may read it."""
    return replace(certificate, private_key_pem="")


def ended(certificate: Certificate, now: datetime) -> datetime | None:
    """When a certificate that is kept has ended; None: it has not."""
    end = _chain(certificate.certificate_pem)[0].not_valid_after_utc
    return end if now >= end else None


def _chain(pem: str) -> list[x509.Certificate]:
    if not pem.strip():
        raise _Wrong("is required", "REQUIRED")
    if len(pem) > LARGEST_PEM:
        raise _Wrong(f"is longer than {LARGEST_PEM} bytes", "OUT_OF_RANGE")
    if "PRIVATE KEY" in pem:
        raise _Wrong("holds a private key; that belongs into private_key_pem, where nobody can read it back")
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise _Wrong("is no certificate in PEM") from None
    for number, (one, issuer) in enumerate(itertools.pairwise(chain), start=1):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            text = f"certificate {number + 1} did not issue certificate {number}; put the server's first, then its issuer, then that one's"
            raise _Wrong(text) from None
    return chain


def _key(pem: str, certificate: x509.Certificate) -> str:
    if not pem.strip():
        raise _Wrong("is required: this certificate is new here", "REQUIRED")
    if len(pem) > LARGEST_PEM:
        raise _Wrong(f"is longer than {LARGEST_PEM} bytes", "OUT_OF_RANGE")
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except TypeError:
        raise _Wrong("is encrypted; give it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _Wrong("is no private key in PEM") from None
    if not isinstance(key, _PRIVATE_KEYS):
        raise _Wrong("is of a kind that TLS has no use for; use RSA, EC or Ed25519")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < LEAST_RSA_BITS:
        raise _Wrong(f"has {key.key_size} bits; RSA needs {LEAST_RSA_BITS}")
    if key.public_key() != certificate.public_key():
        raise _Wrong("is not the key of the certificate")
    return _private_pem(key)


def _pem(chain: Iterable[x509.Certificate]) -> str:
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in chain)


def _private_pem(key: _PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

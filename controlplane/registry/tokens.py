"""Registry tokens: what the control plane signs and the registry believes.

The registry knows no users. It lets a request through when it carries a JWT that names the repository and the action,
signed by a key whose certificate is in its trust bundle. So every permission is decided by the control plane, where
projects and roles are known, and a leaked token opens one repository for minutes.

The certificate chain travels in the token's `x5c` header, which distribution 2.8 and 3 look at first and treat alike.
A `kid` is left out on purpose: 2.8 expects a libtrust fingerprint there and 3 a JWK thumbprint, and neither needs it
beside `x5c`.
"""

import base64
import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from controlplane.registry.names import check_repository

ACTIONS = frozenset({"pull", "push", "delete"})
MAX_LIFETIME_SECONDS = 24 * 3600

_KEY_BITS = 2048
_CERTIFICATE_DAYS = 3650
# The registry allows 60 s of clock difference for `nbf` and `exp`; we start the token a little earlier all the same,
# so that a registry on another machine whose clock is behind does not refuse a fresh one.
_CLOCK_SKEW_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission for some of `pull`, `push` and `delete` on one repository."""

    repository: str
    actions: frozenset[str]


class RegistryTokens:
    """Signs tokens (RS256) for one registry."""

    def __init__(
        self,
        signing_key: rsa.RSAPrivateKey,
        *,
        issuer: str,
        service: str,
        certificate_chain: Sequence[x509.Certificate],
    ) -> None:
        """Args:
            issuer: the `iss` claim; the registry's `auth.token.issuer` must be the same.
            service: the `aud` claim; the registry's `auth.token.service` must be the same.
            certificate_chain: the signing key's certificate first, then its issuers.

        Raises:
            ValueError: the first certificate is not the signing key's.
        """
        if not certificate_chain:
            raise ValueError("a certificate chain needs at least the signing key's certificate")
        if certificate_chain[0].public_key() != signing_key.public_key():
            raise ValueError("the first certificate of the chain does not belong to the signing key")
        self._key = signing_key
        self.issuer = issuer
        self.service = service
        self._x5c = [
            base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
            for certificate in certificate_chain
        ]
        self.trust_bundle_pem = b"".join(
            certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificate_chain
        )

    def issue(self, subject: str, grants: Sequence[Grant], lifetime_seconds: float, now: datetime.datetime) -> str:
        """A signed token.

        Args:
            subject: who asked (`host:<uid>`, `controlplane`); for the registry's log only.
            grants: what the bearer may do; empty is allowed and opens only the `/v2/` ping.
            lifetime_seconds: 0 < lifetime <= one day.
            now: an aware time.

        Raises:
            ValueError: unknown action, bad lifetime, or a time without a zone.
            InvalidSpec: a grant's repository is no repository name.
        """
        if not 0 < lifetime_seconds <= MAX_LIFETIME_SECONDS:
            raise ValueError(f"a token lives between 0 and {MAX_LIFETIME_SECONDS} seconds, not {lifetime_seconds}")
        if now.tzinfo is None:
            raise ValueError("now must carry a time zone")
        access = []
        for grant in grants:
            unknown = grant.actions - ACTIONS
            if unknown:
                raise ValueError(f"unknown registry actions: {', '.join(sorted(unknown))}")
            access.append(
                {"type": "repository", "name": check_repository(grant.repository), "actions": sorted(grant.actions)}
            )
        issued_at = int(now.timestamp())
        claims = {
            "iss": self.issuer,
            "sub": subject,
            "aud": self.service,
            "iat": issued_at,
            "nbf": issued_at - _CLOCK_SKEW_SECONDS,
            "exp": issued_at + max(1, int(lifetime_seconds)),
            "jti": secrets.token_hex(16),
            "access": access,
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"x5c": self._x5c})


def create_signing_identity(common_name: str, now: datetime.datetime) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A new RSA key and a self-signed certificate for it: all that a registry of our own has to trust."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate

"""Certificates of an installation: its authority, and what hosts, servers and the registry's token signer get of it.

Rules that safety hangs on:
- Of a host's request only the public key is used, and only after the request's own signature was checked. Subject,
  alternative names and usages are ours: a machine must not choose who it is.
- A host certificate carries the host's id as subject and as the URI `moorage://host/<uid>`, and never a DNS name or
  an IP address, so it cannot pass for the control plane although it may serve (agents listen on their loopback
  proxy). Where there is no DNS name OpenSSL compares the common name (seen), so that too must be ours and random,
  never the host's name.
- Removing a host does not revoke its certificate; the control plane refuses an unknown uid on each connection instead.

PEM goes in as `str` or `bytes` and comes out as `bytes`, which is what gRPC takes. Times are aware UTC.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moorage.errors import Forbidden, InvalidSpec, Unauthenticated
from moorage.pem import (
    Identity as Identity,  # part of the interface of this module
)
from moorage.pem import (
    PublicKey,
    as_bytes,
    load_certificate,
    load_private_key,
    private_pem,
    require_pair,
)

HOST_URI_PREFIX: Final = "moorage://host/"
HOST_CERTIFICATE_DAYS: Final = 30
AUTHORITY_DAYS: Final = 3650
RENEWAL_FRACTIONS: Final = (0.5, 0.8)

# Hosts whose clock is a little behind must accept a certificate that was made just now.
_BACKDATE = timedelta(minutes=5)
_MINIMUM_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says. `host_uid` is empty for one that is not a host's. `serial` is lower-case hex."""

    host_uid: str
    not_before: datetime
    not_after: datetime
    serial: str


class Authority:
    """The certificate authority of one installation: EC P-256, one level, no intermediates."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, common_name: str, *, days: int = AUTHORITY_DAYS, now: datetime | None = None) -> Self:
        """A new authority that signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(common_name)
        builder = _builder(subject, subject, key.public_key(), days, now)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cert_pem: str | bytes, key_pem: str | bytes) -> Self:
        """An authority from its PEMs.

        Raises:
            InvalidSpec: not PEM, not an EC key, not an authority's certificate, or the two do not belong together.
        """
        certificate = load_certificate(cert_pem)
        key = load_private_key(key_pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidSpec.of("key_pem", "the authority's key must be an EC key", "CERTIFICATE_INVALID")
        require_pair(certificate, key)
        try:
            is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority:
            raise InvalidSpec.of("cert_pem", "this certificate may not sign others", "CERTIFICATE_INVALID")
        return cls(certificate, key)

    @classmethod
    def load_folder(cls, folder: Path, name: str = "authority") -> Self:
        """Read what `save` wrote; raises as `Identity.load_pair` and `load` do."""
        identity = Identity.load_pair(folder, name)
        return cls.load(identity.cert_pem, identity.key_pem)

    def save(self, folder: Path, name: str = "authority") -> None:
        """Write `authority.crt` and `authority.key` (0600) into an existing folder."""
        Identity(self.cert_pem, self.key_pem).save_pair(folder, name)

    @property
    def cert_pem(self) -> bytes:
        """The public part."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The secret part, unencrypted."""
        return private_pem(self._key)

    def digest(self) -> str:
        """`sha256:<hex>` of the certificate's DER; what a join token pins."""
        return certificate_digest(self.cert_pem)

    def issue_server(self, names: Sequence[str], *, days: int = 365, now: datetime | None = None) -> Identity:
        """A key and certificate for a server that is reached under `names`: DNS names or IP addresses, at least one.

        Raises:
            InvalidSpec: no name, or one that is neither.
        """
        if not names:
            raise InvalidSpec.of("names", "a server certificate needs at least one name", "REQUIRED")
        alternatives = [_alternative_name(index, name) for index, name in enumerate(names)]
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._leaf(_subject(names[0][:64]), key.public_key(), days, now, [ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return Identity(self._sign(builder), private_pem(key))

    @staticmethod
    def issue_signing(common_name: str, *, days: int = 365, now: datetime | None = None) -> Identity:
        """A key and certificate for signing the registry's tokens: RSA 2048, since it wants RS256; no TLS usage.

        Signed by itself and not by the authority. A registry lets in whatever is signed by anything below its trust
        bundle: with the authority in there, every host could sign tokens for itself (seen with distribution 2.8.2).
        """
        key = rsa.generate_private_key(public_exponent=65537, key_size=_MINIMUM_RSA_BITS)
        subject = _subject(common_name)
        builder = _builder(subject, subject, key.public_key(), days, now)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        return Identity(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), private_pem(key))

    def sign_host_request(
        self,
        csr_pem: str | bytes,
        host_uid: str,
        host_name: str,
        *,
        days: int = HOST_CERTIFICATE_DAYS,
        now: datetime | None = None,
    ) -> bytes:
        """A host's certificate (PEM) for the public key of its request; everything else in the request is ignored.

        Args:
            host_uid: becomes the common name and the URI; 1-64 letters, digits or dashes.
            host_name: goes into the subject for people who read it; nothing is decided by it.
        Raises:
            InvalidSpec: not a request, one whose signature is bad, or one with a weak or unknown kind of key.
        """
        if not (0 < len(host_uid) <= 64 and host_uid.isascii() and host_uid.replace("-", "").isalnum()):
            raise ValueError("host_uid must be 1-64 letters, digits or dashes")
        public_key = _request_key(csr_pem)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = self._leaf(_subject(host_uid, unit=host_name), public_key, days, now, usages)
        uri = x509.UniformResourceIdentifier(HOST_URI_PREFIX + host_uid)
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        return self._sign(builder)

    def has_issued(self, cert_pem: str | bytes) -> bool:
        """Whether this authority signed the certificate; says nothing of its time.

        Raises:
            InvalidSpec: not a certificate.
        """
        try:
            load_certificate(cert_pem).verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def verify(self, cert_pem: str | bytes, *, now: datetime) -> CertificateFacts:
        """The facts of a certificate that is ours and valid now.

        Raises:
            InvalidSpec: not a certificate.
            Unauthenticated: CERTIFICATE_FOREIGN or CERTIFICATE_EXPIRED (or not valid yet).
        """
        if not self.has_issued(cert_pem):
            raise Unauthenticated(
                "the certificate was not issued by this installation; enroll the host again",
                reason="CERTIFICATE_FOREIGN",
            )
        facts = certificate_facts(cert_pem)
        if not facts.not_before <= now <= facts.not_after:
            raise Unauthenticated(
                f"the certificate is valid from {facts.not_before.isoformat()} to {facts.not_after.isoformat()}; "
                "check the clock, or enroll the host again",
                reason="CERTIFICATE_EXPIRED",
            )
        return facts

    def verify_host(self, cert_pem: str | bytes, *, now: datetime) -> CertificateFacts:
        """As `verify`, and the certificate is a host's.

        Raises:
            Forbidden: AGENT_ONLY, it is ours but not a host's.
        """
        facts = self.verify(cert_pem, now=now)
        if not facts.host_uid:
            raise Forbidden("this certificate is not a host's", reason="AGENT_ONLY")
        return facts

    def _leaf(
        self,
        subject: x509.Name,
        public_key: PublicKey,
        days: int,
        now: datetime | None,
        usages: list[x509.ObjectIdentifier],
    ) -> x509.CertificateBuilder:
        builder = _builder(
            subject, self._certificate.subject, public_key, days, now, self._certificate.not_valid_after_utc
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer_key, critical=False)
        return builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def generate_request(common_name: str) -> tuple[bytes, bytes]:
    """A new EC P-256 key and a request for it: (key PEM, request PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject(common_name)).sign(key, hashes.SHA256())
    return private_pem(key), request.public_bytes(Encoding.PEM)


def request_key_digest(csr_pem: str | bytes) -> str:
    """`sha256:<hex>` of the public key that a request asks for: tells a repeated request from another machine's.

    Raises:
        InvalidSpec: as `Authority.sign_host_request`.
    """
    return _sha256(_request_key(csr_pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def certificate_digest(cert_pem: str | bytes) -> str:
    """`sha256:<hex>` of the certificate's DER.

    Raises:
        InvalidSpec: not a certificate.
    """
    return _sha256(load_certificate(cert_pem).public_bytes(Encoding.DER))


def certificate_facts(cert_pem: str | bytes) -> CertificateFacts:
    """Read a certificate without judging it.

    Raises:
        InvalidSpec: not a certificate, or one whose URI and common name are of two hosts.
    """
    certificate = load_certificate(cert_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    uids = [uri.removeprefix(HOST_URI_PREFIX) for uri in uris if uri.startswith(HOST_URI_PREFIX)]
    common_names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if uids and uids != common_names:
        raise InvalidSpec.of("certificate", "its names are of more than one host", "CERTIFICATE_INVALID")
    return CertificateFacts(
        host_uid=uids[0] if uids else "",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:x}",
    )


def renewal_time(not_before: datetime, not_after: datetime, random_fraction: float) -> datetime:
    """When to renew: at `random_fraction` (0.5-0.8) of the certificate's life, so that a fleet does not renew at once.

    Raises:
        ValueError: the fraction is outside 0.5-0.8.
    """
    lowest, highest = RENEWAL_FRACTIONS
    if not lowest <= random_fraction <= highest:
        raise ValueError(f"random_fraction must be {lowest}-{highest}")
    return not_before + (not_after - not_before) * random_fraction


def _request_key(csr_pem: str | bytes) -> PublicKey:
    problem = "not a certificate request in PEM"
    try:
        request = x509.load_pem_x509_csr(as_bytes(csr_pem))
        problem = "its own signature does not match"
        is_genuine = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise InvalidSpec.of("certificate_request_pem", problem, "CERTIFICATE_REQUEST_INVALID") from exc
    if not is_genuine:
        raise InvalidSpec.of("certificate_request_pem", problem, "CERTIFICATE_REQUEST_INVALID")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MINIMUM_RSA_BITS:
        return key
    raise InvalidSpec.of(
        "certificate_request_pem",
        "the key must be EC P-256, EC P-384 or RSA of 2048 bits",
        "CERTIFICATE_REQUEST_INVALID",
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    days: int,
    now: datetime | None,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    if days < 1:
        raise ValueError("days must be at least 1")
    start = (now or datetime.now(UTC)).astimezone(UTC)
    end = start + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATE)
        .not_valid_after(min(end, latest) if latest else end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(common_name: str, *, unit: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if unit:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit[:64]))
    return x509.Name(attributes)


def _alternative_name(index: int, name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass  # then it must be a DNS name
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_is_dns_label(label) for label in labels):
        raise InvalidSpec.of(f"names[{index}]", f"{name!r} is neither a DNS name nor an IP address", "INVALID_NAME")
    return x509.DNSName(name)


def _is_dns_label(label: str) -> bool:
    is_plain = label.isascii() and label.replace("-", "").replace("_", "").isalnum()
    return 0 < len(label) <= 63 and is_plain and not label.startswith("-") and not label.endswith("-")


def _sha256(data: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return "sha256:" + digest.finalize().hex()

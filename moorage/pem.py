"""PEM and files: a certificate with its private key, read and written so that a key is never open to others.

The layer below `moorage/tls.py`, which decides what certificates say. PEM goes in as `str` or `bytes`, out as `bytes`.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from moorage.errors import InvalidSpec

_CERTIFICATE_FILE: Final = "{name}.crt"
_KEY_FILE: Final = "{name}.key"
_KEY_START: Final = b"-----BEGIN PRIVATE KEY-----"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key, both PEM. The key is left out of `repr`."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    def save(self, path: Path) -> None:
        """Write both into one file (0600), atomically and durably; the folder must exist.

        One file, because a host that renews and dies between two writes would be left with a pair that does not match.
        """
        _write_file(path, self.cert_pem + self.key_pem, mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
            InvalidSpec: it does not hold a certificate and its key.
        """
        text = path.read_bytes()
        start = max(text.find(_KEY_START), 0)
        identity = cls(text[:start], text[start:])
        require_pair(load_certificate(identity.cert_pem), load_private_key(identity.key_pem))
        return identity

    def save_pair(self, folder: Path, name: str) -> None:
        """Write `<name>.crt` (0644) and `<name>.key` (0600), for programs that want two files. The key comes first."""
        _write_file(folder / _KEY_FILE.format(name=name), self.key_pem, mode=0o600)
        _write_file(folder / _CERTIFICATE_FILE.format(name=name), self.cert_pem, mode=0o644)

    @classmethod
    def load_pair(cls, folder: Path, name: str) -> Self:
        """Read what `save_pair` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
            InvalidSpec: certificate and key do not belong together (a crash between the two writes).
        """
        identity = cls(
            (folder / _CERTIFICATE_FILE.format(name=name)).read_bytes(),
            (folder / _KEY_FILE.format(name=name)).read_bytes(),
        )
        require_pair(load_certificate(identity.cert_pem), load_private_key(identity.key_pem))
        return identity


def load_certificate(pem: str | bytes) -> x509.Certificate:
    """The first certificate in `pem`.

    Raises:
        InvalidSpec: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(as_bytes(pem))
    except ValueError as exc:
        raise InvalidSpec.of("certificate", "not a certificate in PEM", "CERTIFICATE_INVALID") from exc


def load_private_key(pem: str | bytes) -> PrivateKey:
    """An unencrypted EC or RSA key.

    Raises:
        InvalidSpec: something else.
    """
    try:
        key = load_pem_private_key(as_bytes(pem), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise InvalidSpec.of("key", "not an unencrypted private key in PEM", "CERTIFICATE_INVALID") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidSpec.of("key", "neither an EC nor an RSA key", "CERTIFICATE_INVALID")
    return key


def require_pair(certificate: x509.Certificate, key: PrivateKey) -> None:
    """Refuse a certificate of another key.

    Raises:
        InvalidSpec: they do not belong together.
    """
    if certificate.public_key() != key.public_key():
        raise InvalidSpec.of("key", "certificate and key do not belong together", "CERTIFICATE_INVALID")


def private_pem(key: PrivateKey) -> bytes:
    """PKCS 8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def as_bytes(pem: str | bytes) -> bytes:
    """PEM as the cryptography library takes it."""
    return pem.encode() if isinstance(pem, str) else pem


def _write_file(path: Path, data: bytes, *, mode: int) -> None:
    # mkstemp makes 0600 from the start: a secret must not be readable even for a moment.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

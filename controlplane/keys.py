"""Keys and certificates of the installation, made at first start and kept in the data folder."""

import ipaddress
import logging
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from controlplane.registry.tokens import RegistryTokens
from moorage.clock import Clock
from moorage.errors import Internal
from moorage.tls import Authority, Identity, certificate_facts

log = logging.getLogger(__name__)

ISSUER = "moorage"
REGISTRY_SERVICE = "moorage-registry"
_SERVER_DAYS = 365
_RENEW_BEFORE = timedelta(days=60)


def authority(folder: Path) -> Authority:
    """The installation's certificate authority."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return Authority.load_folder(folder)
    except FileNotFoundError:
        made = Authority.create("Moorage")
        made.save(folder)
        return made


def server_identity(folder: Path, ca: Authority, names: tuple[str, ...], clock: Clock) -> Identity:
    """The certificate of this machine; made anew when it ends soon or names are missing from it."""
    try:
        found = Identity.load_pair(folder, "server")
        is_good = _covers(found, names) and certificate_facts(found.cert_pem).not_after - clock.now() > _RENEW_BEFORE
        if is_good and ca.has_issued(found.cert_pem):
            return found
        log.info("the server's certificate is made anew")
    except FileNotFoundError:
        log.debug("no server certificate yet")
    identity = ca.issue_server(names, days=_SERVER_DAYS)
    identity.save_pair(folder, "server")
    return identity


def _covers(identity: Identity, names: tuple[str, ...]) -> bool:
    certificate = x509.load_pem_x509_certificate(identity.cert_pem)
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    present = {str(address) for address in extension.get_values_for_type(x509.IPAddress)}
    present |= set(extension.get_values_for_type(x509.DNSName))
    return {_normal(name) for name in names} <= present


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def registry_tokens(folder: Path) -> RegistryTokens:
    """What signs the tokens that the registry believes; signed by itself, never by the authority (see moorage.tls)."""
    try:
        identity = Identity.load_pair(folder, "registry-tokens")
    except FileNotFoundError:
        identity = Authority.issue_signing("moorage registry tokens", days=3650)
        identity.save_pair(folder, "registry-tokens")
    key = load_pem_private_key(identity.key_pem, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Internal("the key that signs registry tokens is no RSA key")
    certificate = x509.load_pem_x509_certificate(identity.cert_pem)
    return RegistryTokens(key, issuer=ISSUER, service=REGISTRY_SERVICE, certificate_chain=[certificate])

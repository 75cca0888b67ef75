"""Certificates: what is in them, who believes them, and real handshakes (in memory, without sockets)."""

import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Forbidden, InvalidSpec, Unauthenticated
from moorage.tls import (
    Authority,
    Identity,
    certificate_digest,
    certificate_facts,
    generate_request,
    renewal_time,
    request_key_digest,
)

NOW = datetime.now(UTC).replace(microsecond=0)
UID = "habcdefg23"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("Moorage test", now=NOW)


@pytest.fixture(scope="module")
def host(authority: Authority) -> Identity:
    key_pem, csr_pem = generate_request("anything")
    return Identity(authority.sign_host_request(csr_pem, UID, "h1", now=NOW), key_pem)


def extension(cert_pem: bytes, kind: type[x509.ExtensionType]) -> x509.ExtensionType:
    return x509.load_pem_x509_certificate(cert_pem).extensions.get_extension_for_class(kind).value


def test_host_certificate_says_who_the_host_is(authority: Authority, host: Identity) -> None:
    facts = certificate_facts(host.cert_pem)
    assert facts.host_uid == UID
    assert facts.not_after == NOW + timedelta(days=30)
    assert facts.not_before < NOW
    assert int(facts.serial, 16) > 0
    assert authority.verify_host(host.cert_pem.decode(), now=NOW) == facts
    certificate = x509.load_pem_x509_certificate(host.cert_pem)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == UID
    usages = extension(host.cert_pem, x509.ExtendedKeyUsage)
    assert isinstance(usages, x509.ExtendedKeyUsage)
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    constraints = extension(host.cert_pem, x509.BasicConstraints)
    assert isinstance(constraints, x509.BasicConstraints)
    assert not constraints.ca


def test_only_the_key_of_a_request_is_taken(authority: Authority) -> None:
    """A machine that asks to be the control plane, another host, or an authority gets none of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("controlplane"), x509.UniformResourceIdentifier("moorage://host/another")]
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_pem = authority.sign_host_request(greedy.public_bytes(Encoding.PEM), UID, "controlplane", now=NOW)
    names_given = extension(cert_pem, x509.SubjectAlternativeName)
    assert isinstance(names_given, x509.SubjectAlternativeName)
    assert list(names_given) == [x509.UniformResourceIdentifier(f"moorage://host/{UID}")]
    assert certificate_facts(cert_pem).host_uid == UID
    assert x509.load_pem_x509_certificate(cert_pem).public_key() == key.public_key()


def test_request_with_a_foreign_signature_is_refused(authority: Authority) -> None:
    """Somebody else's public key in a request of one's own: a stranger must not get a certificate for it."""
    _, csr_pem = generate_request("x")
    request = x509.load_pem_x509_csr(csr_pem)
    own, other = (
        key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in (request.public_key(), ec.generate_private_key(ec.SECP256R1()).public_key())
    )
    der = request.public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(der.replace(own, other)).public_bytes(Encoding.PEM)
    with pytest.raises(InvalidSpec, match="signature"):
        authority.sign_host_request(forged, UID, "h1", now=NOW)
    with pytest.raises(InvalidSpec, match="signature"):
        request_key_digest(forged)


@pytest.mark.parametrize(
    "pem", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", b"\xff"]
)
def test_no_request_at_all(authority: Authority, pem: str | bytes) -> None:
    with pytest.raises(InvalidSpec) as caught:
        authority.sign_host_request(pem, UID, "h1", now=NOW)
    assert caught.value.reason == "CERTIFICATE_REQUEST_INVALID"


@pytest.mark.parametrize("kind", ["rsa1024", "secp256k1", "ed25519"])
def test_weak_or_odd_keys_are_refused(authority: Authority, kind: str) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if kind == "rsa1024":
        request = builder.sign(rsa.generate_private_key(public_exponent=65537, key_size=1024), hashes.SHA256())
    elif kind == "ed25519":
        request = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    else:
        request = builder.sign(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256())
    with pytest.raises(InvalidSpec):
        authority.sign_host_request(request.public_bytes(Encoding.PEM), UID, "h1", now=NOW)


@pytest.mark.parametrize("uid", ["", "a/b", "a b", "ü", "x" * 65])
def test_a_bad_uid_is_our_own_bug(authority: Authority, uid: str) -> None:
    with pytest.raises(ValueError):
        authority.sign_host_request(generate_request("x")[1], uid, "h1")


def test_foreign_expired_and_early_certificates(authority: Authority, host: Identity) -> None:
    other = Authority.create("Moorage test", now=NOW)  # the same name, another key
    with pytest.raises(Unauthenticated) as caught:
        other.verify_host(host.cert_pem, now=NOW)
    assert caught.value.reason == "CERTIFICATE_FOREIGN"
    assert not other.has_issued(host.cert_pem)
    for moment in (NOW + timedelta(days=31), NOW - timedelta(hours=1)):
        with pytest.raises(Unauthenticated) as caught:
            authority.verify_host(host.cert_pem, now=moment)
        assert caught.value.reason == "CERTIFICATE_EXPIRED"
    server = authority.issue_server(["localhost"], now=NOW)
    with pytest.raises(Forbidden):
        authority.verify_host(server.cert_pem, now=NOW)
    with pytest.raises(InvalidSpec):
        authority.verify("nonsense", now=NOW)


def test_a_certificate_never_outlives_its_authority() -> None:
    short = Authority.create("short", days=10, now=NOW)
    facts = certificate_facts(short.sign_host_request(generate_request("x")[1], UID, "h1", now=NOW))
    assert facts.not_after == certificate_facts(short.cert_pem).not_after


def test_saved_and_loaded(tmp_path: Path, authority: Authority) -> None:
    old_mask = os.umask(0)  # the mode must not depend on it
    try:
        authority.save(tmp_path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE((tmp_path / "authority.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "authority.crt").stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority.crt", "authority.key"]
    loaded = Authority.load_folder(tmp_path)
    assert loaded.digest() == authority.digest() == certificate_digest(authority.cert_pem)
    assert loaded.digest().startswith("sha256:")
    assert len(loaded.digest()) == 71
    assert authority.has_issued(loaded.sign_host_request(generate_request("x")[1], UID, "h1"))


def test_load_refuses_what_is_no_authority(tmp_path: Path, authority: Authority, host: Identity) -> None:
    other = Authority.create("other")
    for cert_pem, key_pem in [
        (authority.cert_pem, other.key_pem),
        (host.cert_pem, host.key_pem),
        (b"nonsense", authority.key_pem),
        (authority.cert_pem, b"nonsense"),
        (authority.cert_pem, authority.issue_signing("x").key_pem),
    ]:
        with pytest.raises(InvalidSpec):
            Authority.load(cert_pem, key_pem)
    with pytest.raises(FileNotFoundError):
        Authority.load_folder(tmp_path)
    mixed = Identity(host.cert_pem, other.key_pem)
    mixed.save_pair(tmp_path, "host")
    mixed.save(tmp_path / "host.pem")
    with pytest.raises(InvalidSpec, match="belong together"):
        Identity.load_pair(tmp_path, "host")
    with pytest.raises(InvalidSpec, match="belong together"):
        Identity.load(tmp_path / "host.pem")


def test_identity_in_one_file(tmp_path: Path, authority: Authority, host: Identity) -> None:
    path = tmp_path / "host.pem"
    with pytest.raises(FileNotFoundError):
        Identity.load(path)
    for identity in (host, authority.issue_signing("x"), host):  # each replaces the one before
        identity.save(path)
        assert Identity.load(path) == identity
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["host.pem"]
    for broken in (b"", host.cert_pem, host.key_pem, host.cert_pem + host.key_pem[:60]):
        path.write_bytes(broken)
        with pytest.raises(InvalidSpec):
            Identity.load(path)


def test_identity_hides_its_key(host: Identity) -> None:
    assert "PRIVATE" not in repr(host)


@pytest.mark.parametrize("names", [[], [""], ["a b"], ["-x"], ["a..b"], ["x" * 64], ["10.0.0.1/24"]])
def test_bad_server_names(authority: Authority, names: list[str]) -> None:
    with pytest.raises(InvalidSpec):
        authority.issue_server(names)


def test_request_key_digest_tells_machines_apart() -> None:
    (_, first), (_, second) = generate_request("x"), generate_request("x")
    assert request_key_digest(first) == request_key_digest(first.decode()) != request_key_digest(second)


def test_signing_identity_signs_registry_tokens(authority: Authority) -> None:
    identity = authority.issue_signing("moorage registry tokens", now=NOW)
    text = jwt.encode({"iss": "moorage"}, identity.key_pem, algorithm="RS256")
    public_key = x509.load_pem_x509_certificate(identity.cert_pem).public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    assert jwt.decode(text, public_key, algorithms=["RS256"]) == {"iss": "moorage"}
    # Not below the authority: else the registry would have to trust it, and with it tokens signed by any host.
    assert not authority.has_issued(identity.cert_pem)


@given(
    start=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
    life=st.timedeltas(timedelta(hours=1), timedelta(days=400)),
    fraction=st.floats(0.5, 0.8),
)
def test_renewal_lies_between_half_and_four_fifths(start: datetime, life: timedelta, fraction: float) -> None:
    moment = renewal_time(start, start + life, fraction)
    slack = timedelta(milliseconds=1)
    assert start + life * 0.5 - slack <= moment <= start + life * 0.8 + slack


@pytest.mark.parametrize("fraction", [0.0, 0.49, 0.81, 1.0])
def test_renewal_refuses_other_fractions(fraction: float) -> None:
    with pytest.raises(ValueError):
        renewal_time(NOW, NOW + timedelta(days=1), fraction)


def handshake(
    tmp_path: Path, authority: Authority, server: Identity, client: Identity | None, name: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A mutual TLS handshake between two contexts through memory; raises what either side raises."""
    server.save(tmp_path / "server.pem")
    trust = authority.cert_pem.decode()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(tmp_path / "server.pem")
    server_context.load_verify_locations(cadata=trust)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = ssl.create_default_context(cadata=trust)
    for context in (server_context, client_context):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        client.save(tmp_path / "client.pem")
        client_context.load_cert_chain(tmp_path / "client.pem")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client_context.wrap_bio(down, up, server_hostname=name)
    server_end = server_context.wrap_bio(up, down, server_side=True)
    waiting = [client_end, server_end]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return client_end, server_end
    raise TimeoutError("the handshake does not end")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "cp.example"])
def test_host_and_server_believe_each_other(tmp_path: Path, authority: Authority, host: Identity, name: str) -> None:
    server = authority.issue_server(["localhost", "cp.example", "127.0.0.1", "::1"])
    _, server_end = handshake(tmp_path, authority, server, host, name)
    peer = server_end.getpeercert(binary_form=True)
    assert peer is not None
    assert certificate_facts(ssl.DER_cert_to_PEM_cert(peer)).host_uid == UID


def test_server_wants_a_certificate_of_ours(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue_server(["localhost"])
    stranger_authority = Authority.create("Moorage test")
    key_pem, csr_pem = generate_request("x")
    stranger = Identity(stranger_authority.sign_host_request(csr_pem, UID, "h1"), key_pem)
    for client in (None, stranger):
        with pytest.raises(ssl.SSLError):
            handshake(tmp_path, authority, server, client, "localhost")


@pytest.mark.parametrize("name", ["localhost", "h1", "127.0.0.1"])
def test_a_host_cannot_pass_for_the_control_plane(
    tmp_path: Path, authority: Authority, host: Identity, name: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, authority, host, host, name)


def test_a_server_certificate_is_no_client_certificate(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue_server(["localhost"])
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, authority, server, server, "localhost")

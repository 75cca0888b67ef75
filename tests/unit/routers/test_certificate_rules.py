"""Which certificates can be used, and how they are kept."""

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, rsa

from controlplane.services.certificate_rules import LARGEST_PEM, admit, ended
from moorage.router_bundle import Certificate
from tests.support.certificates import make

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def given(certificate: str, key: str) -> Certificate:
    return Certificate(certificate, key)


def problems(*wanted: Certificate, held: tuple[Certificate, ...] = ()) -> list[tuple[str, str]]:
    _, violations = admit(wanted, held, NOW, "c")
    return [(violation.field, violation.reason) for violation in violations]


def words(wanted: Certificate) -> str:
    return " ".join(violation.problem for violation in admit([wanted], (), NOW, "c")[1])


ONE, OTHER = make("one.test", now=NOW), make("other.test", now=NOW)


def test_a_chain_and_its_key_are_kept_in_one_spelling() -> None:
    root = make("root", now=NOW)
    middle = make("middle", issuer=root, now=NOW)
    leaf = make("leaf.test", issuer=middle, now=NOW)
    chain = leaf.certificate_pem + middle.certificate_pem + root.certificate_pem
    noisy = "subject=CN = leaf\n" + chain.replace("-----BEGIN", "\n\n-----BEGIN")
    assert admit([given(noisy, leaf.private_key_pem)], (), NOW, "c") == ((given(chain, leaf.private_key_pem),), [])
    wrong = given(leaf.certificate_pem + root.certificate_pem, leaf.private_key_pem)
    assert problems(wrong) == [("c[0].certificate_pem", "CERTIFICATE_INVALID")]
    assert "did not issue certificate 1" in words(wrong)


def test_rsa_is_as_good_as_ec() -> None:
    made = make("rsa.test", now=NOW, key=rsa.generate_private_key(65537, 2048))
    assert problems(given(made.certificate_pem, made.private_key_pem)) == []


def test_every_bad_one_is_named() -> None:
    short = make("short.test", now=NOW, key=rsa.generate_private_key(65537, 1024))
    old = make("old.test", now=NOW - timedelta(days=30))
    encrypted = ONE.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    ).decode()
    foreign = (
        dsa.generate_private_key(2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )
    wanted = [
        given(ONE.certificate_pem, OTHER.private_key_pem),
        given("no certificate", ONE.private_key_pem),
        given(ONE.certificate_pem, "no key"),
        given(ONE.certificate_pem, ""),
        given("", ""),
        given(ONE.certificate_pem + ONE.private_key_pem, ONE.private_key_pem),
        given(ONE.certificate_pem, encrypted),
        given(ONE.certificate_pem, foreign),
        given(short.certificate_pem, short.private_key_pem),
        given(old.certificate_pem, old.private_key_pem),
        given("x" * (LARGEST_PEM + 1), ""),
        given(ONE.certificate_pem, ONE.private_key_pem),
    ]
    assert problems(*wanted) == [
        ("c[0].private_key_pem", "CERTIFICATE_INVALID"),
        ("c[1].certificate_pem", "CERTIFICATE_INVALID"),
        ("c[2].private_key_pem", "CERTIFICATE_INVALID"),
        ("c[3].private_key_pem", "REQUIRED"),
        ("c[4].certificate_pem", "REQUIRED"),
        ("c[5].certificate_pem", "CERTIFICATE_INVALID"),
        ("c[6].private_key_pem", "CERTIFICATE_INVALID"),
        ("c[7].private_key_pem", "CERTIFICATE_INVALID"),
        ("c[8].private_key_pem", "CERTIFICATE_INVALID"),
        ("c[9].certificate_pem", "CERTIFICATE_EXPIRED"),
        ("c[10].certificate_pem", "OUT_OF_RANGE"),
    ]
    assert "not the key of the certificate" in words(wanted[0])
    assert "password" in words(wanted[6])
    assert not any("PRIVATE" in words(one) for one in wanted)


def test_a_certificate_that_is_there_keeps_its_key_and_may_have_ended() -> None:
    held = given(ONE.certificate_pem, ONE.private_key_pem)
    without = given(ONE.certificate_pem, "")
    assert admit([without], [held], NOW, "c") == ((held,), [])
    assert admit([held], [held], NOW + timedelta(days=30), "c") == ((held,), [])
    assert problems(given(OTHER.certificate_pem, ""), held=(held,)) == [("c[0].private_key_pem", "REQUIRED")]
    assert ended(held, NOW) is None
    assert ended(held, NOW + timedelta(days=30)) == ONE.certificate.not_valid_after_utc

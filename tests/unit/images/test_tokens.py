"""Registry tokens carry what the registry checks, and no more permission than was granted."""

import base64
import datetime

import jwt
import pytest
from cryptography import x509

from controlplane.registry.tokens import Grant, RegistryTokens, create_signing_identity
from moorage.errors import InvalidSpec

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
KEY, CERTIFICATE = create_signing_identity("test", NOW)
TOKENS = RegistryTokens(KEY, issuer="moorage", service="reg", certificate_chain=[CERTIFICATE])


def test_claims_and_chain() -> None:
    token = TOKENS.issue("host:h1", [Grant("p/t", frozenset({"push", "pull"}))], 300, NOW)
    header = jwt.get_unverified_header(token)
    assert header["alg"] == "RS256"
    assert "kid" not in header
    assert x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0])) == CERTIFICATE
    claims = jwt.decode(token, KEY.public_key(), ["RS256"], audience="reg", options={"verify_exp": False})
    assert claims["iss"] == "moorage"
    assert claims["sub"] == "host:h1"
    assert claims["exp"] - claims["iat"] == 300
    assert claims["nbf"] < claims["iat"] == int(NOW.timestamp())
    assert claims["access"] == [{"type": "repository", "name": "p/t", "actions": ["pull", "push"]}]


def test_two_tokens_differ() -> None:
    assert TOKENS.issue("a", [], 60, NOW) != TOKENS.issue("a", [], 60, NOW)


@pytest.mark.parametrize("lifetime", [0, -1, 86401])
def test_lifetime_is_bounded(lifetime: float) -> None:
    with pytest.raises(ValueError, match="lives between"):
        TOKENS.issue("a", [], lifetime, NOW)


def test_bad_grants_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown registry actions"):
        TOKENS.issue("a", [Grant("p/t", frozenset({"*"}))], 60, NOW)
    for repository in ("p/../t", "P/t", "", "p/t:1", "*"):
        with pytest.raises(InvalidSpec):
            TOKENS.issue("a", [Grant(repository, frozenset({"pull"}))], 60, NOW)
    with pytest.raises(ValueError, match="time zone"):
        TOKENS.issue("a", [], 60, datetime.datetime(2026, 1, 1))


def test_a_foreign_certificate_is_refused() -> None:
    _, other = create_signing_identity("other", NOW)
    with pytest.raises(ValueError, match="does not belong"):
        RegistryTokens(KEY, issuer="m", service="s", certificate_chain=[other])

"""The text of join tokens."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import Unauthenticated
from moorage.join_token import JoinTokenText, format_join_token, parse_join_token

DIGEST = "sha256:" + "0123456789abcdef" * 4
TEXT = format_join_token(DIGEST, "abcdefgh23", "s3cr3t_-")
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(
    digest=st.binary(min_size=32, max_size=32),
    token_id=st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=1, max_size=32),
    secret=st.text(URL_SAFE, min_size=1, max_size=128),
)
def test_reads_back(digest: bytes, token_id: str, secret: str) -> None:
    text = format_join_token(f"sha256:{digest.hex()}", token_id, secret)
    assert parse_join_token(f"  {text}\n") == JoinTokenText(f"sha256:{digest.hex()}", token_id, secret)
    assert not set(text) - set(URL_SAFE + "."), "must survive shells and files unquoted"


def test_the_digest_is_base64url_of_the_bytes() -> None:
    prefix, digest, token_id, secret = TEXT.split(".")
    assert (prefix, token_id, secret) == ("moor1", "abcdefgh23", "s3cr3t_-")
    assert base64.urlsafe_b64decode(digest + "=").hex() == DIGEST.removeprefix("sha256:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "moor1",
        TEXT.replace("moor1", "moor2"),
        TEXT + ".x",
        TEXT.removesuffix("s3cr3t_-"),
        TEXT.replace("abcdefgh23", "ABC"),
        TEXT.replace("abcdefgh23", "../../x"),
        TEXT + "!",
        "moor1.AAAA.abcdefgh23.s3cr3t",
        "moor1.!!!!.abcdefgh23.s3cr3t",
        "moor1.ü.abcdefgh23.s3cr3t",
        "moork_abcdefgh23_s3cr3t",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        parse_join_token(text)
    assert caught.value.reason == "JOIN_TOKEN_MALFORMED"
    assert "s3cr3t" not in str(caught.value)


def test_one_spelling_only() -> None:
    prefix, digest, *rest = TEXT.split(".")
    twin = URL_SAFE[URL_SAFE.index(digest[-1]) + 1]  # differs in bits that base64 does not use
    with pytest.raises(Unauthenticated):
        parse_join_token(".".join([prefix, digest[:-1] + twin, *rest]))


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        parse_join_token(text)


@pytest.mark.parametrize(
    "parts", [("0" * 64, "abc", "s"), (DIGEST, "A", "s"), (DIGEST, "abc", ""), (DIGEST, "abc", "a.b")]
)
def test_format_refuses_bad_parts(parts: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError):
        format_join_token(*parts)


def test_repr_hides_the_secret() -> None:
    assert "s3cr3t" not in repr(parse_join_token(TEXT))

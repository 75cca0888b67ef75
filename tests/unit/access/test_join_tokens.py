"""When a join token lets a machine in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.access import join_tokens
from controlplane.access.join_tokens import JoinToken
from moorage.errors import InvalidSpec, Unauthenticated
from moorage.join_token import parse_join_token

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32
TOKEN, TEXT = join_tokens.mint(DIGEST, now=NOW, max_uses=2, created_by="ann", zone="zones/a")
SECRET = parse_join_token(TEXT).secret


def reason(token: JoinToken | None, secret: str = SECRET, now: datetime = NOW) -> str:
    try:
        join_tokens.check(token, secret, now)
    except Unauthenticated as exc:
        return exc.reason
    return ""


def test_a_good_token() -> None:
    parts = parse_join_token(TEXT)
    assert (parts.authority_digest, parts.token_id) == (DIGEST, TOKEN.id)
    assert join_tokens.check(TOKEN, SECRET, NOW) is TOKEN
    assert (TOKEN.created_by, TOKEN.zone, TOKEN.expires_at) == ("ann", "zones/a", NOW + timedelta(hours=1))
    assert SECRET not in repr(TOKEN) + TOKEN.secret_hash


def test_each_reason() -> None:
    assert reason(None) == "JOIN_TOKEN_UNKNOWN"
    assert reason(TOKEN, "wrong") == "JOIN_TOKEN_UNKNOWN"
    assert reason(TOKEN, now=NOW + timedelta(minutes=59)) == ""
    assert reason(TOKEN, now=NOW + timedelta(hours=1)) == "JOIN_TOKEN_EXPIRED"
    assert reason(join_tokens.revoke(TOKEN)) == "JOIN_TOKEN_REVOKED"
    once = join_tokens.use(TOKEN)
    assert reason(once) == ""
    assert reason(join_tokens.use(once)) == "JOIN_TOKEN_USED_UP"


@given(
    used=st.integers(0, 3),
    revoked=st.booleans(),
    age=st.timedeltas(timedelta(0), timedelta(hours=2)),
    known=st.booleans(),
)
def test_a_wrong_secret_learns_nothing(used: int, revoked: bool, age: timedelta, known: bool) -> None:
    token = replace(TOKEN, used=used, revoked=revoked) if known else None
    assert reason(token, "wrong", NOW + age) == "JOIN_TOKEN_UNKNOWN"


@given(uses=st.integers(1, 20), tries=st.integers(0, 30))
def test_never_more_hosts_than_uses(uses: int, tries: int) -> None:
    token, text = join_tokens.mint(DIGEST, now=NOW, max_uses=uses)
    secret, admitted = parse_join_token(text).secret, 0
    for _ in range(tries):
        if reason(token, secret) == "":
            token, admitted = join_tokens.use(token), admitted + 1
    assert admitted == min(uses, tries)


def test_every_bad_field_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        join_tokens.mint(DIGEST, now=NOW, time_to_live=timedelta(days=31), max_uses=0)
    assert [violation.field for violation in caught.value.violations] == ["time_to_live", "max_uses"]

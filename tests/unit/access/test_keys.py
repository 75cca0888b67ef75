"""API keys."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.access import keys
from controlplane.access.roles import Caller
from controlplane.access.secret import hash_secret, new_secret, secret_matches
from moorage.errors import Forbidden, Unauthenticated
from moorage.logs import redact

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_minted_key_verifies_and_only_its_hash_is_kept() -> None:
    key, text = keys.mint("ann", now=NOW, description="laptop", expires_at=NOW + timedelta(days=1), fleet_admin=True)
    presented = keys.parse(text)
    assert text.startswith(f"moork_{key.id}_")
    assert keys.verify(key, presented, NOW) is key
    assert (key.user, key.description, key.fleet_admin, key.created_at) == ("ann", "laptop", True, NOW)
    assert presented.secret not in repr(key) + repr(presented) + key.secret_hash
    assert key.secret_hash not in repr(key)
    assert presented.secret not in redact(text)


def test_keys_are_random() -> None:
    texts = {keys.mint("ann", now=NOW)[1] for _ in range(200)}
    assert len(texts) == 200
    assert len(new_secret()) == 43  # 256 bits


@pytest.mark.parametrize("prefix", ["", "Bearer ", "bearer  ", " BEARER "])
def test_header_form(prefix: str) -> None:
    key, text = keys.mint("ann", now=NOW)
    assert keys.parse(prefix + text).id == key.id


@pytest.mark.parametrize("text", [None, "", "  ", "Bearer", "Bearer "])
def test_missing(text: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        keys.parse(text)
    assert caught.value.reason == "KEY_MISSING"


@pytest.mark.parametrize(
    "text",
    ["hunter2", "moork_abc", "moork_abc_short", "moork_ABC_" + "s" * 43, "moork_abc_" + "s" * 200, "Basic x"],
)
def test_malformed(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        keys.parse(text)
    assert caught.value.reason == "KEY_MALFORMED"
    assert text not in str(caught.value)


def test_unknown_wrong_and_expired() -> None:
    key, text = keys.mint("ann", now=NOW, expires_at=NOW + timedelta(hours=1))
    other, other_text = keys.mint("ann", now=NOW)
    right, wrong = keys.parse(text), keys.PresentedKey(key.id, keys.parse(other_text).secret)
    for record, presented in [(None, right), (key, wrong), (other, right), (replace(key, id="x"), right)]:
        with pytest.raises(Unauthenticated) as caught:
            keys.verify(record, presented, NOW)
        assert caught.value.reason == "KEY_UNKNOWN"
    keys.verify(key, right, NOW + timedelta(minutes=59))
    with pytest.raises(Unauthenticated) as caught:
        keys.verify(key, right, NOW + timedelta(hours=1))
    assert caught.value.reason == "KEY_EXPIRED"
    with pytest.raises(Unauthenticated) as caught:  # a wrong secret does not learn that the key ended
        keys.verify(key, wrong, NOW + timedelta(hours=1))
    assert caught.value.reason == "KEY_UNKNOWN"


@given(st.text(), st.text())
def test_secrets_match_only_themselves(first: str, second: str) -> None:
    assert secret_matches(hash_secret(first), second) == (first == second)
    assert not secret_matches(None, first)


def test_no_record_is_never_a_match() -> None:
    assert not secret_matches(None, "no record")
    assert not secret_matches("", "")


@pytest.mark.parametrize(
    ("caller", "user", "fleet_admin", "allowed"),
    [
        (Caller("ann"), "ann", False, True),
        (Caller("ann"), "bob", False, False),
        (Caller("ann"), "ann", True, False),
        (Caller("root", fleet_admin=True), "bob", True, True),
    ],
)
def test_who_may_create(caller: Caller, user: str, fleet_admin: bool, allowed: bool) -> None:
    if allowed:
        keys.require_may_create(caller, user=user, fleet_admin=fleet_admin)
        return
    with pytest.raises(Forbidden) as caught:
        keys.require_may_create(caller, user=user, fleet_admin=fleet_admin)
    assert caught.value.reason == "FLEET_ADMIN_ONLY"


def test_who_may_see() -> None:
    own, _ = keys.mint("ann", now=NOW)
    strong, _ = keys.mint("ann", now=NOW, fleet_admin=True)
    foreign, _ = keys.mint("bob", now=NOW)
    assert [keys.may_see(Caller("ann"), key) for key in (own, strong, foreign)] == [True, False, False]
    assert all(keys.may_see(Caller("root", fleet_admin=True), key) for key in (own, strong, foreign))

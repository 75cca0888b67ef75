"""API keys: `moork_<id>_<secret>`. The id finds the record, the secret proves it; only the secret's hash is kept.

The text has a prefix of its own so that scanners for leaked secrets, and our own log redaction, can find it.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from controlplane.access.roles import Caller
from controlplane.access.secret import hash_secret, new_secret, secret_matches
from moorage.errors import Forbidden, Unauthenticated
from moorage.ids import new_id

PREFIX: Final = "moork_"
_KEY = re.compile(r"moork_([a-z0-9]{1,32})_([A-Za-z0-9_-]{16,128})", re.ASCII)
_BEARER = re.compile(r"bearer(?:\s+|$)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. `expires_at` None: never. `fleet_admin`: everything, in all projects."""

    id: str
    secret_hash: str = field(repr=False)
    user: str
    description: str
    created_at: datetime
    expires_at: datetime | None = None
    fleet_admin: bool = False


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A key as a caller sent it."""

    id: str
    secret: str = field(repr=False)


def mint(
    user: str,
    *,
    now: datetime,
    description: str = "",
    expires_at: datetime | None = None,
    fleet_admin: bool = False,
) -> tuple[ApiKey, str]:
    """A new key: the record to keep, and the text to show once."""
    secret = new_secret()
    key = ApiKey(
        id=new_id(),
        secret_hash=hash_secret(secret),
        user=user,
        description=description,
        created_at=now,
        expires_at=expires_at,
        fleet_admin=fleet_admin,
    )
    return key, f"{PREFIX}{key.id}_{secret}"


def parse(text: str | None) -> PresentedKey:
    """Take the text of a key apart, with or without `Bearer ` before it.

    Raises:
        Unauthenticated: KEY_MISSING or KEY_MALFORMED; the message never repeats the text.
    """
    stripped = (text or "").strip()
    if scheme := _BEARER.match(stripped):
        stripped = stripped[scheme.end() :]
    if not stripped:
        raise Unauthenticated("no API key was sent; log in with `moor login`", reason="KEY_MISSING")
    match = _KEY.fullmatch(stripped)
    if match is None:
        raise Unauthenticated(
            "what was sent is not an API key; it must look like moork_<id>_<secret>", reason="KEY_MALFORMED"
        )
    return PresentedKey(match[1], match[2])


def verify(key: ApiKey | None, presented: PresentedKey, now: datetime) -> ApiKey:
    """The key, if `presented` proves it. `key` is the record found under `presented.id`, or None.

    An unknown id and a wrong secret are one answer and take the same time.

    Raises:
        Unauthenticated: KEY_UNKNOWN or KEY_EXPIRED; the latter only to one who knows the secret.
    """
    is_proven = secret_matches(key.secret_hash if key is not None else None, presented.secret)
    if key is None or key.id != presented.id or not is_proven:
        raise Unauthenticated(
            "this API key is not known; it may have been deleted: log in with another", reason="KEY_UNKNOWN"
        )
    if key.expires_at is not None and now >= key.expires_at:
        raise Unauthenticated(
            f"this API key ended on {key.expires_at.isoformat()}; ask for another", reason="KEY_EXPIRED"
        )
    return key


def require_may_create(caller: Caller, *, user: str, fleet_admin: bool) -> None:
    """Anybody may make keys for themselves; for another user, or with `fleet_admin`, only a fleet admin.

    Raises:
        Forbidden: FLEET_ADMIN_ONLY.
    """
    if caller.fleet_admin or (user == caller.user and not fleet_admin):
        return
    raise Forbidden(
        "only a fleet admin may make keys for other users or keys of a fleet admin", reason="FLEET_ADMIN_ONLY"
    )


def may_see(caller: Caller, key: ApiKey) -> bool:
    """Whether the caller may list and delete this key: their own, and a fleet admin all.

    A user's key that is no fleet admin's may not touch a fleet admin's key of the same user: else it could lock them
    out.
    """
    return caller.fleet_admin or (key.user == caller.user and not key.fleet_admin)

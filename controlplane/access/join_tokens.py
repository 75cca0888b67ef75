"""Join tokens: a machine that holds one may become a host. They end, and are used once (or N times).

The use is counted in the transaction that creates the host, with `use`: two machines with a token for one must not
both get in.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from controlplane.access.secret import hash_secret, new_secret, secret_matches
from moorage.errors import FieldViolation, InvalidSpec, Unauthenticated
from moorage.ids import new_id
from moorage.join_token import format_join_token

DEFAULT_TIME_TO_LIVE: Final = timedelta(hours=1)
MAX_TIME_TO_LIVE: Final = timedelta(days=30)
MAX_USES: Final = 10_000


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token as it is kept. `zone` is given to its hosts; empty: the host's own wish."""

    id: str
    secret_hash: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    max_uses: int = 1
    used: int = 0
    revoked: bool = False
    created_by: str = ""
    zone: str = ""


def mint(
    authority_digest: str,
    *,
    now: datetime,
    time_to_live: timedelta = DEFAULT_TIME_TO_LIVE,
    max_uses: int = 1,
    created_by: str = "",
    zone: str = "",
) -> tuple[JoinToken, str]:
    """A new token: the record to keep, and the text to show once.

    Args:
        authority_digest: `sha256:<hex>` of the authority that the machine shall trust.
    Raises:
        InvalidSpec: time_to_live outside 1 s - 30 days, or max_uses outside 1-10,000.
    """
    violations = []
    if not timedelta(seconds=1) <= time_to_live <= MAX_TIME_TO_LIVE:
        violations.append(FieldViolation("time_to_live", "must be between one second and 30 days", "OUT_OF_RANGE"))
    if not 1 <= max_uses <= MAX_USES:
        violations.append(FieldViolation("max_uses", f"must be between 1 and {MAX_USES}", "OUT_OF_RANGE"))
    if violations:
        raise InvalidSpec(violations)
    secret = new_secret()
    token = JoinToken(
        id=new_id(),
        secret_hash=hash_secret(secret),
        created_at=now,
        expires_at=now + time_to_live,
        max_uses=max_uses,
        created_by=created_by,
        zone=zone,
    )
    return token, format_join_token(authority_digest, token.id, secret)


def check(token: JoinToken | None, secret: str, now: datetime) -> JoinToken:
    """The token, if the secret proves it and it is still good. `token` is the record found under the id, or None.

    An unknown id and a wrong secret are one answer and take the same time; why a token is no longer good is told only
    to one who knows its secret.

    Raises:
        Unauthenticated: JOIN_TOKEN_UNKNOWN, JOIN_TOKEN_REVOKED, JOIN_TOKEN_EXPIRED or JOIN_TOKEN_USED_UP.
    """
    is_proven = secret_matches(token.secret_hash if token is not None else None, secret)
    if token is None or not is_proven:
        raise Unauthenticated(
            "this join token is not known here; make one with `moor join-token create`", reason="JOIN_TOKEN_UNKNOWN"
        )
    if token.revoked:
        raise Unauthenticated("this join token was revoked; make another", reason="JOIN_TOKEN_REVOKED")
    if now >= token.expires_at:
        raise Unauthenticated(
            f"this join token ended on {token.expires_at.isoformat()}; make another", reason="JOIN_TOKEN_EXPIRED"
        )
    if token.used >= token.max_uses:
        raise Unauthenticated(
            f"this join token was for {token.max_uses} host(s) and is used up; make another",
            reason="JOIN_TOKEN_USED_UP",
        )
    return token


def use(token: JoinToken) -> JoinToken:
    """The token after one more host. Call `check` in the same transaction before."""
    return replace(token, used=token.used + 1)


def revoke(token: JoinToken) -> JoinToken:
    """The token, ended for good; hosts that used it stay."""
    return replace(token, revoked=True)

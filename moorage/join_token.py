"""The text of a join token: `moor1.<digest of the authority>.<token id>.<secret>`.

It is all that a machine needs besides an address: the digest tells the agent which authority to trust before it says
anything secret (it fetches the certificate without trust, compares, and only then presents the token), the rest tells
the control plane that the machine may join. `moor1` names the layout, so that a later one can be told apart. Pure.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from moorage.errors import Unauthenticated

PREFIX: Final = "moor1"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_TOKEN_ID = re.compile(r"[a-z0-9]{1,32}", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JoinTokenText:
    """The parts of a join token. `authority_digest` is `sha256:<hex>`, as `moorage.tls.certificate_digest` gives it."""

    authority_digest: str
    token_id: str
    secret: str = field(repr=False)


def format_join_token(authority_digest: str, token_id: str, secret: str) -> str:
    """The text that an operator copies to a machine.

    Raises:
        ValueError: a part does not have its form.
    """
    if not (_DIGEST.fullmatch(authority_digest) and _TOKEN_ID.fullmatch(token_id) and _SECRET.fullmatch(secret)):
        raise ValueError("authority_digest, token_id or secret does not have the form that a join token needs")
    digest = base64.urlsafe_b64encode(bytes.fromhex(authority_digest.removeprefix("sha256:"))).rstrip(b"=").decode()
    return f"{PREFIX}.{digest}.{token_id}.{secret}"


def parse_join_token(text: str) -> JoinTokenText:
    """Take a join token apart. The message of the error never repeats the text, which may be almost the secret.

    Raises:
        Unauthenticated: JOIN_TOKEN_MALFORMED.
    """
    malformed = Unauthenticated(
        "this is not a join token; copy the whole text that `moor join-token create` printed",
        reason="JOIN_TOKEN_MALFORMED",
    )
    parts = text.strip().split(".")
    if len(parts) != 4:
        raise malformed
    prefix, digest_text, token_id, secret = parts
    try:
        digest = base64.b64decode(digest_text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise malformed from exc
    is_sound = prefix == PREFIX and len(digest) == 32 and _TOKEN_ID.fullmatch(token_id) and _SECRET.fullmatch(secret)
    # The last digit of the base64 text has unused bits: only one spelling of a token is taken.
    if not is_sound or base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != digest_text:
        raise malformed
    return JoinTokenText("sha256:" + digest.hex(), token_id, secret)

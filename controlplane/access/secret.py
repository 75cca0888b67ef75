"""Secrets of keys and join tokens: how they are made, kept and compared.

A secret is 256 random bits, so plain SHA-256 is enough to keep it: slow password hashes protect secrets that can be
guessed, and nobody guesses 2^256. It also keeps each call cheap (about a microsecond instead of tens of
milliseconds), and a flood of wrong keys harmless.
"""

import hashlib
import hmac
import secrets
from typing import Final

SECRET_BYTES: Final = 32
# Compared with when there is no record, so that an unknown id takes as long as a wrong secret.
_NO_HASH: Final = hashlib.sha256(b"no record").hexdigest()


def new_secret() -> str:
    """256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(SECRET_BYTES)


def hash_secret(secret: str) -> str:
    """What is stored: SHA-256, lower-case hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secret_matches(stored_hash: str | None, secret: str) -> bool:
    """Compare in time that depends neither on where they differ nor on whether there is a record."""
    is_equal = hmac.compare_digest(stored_hash if stored_hash is not None else _NO_HASH, hash_secret(secret))
    return is_equal and stored_hash is not None

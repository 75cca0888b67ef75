"""Names of what is made for an application: readable at the front, unique at the end, the same for the same thing for ever."""

import hashlib
import re

_OTHER = re.compile(r"[^a-z0-9]+")
_UNIQUE = 6


def short_hash(text: str, length: int = _UNIQUE) -> str:
    """Hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens, a letter first; "x" for what has none of them."""
    plain = _OTHER.sub("-", text.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"x{'-' if plain else ''}{plain}"


def unique_name(readable: str, identity: str, limit: int) -> str:
    """At most `limit` characters: as much of the readable text as fits, and what tells this identity from all others."""
    front = slug(readable)[: limit - _UNIQUE - 1].rstrip("-")
    return f"{front}-{short_hash(identity)}"


def host_label(text: str) -> str:
    """One part of a host name."""
    return (_OTHER.sub("-", text.lower()).strip("-") or "x")[:63].rstrip("-")

"""What the control plane sends to a host's agent through another host, to learn whether it lives, and what comes back.

Both are of one length, so that nobody's answer is larger than the question; both carry a code made with a key that only the
control plane and that host have, so that an agent answers questions of the control plane's alone, and neither a neighbour nor
another machine at the host's address can answer in its place. An answer is good for its own question only.
"""

import hashlib
import hmac

_QUESTION, _ANSWER = b"MNQ1", b"MNA1"
NONCE_BYTES = 16
_CODE_BYTES = 16
DATAGRAM_BYTES = 4 + NONCE_BYTES + _CODE_BYTES


def question(key: str, nonce: bytes) -> bytes:
    """What to send. `nonce`: NONCE_BYTES that were never used before."""
    return _made(_QUESTION, key, nonce)


def answer(key: str, datagram: bytes) -> bytes | None:
    """What the host answers; None: it was no question for it, and gets no answer."""
    nonce = datagram[4 : 4 + NONCE_BYTES]
    if not key or len(datagram) != DATAGRAM_BYTES or not hmac.compare_digest(datagram, question(key, nonce)):
        return None
    return _made(_ANSWER, key, nonce)


def is_answer(key: str, nonce: bytes, datagram: bytes) -> bool:
    """Whether this is the host's own answer to the question of this nonce."""
    return bool(key) and hmac.compare_digest(datagram, _made(_ANSWER, key, nonce))


def _made(word: bytes, key: str, nonce: bytes) -> bytes:
    return word + nonce + hmac.digest(key.encode(), word + nonce, hashlib.sha256)[:_CODE_BYTES]

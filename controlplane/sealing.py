"""Encryption of what is kept: each payload with a data key of its own (AES-256-GCM), each data key with the installation's key.

The installation's keys are one file beside the certificates, `keys/sealing.json`: without it the store, its journal and its backups
tell nothing, and with only it neither does the file. To change the key, all data keys are wrapped anew; the payloads stay as they are.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.domain.secrets import SealedPayload
from moorage.errors import Internal
from moorage.ids import new_id

FILE_NAME = "sealing.json"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_MARK = "sealed:"  # no JSON begins so


@dataclass(frozen=True, slots=True)
class Keys:
    """What the file holds.

    Attributes:
        current: id of the key that new data keys are wrapped with.
        wrapping: by id; more than one only while a change of the key is under way.
        digest: for `Sealer.digest`; never changed.
    """

    current: str
    wrapping: Mapping[str, bytes] = field(repr=False)
    digest: bytes = field(repr=False)


def new_keys() -> Keys:
    """Keys of a new installation."""
    key_id = new_id()
    return Keys(key_id, {key_id: secrets.token_bytes(_KEY_BYTES)}, secrets.token_bytes(_KEY_BYTES))


def load(folder: Path) -> Keys:
    """The keys in the folder; made at the first start.

    Raises:
        Internal: the file cannot be understood.
    """
    try:
        text = (folder / FILE_NAME).read_text()
    except FileNotFoundError:
        made = new_keys()
        save(folder, made)
        return made
    try:
        raw = json.loads(text)
        wrapping = {str(key_id): base64.b64decode(value) for key_id, value in raw["wrapping"].items()}
        found = Keys(str(raw["current"]), wrapping, base64.b64decode(raw["digest"]))
        is_whole = found.current in wrapping and all(len(key) == _KEY_BYTES for key in wrapping.values())
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise Internal(f"{folder / FILE_NAME} cannot be read", reason="SEALING_KEYS_UNREADABLE") from error
    if not is_whole:
        raise Internal(f"{folder / FILE_NAME} is not whole", reason="SEALING_KEYS_UNREADABLE")
    return found


def save(folder: Path, keys: Keys) -> None:
    """Write the file, readable by its owner only, whole or not at all, durable."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    raw = {
        "current": keys.current,
        "wrapping": {key_id: base64.b64encode(key).decode() for key_id, key in keys.wrapping.items()},
        "digest": base64.b64encode(keys.digest).decode(),
    }
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{FILE_NAME}.")  # 0600
    with os.fdopen(handle, "w") as file:
        json.dump(raw, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, folder / FILE_NAME)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Sealer:
    """Seals and opens payloads, and changes the key that it does so with.

    Args:
        folder: of the key file; None: keys that end with the program, for a store that does too.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._keys = new_keys() if folder is None else load(folder)

    @property
    def key_id(self) -> str:
        """Id of the key that new payloads are under."""
        return self._keys.current

    def seal(self, owner_uid: str, project: str, number: int, payload: bytes) -> SealedPayload:
        """The payload as it may be kept. It opens only as this version of this secret."""
        data_key = secrets.token_bytes(_KEY_BYTES)
        place = _place(owner_uid, project, number)
        sealed = _encrypt(data_key, payload, place)
        wrapped = _encrypt(self._keys.wrapping[self._keys.current], data_key, place)
        return SealedPayload(owner_uid, project, number, self._keys.current, wrapped, sealed)

    def open(self, record: SealedPayload) -> bytes:
        """The payload.

        Raises:
            Internal: SEALING_KEY_MISSING, or PAYLOAD_UNREADABLE: it was changed, or is another version's.
        """
        return _decrypt(self._data_key(record), record.sealed, _place_of(record))

    def rewrapped(self, record: SealedPayload) -> SealedPayload:
        """The same under the current key. Raises Internal."""
        place = _place_of(record)
        wrapped = _encrypt(self._keys.wrapping[self._keys.current], self._data_key(record), place)
        return SealedPayload(
            record.owner_uid, record.project, record.number, self._keys.current, wrapped, record.sealed
        )

    def seal_record(self, kind: str, key: str, text: str) -> str:
        """The durable form of a record of the store that holds secrets; see moorage.store.base.RecordCipher."""
        keys = self._keys
        return f"{_MARK}{keys.current}:{_encrypt(keys.wrapping[keys.current], text.encode(), _record_place(kind, key))}"

    def open_record(self, kind: str, key: str, text: str) -> str:
        """The record's text. Raises Internal (SEALING_KEY_MISSING, PAYLOAD_UNREADABLE)."""
        if not text.startswith(_MARK):
            return text
        key_id, _, sealed = text.removeprefix(_MARK).partition(":")
        return _decrypt(self._wrapping(key_id), sealed, _record_place(kind, key)).decode()

    def digest(self, payload: bytes) -> bytes:
        """What stands for a payload where only its sameness is needed: without the key nobody can try guesses against it."""
        return hmac.new(self._keys.digest, payload, hashlib.sha256).digest()

    def begin_rekey(self) -> str:
        """A new key, which is current from now on; older ones still open. Durable. Returns its id."""
        key_id = new_id()
        wrapping = {**self._keys.wrapping, key_id: secrets.token_bytes(_KEY_BYTES)}
        self._replace(Keys(key_id, wrapping, self._keys.digest))
        return key_id

    def end_rekey(self, key_id: str) -> None:
        """Forget all other keys, when no payload is under them any more."""
        if key_id == self._keys.current:
            self._replace(Keys(key_id, {key_id: self._keys.wrapping[key_id]}, self._keys.digest))

    def _replace(self, keys: Keys) -> None:
        if self._folder is not None:
            save(self._folder, keys)
        self._keys = keys

    def _data_key(self, record: SealedPayload) -> bytes:
        return _decrypt(self._wrapping(record.key_id), record.wrapped_key, _place_of(record))

    def _wrapping(self, key_id: str) -> bytes:
        key = self._keys.wrapping.get(key_id)
        if key is None:
            raise Internal(
                f"the key {key_id} is not in {FILE_NAME}: put the file of the store's time back",
                reason="SEALING_KEY_MISSING",
            )
        return key


def _record_place(kind: str, key: str) -> bytes:
    return json.dumps([kind, key]).encode()


def _place(owner_uid: str, project: str, number: int) -> bytes:
    return json.dumps([project, owner_uid, number]).encode()


def _place_of(record: SealedPayload) -> bytes:
    return _place(record.owner_uid, record.project, record.number)


def _encrypt(key: bytes, plain: bytes, place: bytes) -> str:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, plain, place)).decode()


def _decrypt(key: bytes, text: str, place: bytes) -> bytes:
    try:
        raw = base64.b64decode(text)
        return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place)
    except (InvalidTag, ValueError, binascii.Error) as error:
        raise Internal("a sealed payload cannot be opened", reason="PAYLOAD_UNREADABLE") from error

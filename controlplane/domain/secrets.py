"""Secrets and configs: mirrors protos/moorage/v1/secrets.proto, configs.proto and secret_uses.proto.

Both are the same but for who may read their bytes, so a config is a secret of another collection. The bytes are records of
their own, sealed, so that nothing that lists, watches or prints a secret can hold them.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

#: Mounted as a whole, so that a file that is replaced there is seen at once.
FOLDERS = {"secrets": "/run/secrets", "configs": "/run/configs"}


class SecretVersionState(enum.Enum):
    """How a version stands."""

    UNSPECIFIED = 0
    ENABLED = 1
    DISABLED = 2
    DESTROYED = 3


class OnRotate(enum.Enum):
    """What becomes of an instance that uses the latest version when there is a later one."""

    UNSPECIFIED = 0
    KEEP = 1
    RESTART = 2
    SIGNAL = 3


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, without any bytes."""

    collection: ClassVar[str] = "secrets"
    noun: ClassVar[str] = "secret"

    uid: str
    project: str
    id: str
    create_time: datetime
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 1
    last_version: int = 0  # the highest number that was ever given
    latest_version: int = 0  # the latest enabled one; 0: none
    versions: int = 0  # those with bytes

    @property
    def name(self) -> str:
        """projects/{project}/secrets/{secret}."""
        return f"projects/{self.project}/{self.collection}/{self.id}"


@dataclass(frozen=True, slots=True)
class Config(Secret):
    """A config: a secret that viewers may read."""

    collection: ClassVar[str] = "configs"
    noun: ClassVar[str] = "config"


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A version, without its bytes. `owner` is the name of the secret or config."""

    owner: str
    owner_uid: str
    project: str
    number: int
    create_time: datetime
    size_bytes: int
    is_text: bool = False  # it can be a variable of an environment
    state: SecretVersionState = SecretVersionState.ENABLED

    @property
    def name(self) -> str:
        """projects/{project}/secrets/{secret}/versions/{number}."""
        return f"{self.owner}/versions/{self.number}"


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """The bytes of a version as they are kept: encrypted with a data key, which is encrypted with a key that is not in the store.

    All but the ids is Base64.
    """

    owner_uid: str
    project: str
    number: int
    key_id: str  # of the key that wraps the data key
    wrapped_key: str = field(repr=False)
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SecretFile:
    """Where a use is a file; zeros are the defaults of the proto's comments."""

    path: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret that an instance gets."""

    secret: str = ""
    version: int = 0
    file: SecretFile | None = None
    env: str = ""
    on_rotate: OnRotate = OnRotate.UNSPECIFIED
    signal: str = ""


@dataclass(frozen=True, slots=True)
class ConfigUse:
    """A config that an instance gets."""

    config: str = ""
    version: int = 0
    file: SecretFile | None = None
    on_rotate: OnRotate = OnRotate.UNSPECIFIED
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Pin:
    """The version that a use of an instance stands for now. An instance has one for each use, secrets first."""

    uid: str  # of the secret or config
    version: int


Use = SecretUse | ConfigUse


def id_of(use: Use) -> str:
    """The name that a use says, full or the last part of it."""
    return use.secret if isinstance(use, SecretUse) else use.config


def collection_of(use: Use) -> str:
    """`secrets` or `configs`."""
    return "secrets" if isinstance(use, SecretUse) else "configs"


def env_of(use: Use) -> str:
    """The variable that it becomes; empty: it is a file."""
    return use.env if isinstance(use, SecretUse) else ""


def path_of(use: Use) -> str:
    """Where the file is; empty: it is a variable."""
    if env_of(use):
        return ""
    own = use.file.path if use.file is not None else ""
    return own or f"{FOLDERS[collection_of(use)]}/{id_of(use).rpartition('/')[2]}"

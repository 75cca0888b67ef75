"""Field rules of an instance's secrets and configs: everything that can be judged without looking at stored objects."""

import re
from collections.abc import Iterator, Sequence

from controlplane.domain.instances import InstanceSpec
from controlplane.domain.secrets import FOLDERS, OnRotate, SecretFile, Use, collection_of, env_of, id_of, path_of
from moorage.errors import FieldViolation

LARGEST_USES = 64

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIGNAL = re.compile(r"^(SIG)?[A-Z][A-Z0-9+-]*$|^[0-9]{1,2}$")
_LARGEST_ID = 2**31 - 1


def check_uses(spec: InstanceSpec, field: str) -> Iterator[FieldViolation]:
    """Every bad use."""
    if len(spec.secrets) + len(spec.configs) > LARGEST_USES:
        yield FieldViolation(f"{field}.secrets", f"must be at most {LARGEST_USES}, with the configs", "OUT_OF_RANGE")
    paths = {mount.target for mount in spec.mounts}
    variables: set[str] = set(spec.env)
    both: tuple[tuple[str, Sequence[Use]], ...] = (("secrets", spec.secrets), ("configs", spec.configs))
    for collection, uses in both:
        noun = collection.removesuffix("s")
        for index, use in enumerate(uses):
            where = f"{field}.{collection}[{index}]"
            if not id_of(use):
                yield FieldViolation(f"{where}.{noun}", "is required", "REQUIRED")
                continue
            yield from _check_use(use, where)
            if (variable := env_of(use)) in variables:
                yield FieldViolation(f"{where}.env", f"{variable} is set twice", "INVALID")
            if (path := path_of(use)) in paths:
                yield FieldViolation(f"{where}.file.path", f"{path} is used twice", "INVALID")
            paths |= {path} - {""}
            variables |= {variable} - {""}
    for outer in sorted(paths):
        if any(other.startswith(f"{outer}/") for other in paths) and outer not in {m.target for m in spec.mounts}:
            yield FieldViolation(f"{field}.secrets", f"{outer} cannot be a file and a folder", "INVALID")


def _check_use(use: Use, where: str) -> Iterator[FieldViolation]:
    if use.version < 0:
        yield FieldViolation(f"{where}.version", "must not be negative", "OUT_OF_RANGE")
    variable = env_of(use)
    if variable:
        if not _VARIABLE.fullmatch(variable):
            yield FieldViolation(f"{where}.env", f"{variable!r} is no name of a variable", "ENV_INVALID")
        if use.file is not None:
            yield FieldViolation(f"{where}.file", "cannot go with env", "NOT_ALLOWED")
    else:
        yield from _check_file(use.file or SecretFile(), path_of(use), f"{where}.file")
    if use.on_rotate not in (OnRotate.UNSPECIFIED, OnRotate.KEEP) and use.version:
        yield FieldViolation(f"{where}.on_rotate", "needs version 0: a fixed version has no later one", "NOT_ALLOWED")
    if use.on_rotate is OnRotate.SIGNAL:
        if not path_of(use).startswith(f"{FOLDERS[collection_of(use)]}/"):
            words = f"a signal needs a file below {FOLDERS[collection_of(use)]}: any other one is seen as it was"
            yield FieldViolation(f"{where}.on_rotate", words, "NOT_ALLOWED")
        if use.signal and not _SIGNAL.fullmatch(use.signal):
            yield FieldViolation(f"{where}.signal", f"{use.signal!r} is no signal", "INVALID")
    elif use.signal:
        yield FieldViolation(f"{where}.signal", "needs on_rotate ON_ROTATE_SIGNAL", "NOT_ALLOWED")


def _check_file(file: SecretFile, path: str, where: str) -> Iterator[FieldViolation]:
    parts = path.split("/")
    if not path.startswith("/") or len(path) > 255 or "\0" in path or {"", ".", ".."} & set(parts[1:]):
        yield FieldViolation(f"{where}.path", "must be an absolute path without . and .. in it", "INVALID_PATH")
    if not 0 <= file.mode <= 0o777:
        yield FieldViolation(f"{where}.mode", "must be permission bits, 0 to 0777", "OUT_OF_RANGE")
    for name in ("uid", "gid"):
        if not 0 <= getattr(file, name) <= _LARGEST_ID:
            yield FieldViolation(f"{where}.{name}", "must not be negative", "OUT_OF_RANGE")

"""Secrets and configs: made, versioned, read by those who may, and deleted. One class for both: `kind` says which.

Clear text comes in by `create` and `add_version`, goes out by `access` and `payloads_for`, and is nowhere else: not in records of
metadata, events, errors or the memory of requests (callers give `body` with a digest in the payload's place).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

from controlplane.domain.instances import Instance, uses_of
from controlplane.domain.kinds import INSTANCE, SEALED_KINDS, SEALED_PAYLOAD, SECRET_VERSION, version_key
from controlplane.domain.names import check_id, check_labels
from controlplane.domain.secrets import Secret, SecretVersion, SecretVersionState, collection_of, env_of, id_of
from controlplane.history import record_event
from controlplane.sealing import Sealer
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.group_uses import groups_needing
from controlplane.services.paging import Page, PageRequest, label_field, list_page
from moorage.errors import AlreadyExists, Exhausted, FieldViolation, InvalidSpec, NotFound, NotReady
from moorage.store.base import Kind, Transaction, View

LARGEST_PAYLOAD = 512 * 1024
LARGEST_TEXT = 32 * 1024  # that can be a variable of an environment
LARGEST_TOTAL = 64 * 1024 * 1024  # of the payloads of a project: all of them are held in memory, sealed
MOST_VERSIONS = 100  # with bytes, of one secret
_DESTROYED_KEPT = 100
_AT_ONCE = 64  # records in one transaction
_EVENTS = {
    SecretVersionState.ENABLED: "VERSION_ENABLED",
    SecretVersionState.DISABLED: "VERSION_DISABLED",
    SecretVersionState.DESTROYED: "VERSION_DESTROYED",
}
_IN_USE = {"secret": "SECRET_IN_USE", "config": "CONFIG_IN_USE"}
LATEST = "latest"

S = TypeVar("S", bound=Secret)


class SecretService(Generic[S]):
    """What callers can do with secrets, or with configs."""

    def __init__(self, context: Context, sealer: Sealer, kind: Kind[S]) -> None:
        self._context = context
        self._sealer = sealer
        self._kind = kind
        self._type = kind.record_type

    async def create(
        self,
        project_id: str,
        secret_id: str,
        labels: Mapping[str, str],
        description: str,
        payload: bytes | None,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> S:
        """Make a secret, with a first version unless `payload` is None.

        Raises:
            InvalidSpec (PAYLOAD_TOO_LARGE and others), AlreadyExists, NotFound (project), Exhausted (PAYLOADS_EXHAUSTED).
        """
        uid = self._context.new_id()
        noun = self._type.noun

        def make(tx: Transaction) -> S:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return self._get(tx, project_id, names[0].rpartition("/")[2])
            lookup.project(tx, project_id)
            violations = check_id(secret_id, f"{noun}_id") + _check_words(noun, labels, description)
            violations += _check_payload(payload or b"", "payload")
            if violations:
                raise InvalidSpec(violations)
            made = self._type(uid, project_id, secret_id, self._context.clock.now(), description, dict(labels))
            if tx.get(self._kind, self._kind.key(made)) is not None:
                raise AlreadyExists(f"{made.name} exists; choose another name", metadata={"name": made.name})
            record_event(tx, self._context.clock, made, "CREATED", "asked for", project=project_id)
            if payload is None:
                tx.put(self._kind, made)
            else:
                made, _ = self._add(tx, made, payload)
            if request_key:
                lookup.remember(tx, request_key, body, (made.name,), self._context.clock.now())
            return made

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, secret_id: str) -> S:
        """One secret. Raises NotFound."""
        return self._get(self._context.store.view(), project_id, secret_id)

    def list(self, project_id: str, request: PageRequest, visible: frozenset[str] | None = None) -> Page[S]:
        """A page of a project's secrets; "-" lists those of the `visible` projects (None: all)."""
        every = project_id == "-"
        return list_page(
            self._context.store.view(),
            self._kind,
            request,
            scope=f"{self._type.collection} of {project_id}",
            prefix="" if every else f"{project_id}/",
            fields=lambda s, name: label_field(s.labels, name),
            admits=(lambda s: s.project in visible) if every and visible is not None else None,
        )

    async def update(
        self,
        project_id: str,
        secret_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        description: str | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> S:
        """Change labels or description. Raises NotFound, InvalidSpec, VersionConflict."""

        def change(tx: Transaction) -> S:
            found = self._get(tx, project_id, secret_id)
            lookup.check_etag(found, etag, found.name)
            changed = replace(
                found,
                labels=dict(found.labels if labels is None else labels),
                description=found.description if description is None else description,
                generation=found.generation + 1,
            )
            if violations := _check_words(self._type.noun, changed.labels, changed.description):
                raise InvalidSpec(violations)
            tx.put(self._kind, changed)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, secret_id: str, *, etag: str = "") -> None:
        """Delete a secret that no instance has. Raises NotFound, NotReady (SECRET_IN_USE, CONFIG_IN_USE), VersionConflict."""

        def remove(tx: Transaction) -> None:
            found = self._get(tx, project_id, secret_id)
            lookup.check_etag(found, etag, found.name)
            self._refuse_used(found.name, _users(tx, found.uid))
            self._refuse_needed(tx, found)
            for version in self._versions(tx, found):
                tx.delete(SECRET_VERSION, version_key(found.uid, version.number))
                if version.state is not SecretVersionState.DESTROYED:
                    tx.delete(SEALED_PAYLOAD, version_key(found.uid, version.number))
            tx.delete(self._kind, self._kind.key(found))
            record_event(tx, self._context.clock, found, "DELETED", "asked for", project=project_id)

        await self._context.store.update(remove)

    async def add_version(
        self,
        project_id: str,
        secret_id: str,
        payload: bytes,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> SecretVersion:
        """Add a version, the latest from now on.

        Raises:
            NotFound, InvalidSpec (PAYLOAD_TOO_LARGE, SECRET_NOT_TEXT), Exhausted (PAYLOADS_EXHAUSTED).
        """

        def add(tx: Transaction) -> SecretVersion:
            found = self._get(tx, project_id, secret_id)
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return self._version(tx, found, names[0].rpartition("/")[2])
            if violations := _check_payload(payload, "payload"):
                raise InvalidSpec(violations)
            if not _is_text(payload) and (user := _user_as_text(tx, found.uid)):
                words = f"must be a text of at most 32 KiB: {user} has it in its environment"
                raise InvalidSpec.of("payload", words, "SECRET_NOT_TEXT")
            _, version = self._add(tx, found, payload)
            if request_key:
                lookup.remember(tx, request_key, body, (version.name,), self._context.clock.now())
            return version

        return await commit(self._context.store, add, validate_only=validate_only)

    def list_versions(self, project_id: str, secret_id: str, request: PageRequest) -> Page[SecretVersion]:
        """A page of versions, in order of number. Raises NotFound."""
        view = self._context.store.view()
        found = self._get(view, project_id, secret_id)
        return list_page(view, SECRET_VERSION, request, scope=f"versions of {found.uid}", prefix=f"{found.uid}/")

    async def set_state(self, project_id: str, secret_id: str, number: str, state: SecretVersionState) -> SecretVersion:
        """Enable, disable or destroy a version; one that is so already is left alone.

        Raises:
            NotFound, NotReady (VERSION_DESTROYED; SECRET_IN_USE or CONFIG_IN_USE of one to be destroyed).
        """

        def change(tx: Transaction) -> SecretVersion:
            found = self._get(tx, project_id, secret_id)
            version = self._version(tx, found, number)
            if version.state is state:
                return version
            if version.state is SecretVersionState.DESTROYED:
                raise NotReady(f"{version.name} is destroyed; add another", reason="VERSION_DESTROYED")
            if state is SecretVersionState.DESTROYED:
                self._refuse_used(version.name, _users(tx, found.uid, version.number))
                tx.delete(SEALED_PAYLOAD, version_key(found.uid, version.number))
            changed = replace(version, state=state)
            tx.put(SECRET_VERSION, changed)
            tx.put(self._kind, self._counted(tx, found))
            record_event(tx, self._context.clock, changed, _EVENTS[state], "asked for", project=project_id)
            return changed

        return await self._context.store.update(change)

    def access(self, project_id: str, secret_id: str, number: str) -> tuple[SecretVersion, bytes]:
        """A version and its bytes; `number` may be LATEST.

        Raises:
            NotFound, NotReady (VERSION_MISSING, VERSION_DISABLED, VERSION_DESTROYED).
        """
        view = self._context.store.view()
        found = self._get(view, project_id, secret_id)
        if number == LATEST:
            if not found.latest_version:
                raise NotReady(f"{found.name} has no enabled version; add one", reason="VERSION_MISSING")
            number = str(found.latest_version)
        version = self._version(view, found, number)
        return version, read_payload(view, self._sealer, version)

    def users(self, record: Secret) -> int:
        """How many instances have it."""
        return len(_users(self._context.store.view(), record.uid))

    def users_of_version(self, version: SecretVersion) -> int:
        """How many instances have this version of it."""
        return len(_users(self._context.store.view(), version.owner_uid, version.number))

    def digest(self, payload: bytes) -> bytes:
        """What stands for a payload in the memory of requests."""
        return self._sealer.digest(payload)

    def _get(self, view: View, project_id: str, secret_id: str) -> S:
        name = f"projects/{project_id}/{self._type.collection}/{secret_id}"
        return lookup.require(view, self._kind, f"{project_id}/{secret_id}", name)

    def _version(self, view: View, record: Secret, number: str) -> SecretVersion:
        is_number = number.isascii() and number.isdecimal() and len(number) <= 12
        found = view.get(SECRET_VERSION, version_key(record.uid, int(number))) if is_number else None
        if found is None:
            name = f"{record.name}/versions/{number}"
            raise NotFound(f"{name} does not exist", metadata={"name": name})
        return found.value

    def _versions(self, view: View, record: Secret) -> Sequence[SecretVersion]:
        return [found.value for found in view.find(SECRET_VERSION, "owner", record.uid)]

    def _add(self, tx: Transaction, record: S, payload: bytes) -> tuple[S, SecretVersion]:
        if record.versions >= MOST_VERSIONS:
            raise Exhausted(
                f"{record.name} has {MOST_VERSIONS} versions; destroy old ones", reason="PAYLOADS_EXHAUSTED"
            )
        total = sum(v.value.size_bytes for v in tx.find(SECRET_VERSION, "held_by", record.project))
        if total + len(payload) > LARGEST_TOTAL:
            raise Exhausted(
                f"the secrets and configs of projects/{record.project} would be more than 64 MiB; destroy old versions",
                reason="PAYLOADS_EXHAUSTED",
            )
        number = record.last_version + 1
        version = SecretVersion(
            record.name,
            record.uid,
            record.project,
            number,
            self._context.clock.now(),
            len(payload),
            _is_text(payload),
        )
        tx.put(SECRET_VERSION, version)
        tx.put(SEALED_PAYLOAD, self._sealer.seal(record.uid, record.project, number, payload))
        destroyed = [v for v in self._versions(tx, record) if v.state is SecretVersionState.DESTROYED]
        for old in destroyed[:-_DESTROYED_KEPT]:
            tx.delete(SECRET_VERSION, version_key(old.owner_uid, old.number))
        changed = self._counted(tx, replace(record, last_version=number))
        tx.put(self._kind, changed)
        record_event(tx, self._context.clock, version, "VERSION_ADDED", "asked for", project=record.project)
        return changed, version

    def _counted(self, tx: Transaction, record: S) -> S:
        """With what is told of its versions, as they are now."""
        versions = self._versions(tx, record)
        enabled = [v.number for v in versions if v.state is SecretVersionState.ENABLED]
        with_bytes = sum(v.state is not SecretVersionState.DESTROYED for v in versions)
        latest = max(enabled, default=0)
        return replace(record, latest_version=latest, versions=with_bytes, generation=record.generation + 1)

    def _refuse_needed(self, view: View, record: Secret) -> None:
        """Let one pass that no group needs for members to come. Raises NotReady (SECRET_IN_USE, CONFIG_IN_USE)."""
        groups = groups_needing(
            view, record.project, lambda spec: any(id_of(use) == record.name for use in uses_of(spec))
        )
        if groups:
            raise NotReady(
                f"{record.name} is in use: members of {groups[0]} have it; change or delete the group first",
                reason=_IN_USE[self._type.noun],
                metadata={"groups": str(len(groups))},
            )

    def _refuse_used(self, name: str, users: Sequence[Instance]) -> None:
        if users:
            raise NotReady(
                f"{name} is in use: {users[0].name} has it; replace or delete that first",
                reason=_IN_USE[self._type.noun],
                metadata={"instances": str(len(users))},
            )


def read_payload(view: View, sealer: Sealer, version: SecretVersion) -> bytes:
    """The bytes of a version.

    Raises:
        NotReady: VERSION_DISABLED, VERSION_DESTROYED.
    """
    if version.state is SecretVersionState.DISABLED:
        raise NotReady(f"{version.name} is disabled; enable it", reason="VERSION_DISABLED")
    sealed = view.get(SEALED_PAYLOAD, version_key(version.owner_uid, version.number))
    if sealed is None:
        raise NotReady(f"{version.name} is destroyed", reason="VERSION_DESTROYED")
    return sealer.open(sealed.value)


def payloads_of(view: View, sealer: Sealer, instance: Instance) -> Iterator[tuple[SecretVersion, bytes]]:
    """The versions that an instance has, each once, with their bytes, read as they are asked for.

    Raises:
        NotReady: VERSION_DISABLED, VERSION_DESTROYED.
    """
    for pin in dict.fromkeys(instance.pins):
        version = view.get(SECRET_VERSION, version_key(pin.uid, pin.version))
        if version is None:
            raise NotReady(f"a version that {instance.name} has is destroyed", reason="VERSION_DESTROYED")
        yield version.value, read_payload(view, sealer, version.value)


class Rekeying:
    """Changes the key that all payloads are under."""

    def __init__(self, context: Context, sealer: Sealer) -> None:
        self._context = context
        self._sealer = sealer

    async def rekey(self) -> tuple[str, int]:
        """A new key, and every payload and sealed record under it. Cut off anywhere, it is whole again when it is asked for once more.

        Returns: (id of the key, number of payloads).
        """
        key_id = self._sealer.begin_rekey()
        while await self._context.store.update(self._rewrap_some):
            pass
        for kind in SEALED_KINDS:
            keys = [kind.key(found.value) for found in self._context.store.view().all(kind)]
            for start in range(0, len(keys), _AT_ONCE):
                await self._context.store.update(partial(self._rewrite, kind=kind, keys=keys[start : start + _AT_ONCE]))
        self._sealer.end_rekey(key_id)
        return key_id, self._context.store.view().count(SEALED_PAYLOAD)

    def _rewrite(self, tx: Transaction, kind: Kind[Any], keys: Sequence[str]) -> None:
        """Records that the store encrypts as a whole: a change makes it write them again, under the new key."""
        for key in keys:
            found = tx.get(kind, key)
            if found is not None:
                tx.put(kind, replace(found.value, generation=found.value.generation + 1))

    def _rewrap_some(self, tx: Transaction, limit: int = _AT_ONCE) -> int:
        current = self._sealer.key_id
        old = [found.value for found in tx.all(SEALED_PAYLOAD) if found.value.key_id != current][:limit]
        for record in old:
            tx.put(SEALED_PAYLOAD, self._sealer.rewrapped(record))
        return len(old)


def _users(view: View, uid: str, number: int = 0) -> Sequence[Instance]:
    found = [one.value for one in view.find(INSTANCE, "payload", uid)]
    return [i for i in found if not number or any((p.uid, p.version) == (uid, number) for p in i.pins)]


def _user_as_text(view: View, uid: str) -> str:
    """An instance that takes the latest version of a secret as a variable; empty: none does."""
    for instance in _users(view, uid):
        for use, pin in zip(uses_of(instance.spec), instance.pins, strict=True):
            if pin.uid == uid and env_of(use) and not use.version and collection_of(use) == "secrets":
                return instance.name
    return ""


def _is_text(payload: bytes) -> bool:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return False
    return len(payload) <= LARGEST_TEXT and "\0" not in text


def _check_words(noun: str, labels: Mapping[str, str], description: str) -> list[FieldViolation]:
    violations = check_labels(dict(labels), f"{noun}.labels")
    if len(description) > 1024:
        violations.append(FieldViolation(f"{noun}.description", "is longer than 1024 characters", "OUT_OF_RANGE"))
    return violations


def _check_payload(payload: bytes, field: str) -> list[FieldViolation]:
    if len(payload) <= LARGEST_PAYLOAD:
        return []
    return [FieldViolation(field, f"is {len(payload)} bytes; at most 512 KiB are kept", "PAYLOAD_TOO_LARGE")]

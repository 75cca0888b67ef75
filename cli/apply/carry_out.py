"""What apply, diff and export ask the control plane. Which steps are taken is plan.py's to decide."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import field_mask_pb2

from cli.apply.nouns import NOUNS, Noun
from cli.apply.plan import Create, Delete, Found, Keep, Replace, Step, changed_paths
from cli.apply.read import Document
from moorage.client import Client
from moorage.client_pages import paginate
from moorage.errors import FieldViolation, InvalidSpec, MoorageError, NotFound, NotReady
from moorage.ids import new_id


class Look:
    """What is there, what an update would make of it, and all that the control plane has against the documents.

    Everything is asked for with validate_only, so that nothing is changed before all of it was found good.
    """

    def __init__(self, client: Client, documents: Sequence[Document]) -> None:
        self.found: dict[str, Found] = {}
        self.errors: list[tuple[Document, MoorageError]] = []
        self._client = client
        self._documents = documents
        self._new: tuple[str, ...] = ()

    async def run(self) -> None:
        """Ask. Raises MoorageError: an object cannot be read."""
        present: dict[str, Any] = {}
        for document in self._documents:
            request = document.noun.request("Get")(name=document.name)
            try:
                present[document.name] = await document.noun.method(self._client, "Get")(request)
            except NotFound:
                continue
        self._new = tuple(document.name for document in self._documents if document.name not in present)
        for document in self._documents:
            now = present.get(document.name)
            try:
                if now is None:
                    await create(self._client, document, validate_only=True)
                else:
                    self.found[document.name] = await self._updated(document, now)
            except MoorageError as error:
                if not self._is_about_new(error):
                    self.errors.append((document, error))
                elif now is not None:
                    self.found[document.name] = Found(now, document.message)

    async def _updated(self, document: Document, now: Any) -> Found:
        if document.noun.kind != "Instance":
            return Found(now, await update(self._client, document, now.etag, ("*",), validate_only=True))
        would = await replace(self._client, document, now.etag, validate_only=True)
        would.labels.clear()
        would.labels.update(document.message.labels)
        paths = tuple(changed_paths(document.noun, now, would))
        if not paths:
            return Found(now)
        try:
            return Found(now, await update(self._client, document, now.etag, paths, validate_only=True))
        except NotReady as error:
            if error.reason != "NEEDS_REPLACE":
                raise
            return Found(now, would, tuple(error.metadata.get("fields", "").split(",")))

    def _is_about_new(self, error: MoorageError) -> bool:
        """Whether it is only that something is missing which another document makes; then it is found out when that was made."""
        if isinstance(error, InvalidSpec):
            return all(self._names_new(violation.problem) for violation in error.violations)
        return isinstance(error, NotFound) and self._names_new(error.message)

    def _names_new(self, text: str) -> bool:
        return any(name in text for name in self._new)


def violations(errors: Iterable[tuple[Document, MoorageError]]) -> list[FieldViolation]:
    """One for each bad field, with file and document."""
    found: list[FieldViolation] = []
    for document, error in errors:
        if isinstance(error, InvalidSpec) and error.violations:
            body = document.noun.body_field("Create")
            for one in error.violations:
                path = one.field.removeprefix(f"{body}.")
                found.append(FieldViolation(f"{document.where} {path}", one.problem, one.reason))
        else:
            found.append(FieldViolation(f"{document.where} {document.label}", error.message, error.reason))
    return found


async def create(client: Client, document: Document, *, validate_only: bool = False) -> None:
    """Make an object; of a template, until its image is here. Raises MoorageError."""
    noun = document.noun
    fields: dict[str, Any] = {
        "parent": noun.parent(document.name),
        noun.id_field: document.name.rsplit("/", 1)[1],
        noun.body_field("Create"): _body(document),
        "request_id": "" if validate_only else new_id(),
        "validate_only": validate_only,
    }
    made = await noun.method(client, "Create")(noun.request("Create")(**fields))
    if noun.kind == "Template" and not validate_only:
        await client.wait_operation(made.name)


async def update(
    client: Client, document: Document, etag: str, paths: Sequence[str], *, validate_only: bool = False
) -> Any:
    """Change an object; it is as the control plane answers. Raises MoorageError."""
    noun = document.noun
    body = _body(document)
    body.name, body.etag = document.name, etag
    fields: dict[str, Any] = {
        noun.body_field("Update"): body,
        "update_mask": field_mask_pb2.FieldMask(paths=paths),
        "validate_only": validate_only,
    }
    return await noun.method(client, "Update")(noun.request("Update")(**fields))


async def replace(client: Client, document: Document, etag: str, *, validate_only: bool = False) -> Any:
    """Give an instance a new container. Raises MoorageError."""
    request = document.noun.request("Replace")
    fields = {"name": document.name, "etag": etag, "spec": document.message.spec, "validate_only": validate_only}
    return await client.instances.ReplaceInstance(request(**fields))


async def take(client: Client, step: Step | Delete) -> None:
    """Take one step. Raises MoorageError."""
    if isinstance(step, Delete):
        await step.noun.method(client, "Delete")(step.noun.request("Delete")(name=step.name, etag=step.etag))
    elif isinstance(step, Create):
        await create(client, step.document)
    elif isinstance(step, Replace):
        changed = await replace(client, step.document, step.etag)
        if "labels" in step.paths:
            await update(client, step.document, changed.etag, ("labels",))
    elif not isinstance(step, Keep):
        paths = step.paths if step.document.noun.kind == "Instance" else ("*",)
        await update(client, step.document, step.etag, paths)


async def everything(
    client: Client, project: str, wanted: Callable[[Noun], bool] = lambda _: True
) -> AsyncIterator[tuple[Noun, Any]]:
    """All objects of a project, what others need first."""
    for noun in NOUNS:
        if not wanted(noun):
            continue
        for parent in await _parents(client, project, noun):
            request = noun.request("List")(parent=parent)
            async for one in paginate(noun.method(client, "List"), request, noun.listed):
                yield noun, one


async def _parents(client: Client, project: str, noun: Noun) -> list[str]:
    if not noun.above:
        return [project]
    above = next(other for other in NOUNS if other.collection == noun.above)
    request = above.request("List")(parent=project)
    return [one.name async for one in paginate(above.method(client, "List"), request, above.listed)]


def carries(message: Any, labels: Mapping[str, str]) -> bool:
    """Whether an object has all these labels; one that can have none has not."""
    own = getattr(message, "labels", None)
    return own is not None and all(own.get(key) == value for key, value in labels.items())


def _body(document: Document) -> Any:
    body = type(document.message)()
    body.CopyFrom(document.message)
    body.ClearField("name")
    return body

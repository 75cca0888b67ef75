"""Making instances: the template first if it is an image that was never registered, then one or many, then waiting."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from cli.instance.lifecycle import HAS_RUN
from cli.names import in_project, is_id, short, template_id_of
from cli.progress import OperationProgress
from cli.spec import apply_options, key_values
from moorage.client import Client
from moorage.errors import AlreadyExists, DeadlineExceeded, InvalidSpec, MoorageError, NotFound, NotReady
from moorage.ids import new_id
from moorage.v1 import instances_pb2, templates_pb2

UNPLACED_SECONDS = 5.0  # a host may just be on its way back, or an instance on its way out
_UNPLACEABLE = "UNPLACEABLE"
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Wish:
    """What `run` and `create` were asked for."""

    project: str
    image: str
    name: str
    count: int
    spec: instances_pb2.InstanceSpec
    labels: Mapping[str, str]


def wish_of(project: str, image: str, options: Mapping[str, Any]) -> Wish:
    """From the options of run_options.INSTANCE.

    Raises:
        InvalidSpec: an option cannot be understood.
    """
    spec = instances_pb2.InstanceSpec()
    apply_options(spec, options, project, os.environ)
    count = options.get("count") or 1
    if count > 1 and any(":" in word for word in options.get("network") or ()):
        raise InvalidSpec.of("network", "one address cannot be given to several instances")
    return Wish(
        project=project,
        image=image,
        name=options.get("name") or "",
        count=count,
        spec=spec,
        labels=key_values("label", options.get("label") or ()),
    )


async def ensure_template(client: Client, project: str, image: str, progress: OperationProgress) -> str:
    """The full name of a template that is ready: `image` itself if it is one, else one that is registered from it.

    Raises:
        NotFound: a full name that does not exist.
        MoorageError: the image cannot be had; the control plane leaves nothing of the attempt.
    """
    if image.startswith("projects/"):
        return in_project(project, "templates", image)
    candidates = [image] if is_id(image) else []
    candidates += [template_id_of(image), template_id_of(image, distinct=True)]
    for template_id in dict.fromkeys(candidates):
        name = in_project(project, "templates", template_id)
        try:
            found = await client.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=name))
        except NotFound:
            return await _register(client, project, template_id, image, progress)
        is_same_image = found.source.repository.reference == image
        if template_id != image and not is_same_image:
            continue  # someone else's template has the derived name: take the distinct one
        if found.status.state == templates_pb2.TEMPLATE_STATE_PENDING and found.status.operation:
            await client.wait_operation(found.status.operation, progress)
        return name
    raise AlreadyExists(
        f"the names for a template of {image} are taken; register it with `moor template register NAME`"
    )


async def _register(client: Client, project: str, template_id: str, image: str, progress: OperationProgress) -> str:
    name = in_project(project, "templates", template_id)
    source = templates_pb2.TemplateSource(repository=templates_pb2.RepositorySource(reference=image))
    request = templates_pb2.CreateTemplateRequest(
        parent=project,
        template_id=template_id,
        template=templates_pb2.Template(source=source),
        request_id=new_id(),
    )
    try:
        operation = await client.templates.CreateTemplate(request)
        await client.wait_operation(operation.name, progress)
    except MoorageError as error:
        if is_id(image):
            error.message = f"{image} is no template of {project}, and no image that can be had: {error.message}"
        raise
    return name


async def create(
    client: Client, wish: Wish, template: str, *, validate_only: bool = False
) -> list[instances_pb2.Instance]:
    """Make the instances, in one transaction. With a count, NAME becomes NAME-1, NAME-2 and so on.

    Raises:
        MoorageError: none was made.
    """
    spec = instances_pb2.InstanceSpec()
    spec.CopyFrom(wish.spec)
    spec.template = template
    made = instances_pb2.Instance(spec=spec, labels=wish.labels)
    if wish.count == 1:
        request = instances_pb2.CreateInstanceRequest(
            parent=wish.project,
            instance_id=wish.name,
            instance=made,
            request_id=new_id(),
            validate_only=validate_only,
        )
        return [await client.instances.CreateInstance(request)]
    ids = [f"{wish.name}-{number}" if wish.name else "" for number in range(1, wish.count + 1)]
    batch = instances_pb2.BatchCreateInstancesRequest(
        parent=wish.project,
        requests=[instances_pb2.CreateInstanceRequest(instance_id=each, instance=made) for each in ids],
        request_id=new_id(),
        validate_only=validate_only,
    )
    return list((await client.instances.BatchCreateInstances(batch)).instances)


async def wait_until_run(
    client: Client,
    instances: Sequence[instances_pb2.Instance],
    timeout_seconds: float | None,
    *,
    unplaced_seconds: float | None = None,
) -> list[instances_pb2.Instance]:
    """Wait until each runs, or has run; says on stderr what one waits for. In order.

    Args:
        unplaced_seconds: how long to wait while no host fits one of them, in seconds; None: as long as for anything else.
    Raises:
        DeadlineExceeded: not all run yet.
        NotReady: one failed, or (UNPLACEABLE) no host fits it.
    """
    said: dict[str, str] = {}
    unplaced: dict[str, float] = {}  # since when no host fits

    def show(instance: instances_pb2.Instance) -> None:
        is_end = instance.status.state == instances_pb2.INSTANCE_STATE_FAILED  # then the error says it
        message = "" if is_end else instance.status.message
        if instance.status.reason == _UNPLACEABLE:
            unplaced.setdefault(instance.name, time.monotonic())
        else:
            unplaced.pop(instance.name, None)
        is_told_at_once = instance.name not in unplaced or unplaced_seconds is None  # else the error says it
        if message and is_told_at_once and said.get(instance.name) != message:
            click.echo(f"{short(instance.name)}: {message}", err=True)
        said[instance.name] = message

    names = [instance.name for instance in instances]
    waiting = asyncio.ensure_future(client.wait_instances(names, HAS_RUN, timeout_seconds, on_change=show))
    try:
        while not (await asyncio.wait({waiting}, timeout=_LOOK_SECONDS))[0]:
            for name, since in unplaced.items():
                if unplaced_seconds is not None and time.monotonic() - since >= unplaced_seconds:
                    raise NotReady(
                        f"{short(name)}: {said[name]}; it waits without moor and starts as soon as a host fits. "
                        f"`moor explain {short(name)}` says more, `moor rm {short(name)}` gives it up",
                        reason=_UNPLACEABLE,
                    )
        found = waiting.result()
    except DeadlineExceeded as error:
        error.message += "; it goes on without moor, and `moor explain` says more"
        raise
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return [found[name] for name in names]

"""router-image: make the template that virtual routers run.

It is the template `router` of the project `system`, for the routers of every project, built by a host of the fleet from the
Dockerfile that comes with the agent. Its base is the template `router-base` beside it.
"""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import click

from cli.names import short
from cli.output import output_option, print_one
from cli.progress import OperationProgress
from cli.router_image import base as base_image
from cli.router_image import recipe
from cli.session import Session, pass_session
from cli.template import COLUMNS, plan_registration, print_log, start_registration
from moorage.client import Client
from moorage.errors import AlreadyExists, DeadlineExceeded, MoorageError, NotFound
from moorage.ids import new_id
from moorage.v1 import projects_pb2, templates_pb2

PROJECT = "projects/system"
ROUTER = "router"
ROUTER_BASE = "router-base"
_LOOK_SECONDS = 0.2
_REMOVAL_LOOKS = 300
_ROUTER_IMAGE = "router-image"  # label of what routers may be made from
_LABEL = "made-from"  # what tells whether a template is the one that would be made now


@click.group("router-image")
def router_image() -> None:
    """The image of virtual routers."""


@router_image.command("register")
@click.option(
    "--base",
    metavar="TAR|IMAGE",
    help="A root file system as a tar, or an image in a registry, with the router's programs; default: made here.",
)
@click.option("--plain-http", is_flag=True, help="The registry of --base speaks no TLS.")
@output_option("name")
@pass_session
def register(session: Session, base: str | None, plain_http: bool, output: str) -> None:
    """Build and register the image of virtual routers. Does nothing where it is there already, for fleet admins."""
    folder = recipe.context_folder()
    if base is None:
        click.echo("router-image: base of this machine's packages", err=True)
        base = str(base_image.ensure(recipe.packages(folder), base_image.cache_folder()))
    quiet = output in ("json", "yaml")

    base_from = _digest(base)
    source = {"tar": base} if Path(base).is_file() else {"from_repository": base, "plain_http": plain_http}

    async def work(client: Client) -> templates_pb2.Template:
        return await _register(client, folder, base_from, source, quiet)

    print_one(session.run(work), COLUMNS, output)


@router_image.command("base")
def make_base() -> None:
    """Make the base of this machine's packages, once, and print where it is: a tar for `register --base` elsewhere."""
    click.echo(base_image.ensure(recipe.packages(recipe.context_folder()), base_image.cache_folder()))


async def _register(
    client: Client, folder: Path, base_from: str, source: dict[str, Any], quiet: bool
) -> templates_pb2.Template:
    try:
        await client.projects.CreateProject(
            projects_pb2.CreateProjectRequest(
                project_id=short(PROJECT),
                project=projects_pb2.Project(description="What the platform itself runs"),
                request_id=new_id(),
            )
        )
    except AlreadyExists:
        pass
    router_from = recipe.fingerprint(folder, base_from)
    # The router first: if one still runs on it, nothing has been changed.
    is_made = await _is_made(client, ROUTER, router_from)
    is_base_made = await _is_made(client, ROUTER_BASE, base_from)
    if not is_base_made:
        await _make(client, ROUTER_BASE, base_from, source, quiet)
    if not is_made:
        build = {"dockerfile": folder, "build_arg": (f"BASE={ROUTER_BASE}",)}
        await _make(client, ROUTER, router_from, build, quiet, f"{_ROUTER_IMAGE}=true")
    return await _get(client, ROUTER)


async def _get(client: Client, template_id: str) -> templates_pb2.Template:
    return await client.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=_name(template_id)))


async def _is_made(client: Client, template_id: str, made_from: str) -> bool:
    """Whether the template is there and was made from this. One that was made from something else is removed.

    Raises:
        NotReady: TEMPLATE_IN_USE, TEMPLATE_NOT_READY. DeadlineExceeded: its removal takes long.
    """
    try:
        found = await _get(client, template_id)
    except NotFound:
        return False
    if found.labels.get(_LABEL) == made_from and found.status.state == templates_pb2.TEMPLATE_STATE_READY:
        return True
    if found.status.state != templates_pb2.TEMPLATE_STATE_DELETING:
        await client.templates.DeleteTemplate(templates_pb2.DeleteTemplateRequest(name=_name(template_id)))
    for _ in range(_REMOVAL_LOOKS):
        try:
            await _get(client, template_id)
        except NotFound:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    raise DeadlineExceeded(f"{_name(template_id)} is still being removed; repeat this when it is gone")


async def _make(
    client: Client, template_id: str, made_from: str, source: dict[str, Any], quiet: bool, *labels: str
) -> None:
    plan = plan_registration(PROJECT, template_id, {"label": (f"{_LABEL}={made_from}", *labels), **source})
    with OperationProgress(f"template {template_id}", quiet=quiet) as progress:
        operation = await start_registration(client, plan, progress)
        try:
            await client.wait_operation(operation.name, progress)
        except MoorageError as error:
            await print_log(client, operation.name, error)
            raise


def _name(template_id: str) -> str:
    return f"{PROJECT}/templates/{template_id}"


def _digest(base: str) -> str:
    """Of the tar's bytes, or of the reference as it is written."""
    path = Path(base)
    if not path.is_file():
        return hashlib.sha256(base.encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

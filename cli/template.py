"""template: register images, and what is registered."""

import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from cli.build_context import context_entries
from cli.completion import complete_names
from cli.names import in_project, short, template_id_of
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.progress import OperationProgress
from cli.run_options import HEALTH, RESOURCES, add_options, many, one
from cli.session import Session, pass_session, project_option
from cli.spec import apply_resources, health_check, key_values
from cli.tarstream import CHUNK_BYTES, pack, rechunk
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec, MoorageError
from moorage.ids import new_id
from moorage.units import format_bytes, parse_bytes, parse_cpu
from moorage.v1 import common_pb2, operations_pb2, templates_pb2


def _source(template: Any) -> str:
    kind = template.source.WhichOneof("source") or ""
    if kind == "repository":
        return str(template.source.repository.reference)
    if kind == "snapshot":
        return f"snapshot of {short(template.source.snapshot.instance)}"
    return f"{kind} {template.source.tar.url or template.source.dockerfile.context_url}".strip()


COLUMNS = (
    Column("NAME", lambda template: short(template.name)),
    Column("STATE", lambda template: enum_word(templates_pb2.TemplateState, template.status.state)),
    Column("SOURCE", _source),
    Column("SIZE", lambda template: format_bytes(template.status.size_bytes) if template.status.size_bytes else ""),
    Column("PLATFORMS", lambda template: ",".join(template.status.platforms)),
    Column("AGE", lambda template: age(template.create_time)),
    Column("DIGEST", lambda template: template.status.digest, wide=True),
    Column("LABELS", lambda template: pairs(template.labels.items()), wide=True),
    Column("MESSAGE", lambda template: template.status.message, wide=True),
)


@click.group("template")
def template() -> None:
    """Templates: images with defaults, pinned by digest."""


@template.command("register")
@click.argument("name", required=False)
@one("--from-repository", metavar="IMAGE", text="An image in any registry, such as nginx:1.27.")
@click.option(
    "--dockerfile", type=click.Path(exists=True, path_type=Path), help="A Dockerfile, or a directory with one."
)
@one(
    "--tar", metavar="FILE", text="What `docker save` wrote, an OCI layout or a root file system; - is standard input."
)
@one("--url", metavar="URL", text="The same, fetched by the control plane.")
@one("--context-url", metavar="URL", text="A tar with a build context, fetched by the control plane.")
@one("--snapshot", metavar="INSTANCE", text="The files of an instance.")
@one("--username", metavar="USER", text="User of the registry of --from-repository.")
@click.option("--password-file", type=click.File("r"), help="File with its password; - is standard input.")
@many("--platform", metavar="OS/ARCH", text="Platform to take; default those of the hosts.")
@click.option("--plain-http", is_flag=True, help="The registry speaks no TLS.")
@one("--file", "-f", "dockerfile_path", metavar="PATH", text="The Dockerfile in the context; default Dockerfile.")
@many("--build-arg", metavar="K=V", text="Argument of the build.")
@one("--target", metavar="STAGE", text="Stage to build.")
@one("--build-memory", metavar="BYTES", text="Memory of the build at most; default 1Gi.")
@one("--build-cpu", metavar="N", text="Cores of the build at most; default 1.")
@click.option("--egress", is_flag=True, help="RUN steps reach the network.")
@click.option("--no-pause", is_flag=True, help="Do not pause the instance of --snapshot meanwhile.")
@one("--description", metavar="TEXT", text="For people.")
@many("--label", "-l", metavar="K=V", text="Label of the template.")
@one("--command", metavar="WORDS", text="Default arguments of its instances.")
@one("--entrypoint", metavar="WORDS", text="Default program.")
@many("--env", "-e", metavar="K=V", text="Default environment.")
@many("--port", metavar="PORT[/udp]", text="Port that the program listens on.")
@one("--user", "-u", metavar="USER", text="Default user.")
@one("--workdir", "-w", metavar="PATH", text="Default working directory.")
@add_options((*RESOURCES, *HEALTH))
@click.option("--no-wait", is_flag=True, help="Do not wait until it is ready.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@project_option
@output_option("name")
@pass_session
def register(session: Session, /, name: str | None, output: str, no_wait: bool, **options: Any) -> None:
    """Register a template NAME from exactly one source. Without NAME, one is made from the source."""
    plan = plan_registration(session.project, name, options)
    show = OperationProgress(f"template {plan.create.template_id}", quiet=output in ("json", "yaml"))

    async def work(client: Client) -> templates_pb2.Template:
        with show as progress:
            operation = await start_registration(client, plan, progress)
            if not (no_wait or options["validate_only"]):
                try:
                    await client.wait_operation(operation.name, progress)
                except MoorageError as error:
                    await print_log(client, operation.name, error)
                    raise
        if options["validate_only"]:
            return plan.create.template
        full_name = in_project(session.project, "templates", plan.create.template_id)
        return await client.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=full_name))

    made = session.run(work)
    if options["validate_only"] and output in ("name", "table", "wide"):
        click.echo(f"Template {plan.create.template_id} can be registered.")
    else:
        print_one(made, COLUMNS, output)


class Registration:
    """A template to make, with the bytes that go with it if there are any."""

    def __init__(self, create: templates_pb2.CreateTemplateRequest) -> None:
        self.create = create
        self.content: Iterator[bytes] | None = None
        self.content_bytes = 0  # 0: not known


def plan_registration(project: str, name: str | None, options: dict[str, Any]) -> Registration:
    """What `register` will ask for. Opens the files that it names.

    Raises:
        InvalidSpec: no source or several, no name, or an option that cannot be understood.
    """
    given = [
        key
        for key in ("from_repository", "dockerfile", "tar", "url", "context_url", "snapshot")
        if options.get(key) is not None
    ]
    if len(given) != 1:
        listed = "--from-repository, --dockerfile, --tar, --url, --context-url or --snapshot"
        raise InvalidSpec.of("source", f"give one of {listed}, not {len(given)}")
    made = templates_pb2.Template(
        description=options.get("description") or "", labels=key_values("label", options.get("label") or ())
    )
    _apply_defaults(made.defaults, options)
    if not made.defaults.ListFields():
        made.ClearField("defaults")
    create = templates_pb2.CreateTemplateRequest(
        parent=project, request_id=new_id(), validate_only=bool(options.get("validate_only"))
    )
    plan = Registration(create)
    derived = _apply_source(plan, made.source, project, options)
    if not name and not derived:
        raise InvalidSpec.of("name", "give the template a name: moor template register NAME ...")
    create.template_id = short(name) if name else derived
    create.template.CopyFrom(made)
    return plan


def _apply_source(
    plan: Registration, source: templates_pb2.TemplateSource, project: str, options: dict[str, Any]
) -> str:
    """Fill in the source; a name derived from it, or nothing."""
    if options.get("from_repository") is not None:
        repository = source.repository
        repository.reference = options["from_repository"]
        repository.username = options.get("username") or ""
        if options.get("password_file"):
            repository.password = options["password_file"].read().strip()
        repository.platforms.extend(options.get("platform") or ())
        repository.plain_http = bool(options.get("plain_http"))
        return template_id_of(repository.reference)
    if options.get("snapshot") is not None:
        source.snapshot.instance = in_project(project, "instances", options["snapshot"])
        source.snapshot.no_pause = bool(options.get("no_pause"))
        return ""
    if options.get("tar") is not None or options.get("url") is not None:
        source.tar.SetInParent()
        platforms = options.get("platform") or ()
        if len(platforms) > 1:
            raise InvalidSpec.of("platform", "a tar is of one platform")
        source.tar.platform = next(iter(platforms), "")
        if options.get("url") is not None:
            source.tar.url = options["url"]
            return ""
        return _open_tar(plan, options["tar"])
    return _apply_dockerfile(plan, source.dockerfile, options)


def _open_tar(plan: Registration, path: str) -> str:
    if path == "-":
        plan.content = _read_chunks(sys.stdin.buffer)
        return ""
    file = Path(path)
    try:
        with file.open("rb"):
            plan.content_bytes = file.stat().st_size
    except OSError as exc:
        raise InvalidSpec.of("tar", f"{path} cannot be read: {exc.strerror}") from exc
    plan.content = _file_chunks(file)
    return template_id_of(file.name.split(".tar")[0].split(".tgz")[0])


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _read_chunks(file)


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(CHUNK_BYTES):
        yield data


def _apply_dockerfile(plan: Registration, source: templates_pb2.DockerfileSource, options: dict[str, Any]) -> str:
    source.SetInParent()
    source.path = options.get("dockerfile_path") or ""
    source.build_args.update(key_values("build-arg", options.get("build_arg") or ()))
    source.target = options.get("target") or ""
    source.egress = bool(options.get("egress"))
    if options.get("build_memory"):
        source.memory_bytes = parse_bytes(options["build_memory"], field="build-memory")
    if options.get("build_cpu"):
        source.cpu_millis = parse_cpu(options["build_cpu"], field="build-cpu")
    if options.get("context_url") is not None:
        source.context_url = options["context_url"]
        return ""
    path: Path = options["dockerfile"]
    if path.is_dir():
        entries = context_entries(path, source.path or "Dockerfile")
        plan.content = rechunk(pack(entries))
        return template_id_of(path.resolve().name)
    try:
        source.inline = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSpec.of("dockerfile", f"{path} cannot be read: {exc}") from exc
    return ""


def _apply_defaults(defaults: templates_pb2.TemplateDefaults, options: dict[str, Any]) -> None:
    defaults.command.extend(shlex.split(options.get("command") or ""))
    if options.get("entrypoint") is not None:
        defaults.entrypoint.CopyFrom(common_pb2.StringList(values=shlex.split(options["entrypoint"])))
    defaults.env.update(key_values("env", options.get("env") or ()))
    defaults.ports.extend(port if "/" in port else f"{port}/tcp" for port in options.get("port") or ())
    defaults.user = options.get("user") or ""
    defaults.workdir = options.get("workdir") or ""
    resources = common_pb2.Resources()
    apply_resources(resources, options)
    if resources.ListFields():
        defaults.resources.CopyFrom(resources)
    check = health_check(options)
    if check is not None:
        defaults.health_check.CopyFrom(check)


async def start_registration(
    client: Client, plan: Registration, progress: OperationProgress
) -> operations_pb2.Operation:
    """Ask for it, and send the bytes if there are any."""
    content = plan.content
    if content is None:
        return await client.templates.CreateTemplate(plan.create)

    async def messages() -> AsyncIterator[templates_pb2.UploadTemplateRequest]:
        yield templates_pb2.UploadTemplateRequest(create=plan.create)
        sent = 0
        for chunk in content:
            yield templates_pb2.UploadTemplateRequest(chunk=chunk)
            sent += len(chunk)
            progress.bytes_sent(sent, plan.content_bytes)

    return await client.templates.UploadTemplate(messages())


async def print_log(client: Client, operation_name: str, error: MoorageError) -> None:
    """What the work printed, for a failure that the log explains better than any sentence."""
    try:
        request = operations_pb2.GetOperationRequest(name=operation_name)
        log = (await client.operations.GetOperation(request)).log
    except MoorageError:
        return  # the first error is the one to show
    if log:
        click.echo(log.rstrip("\n"), err=True)


@template.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'state=READY labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List templates."""

    async def work(client: Client) -> list[templates_pb2.Template]:
        request = templates_pb2.ListTemplatesRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.templates.ListTemplates, request, lambda page: page.templates)]

    print_list(session.run(work), COLUMNS, output)


@template.command("get")
@click.argument("name", shell_complete=complete_names("templates"))
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one template."""

    async def work(client: Client) -> templates_pb2.Template:
        full_name = session.name_in_project("templates", name)
        return await client.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)


@template.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names("templates"))
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Delete templates that no instance uses, and free their space."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("templates", name)
            await client.templates.DeleteTemplate(templates_pb2.DeleteTemplateRequest(name=full_name))
            click.echo(f"Deleted {short(full_name)}.")

    session.run(work)

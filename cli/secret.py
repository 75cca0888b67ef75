"""secret and config: bytes that instances get, in versions. One set of commands for both nouns."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.names import short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.session import Session, pass_session, project_option
from cli.spec import key_values
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec
from moorage.ids import new_id
from moorage.units import format_bytes
from moorage.v1 import configs_pb2, secrets_pb2

COLUMNS = (
    Column("NAME", lambda one: short(one.name)),
    Column("LATEST", lambda one: str(one.latest_version or "none")),
    Column("VERSIONS", lambda one: str(one.versions)),
    Column("USERS", lambda one: str(one.users)),
    Column("AGE", lambda one: age(one.create_time)),
    Column("DESCRIPTION", lambda one: one.description, wide=True),
    Column("LABELS", lambda one: pairs(one.labels.items()), wide=True),
)
VERSION_COLUMNS = (
    Column("VERSION", lambda one: str(one.number)),
    Column("STATE", lambda one: enum_word(secrets_pb2.SecretVersionState, one.state)),
    Column("SIZE", lambda one: format_bytes(one.size_bytes)),
    Column("USERS", lambda one: str(one.users)),
    Column("AGE", lambda one: age(one.create_time)),
)

_file = click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))


def _read(noun: str, file: str | None) -> bytes:
    """The bytes of a file; without one those of standard input, which a terminal is asked for without showing them.

    Raises:
        InvalidSpec: the file cannot be read.
    """
    if file not in (None, "-"):
        try:
            return Path(str(file)).read_bytes()
        except OSError as error:
            raise InvalidSpec.of("file", f"{file} cannot be read: {error.strerror}") from error
    if file is None and sys.stdin.isatty():
        asked: str = click.prompt(f"The {noun}", hide_input=noun == "secret", err=True)
        return asked.encode()
    return sys.stdin.buffer.read()


class _Noun:
    """The calls of one of the two services."""

    def __init__(self, noun: str, module: Any) -> None:
        self.noun = noun
        self.collection = f"{noun}s"
        self._title = noun.capitalize()
        self._module = module

    def request(self, verb: str, suffix: str = "", **fields: Any) -> Any:
        """Such as request("Get") or request("Add", "Version")."""
        return getattr(self._module, f"{verb}{self._title}{suffix}Request")(**fields)

    def message(self, **fields: Any) -> Any:
        return getattr(self._module, self._title)(**fields)

    async def call(self, client: Client, request: Any) -> Any:
        """Send a request; its class names the method."""
        return await getattr(getattr(client, self.collection), type(request).__name__.removesuffix("Request"))(request)

    def pages(self, client: Client, request: Any, items: Callable[[Any], Any]) -> Any:
        method = getattr(getattr(client, self.collection), type(request).__name__.removesuffix("Request"))
        return paginate(method, request, items)

    @property
    def reading_verb(self) -> str:
        """Of the call that tells the bytes: reading a secret is more than reading."""
        return "Access" if self.noun == "secret" else "Get"


def _group(kind: _Noun, text: str) -> click.Group:
    """All commands of a noun."""
    noun = kind.noun
    name_argument = click.argument("name", shell_complete=complete_names(kind.collection))

    @click.group(noun, help=text)
    def group() -> None:
        pass

    @group.command("create", help=f"Make a {noun}, with a first version from a file or standard input.")
    @click.argument("name")
    @_file
    @click.option("--no-version", is_flag=True, help="Without a first version.")
    @click.option("--description", default="", metavar="TEXT", help="For people.")
    @click.option("--label", "-l", multiple=True, metavar="K=V", help=f"Label of the {noun}.")
    @click.option("--validate-only", is_flag=True, help="Check only.")
    @project_option
    @output_option("name")
    @pass_session
    def create(
        session: Session,
        name: str,
        file: str | None,
        no_version: bool,
        description: str,
        label: tuple[str, ...],
        validate_only: bool,
        output: str,
    ) -> None:
        if no_version and file is not None:
            raise click.UsageError("--no-version takes no file")
        payload = None if no_version else _read(noun, file)

        async def work(client: Client) -> Any:
            wanted = kind.message(description=description, labels=key_values("label", label))
            request = kind.request(
                "Create",
                parent=session.project,
                payload=payload,
                request_id=new_id(),
                validate_only=validate_only,
                **{f"{noun}_id": short(name), noun: wanted},
            )
            return await kind.call(client, request)

        print_one(session.run(work), COLUMNS, output)

    @group.command("add", help="Add a version, the latest from now on; instances do with it as their rotate= says.")
    @name_argument
    @_file
    @project_option
    @output_option("name")
    @pass_session
    def add(session: Session, name: str, file: str | None, output: str) -> None:
        payload = _read(noun, file)

        async def work(client: Client) -> Any:
            parent = session.name_in_project(kind.collection, name)
            request = kind.request("Add", "Version", parent=parent, payload=payload, request_id=new_id())
            return await kind.call(client, request)

        print_one(session.run(work), VERSION_COLUMNS, output)

    @group.command("ls", help=f"List {kind.collection}, without their bytes.")
    @click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
    @click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
    @project_option
    @output_option()
    @pass_session
    def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
        async def work(client: Client) -> list[Any]:
            request = getattr(kind._module, f"List{kind._title}sRequest")(
                parent=session.parent(all_projects), filter=filter_text
            )
            return [one async for one in kind.pages(client, request, lambda page: getattr(page, kind.collection))]

        print_list(session.run(work), COLUMNS, output)

    @group.command("get", help=f"Show one {noun}, without its bytes.")
    @name_argument
    @project_option
    @output_option("yaml")
    @pass_session
    def get(session: Session, name: str, output: str) -> None:
        async def work(client: Client) -> Any:
            full_name = session.name_in_project(kind.collection, name)
            return await kind.call(client, kind.request("Get", name=full_name))

        print_one(session.run(work), COLUMNS, output)

    @group.command("update", help="Change description or labels.")
    @name_argument
    @click.option("--description", default=None, metavar="TEXT", help="For people.")
    @click.option("--label", "-l", multiple=True, metavar="K=V", help="All labels anew.")
    @project_option
    @output_option("name")
    @pass_session
    def update(session: Session, name: str, description: str | None, label: tuple[str, ...], output: str) -> None:
        if description is None and not label:
            raise click.UsageError("nothing to change: give an option")
        paths = [*(["description"] if description is not None else []), *(["labels"] if label else [])]

        async def work(client: Client) -> Any:
            wanted = kind.message(
                name=session.name_in_project(kind.collection, name),
                description=description or "",
                labels=key_values("label", label),
            )
            mask = field_mask_pb2.FieldMask(paths=paths)
            return await kind.call(client, kind.request("Update", update_mask=mask, **{noun: wanted}))

        print_one(session.run(work), COLUMNS, output)

    @group.command("rm", help=f"Delete {kind.collection} that no instance has, with all versions.")
    @click.argument("names", nargs=-1, required=True, shell_complete=complete_names(kind.collection))
    @project_option
    @pass_session
    def rm(session: Session, names: tuple[str, ...]) -> None:
        async def work(client: Client) -> None:
            for name in names:
                full_name = session.name_in_project(kind.collection, name)
                await kind.call(client, kind.request("Delete", name=full_name))
                click.echo(f"Deleted {short(full_name)}.")

        session.run(work)

    @group.command("versions", help=f"List the versions of a {noun}, without their bytes.")
    @name_argument
    @project_option
    @output_option()
    @pass_session
    def versions(session: Session, name: str, output: str) -> None:
        async def work(client: Client) -> list[Any]:
            request = kind.request("List", "Versions", parent=session.name_in_project(kind.collection, name))
            return [one async for one in kind.pages(client, request, lambda page: page.versions)]

        print_list(session.run(work), VERSION_COLUMNS, output)

    def add_verb(verb: str, text: str) -> None:
        @group.command(verb.lower(), help=text)
        @name_argument
        @click.argument("version", type=click.IntRange(min=1))
        @project_option
        @output_option("name")
        @pass_session
        def command(session: Session, name: str, version: int, output: str) -> None:
            async def work(client: Client) -> Any:
                full_name = f"{session.name_in_project(kind.collection, name)}/versions/{version}"
                return await kind.call(client, kind.request(verb, "Version", name=full_name))

            print_one(session.run(work), VERSION_COLUMNS, output)

    add_verb("Enable", "Let a version be used again.")
    add_verb("Disable", "Give a version to nobody from now on; instances that have it keep it.")
    add_verb("Destroy", "Forget the bytes of a version that no instance has, for good.")

    @group.command("access", help=f"Print the bytes of a {noun}, of its latest version unless another is named.")
    @name_argument
    @click.option("--version", type=click.IntRange(min=1), help="Number of the version.")
    @project_option
    @pass_session
    def access(session: Session, name: str, version: int | None) -> None:
        async def work(client: Client) -> bytes:
            full_name = f"{session.name_in_project(kind.collection, name)}/versions/{version or 'latest'}"
            answer = await kind.call(client, kind.request(kind.reading_verb, "Version", name=full_name))
            return bytes(answer.payload)

        sys.stdout.buffer.write(session.run(work))
        sys.stdout.buffer.flush()

    return group


secret = _group(
    _Noun("secret", secrets_pb2),
    "Secrets: bytes that instances get and nobody else sees. `moor run --secret NAME` gives one as /run/secrets/NAME, "
    "--secret NAME,env=VARIABLE as a variable that Docker is never told.",
)
config = _group(
    _Noun("config", configs_pb2),
    "Configs: files that instances get and members of the project may read. `moor run --config NAME` gives one as /run/configs/NAME.",
)


@secret.command("rekey")
@pass_session
def rekey(session: Session) -> None:
    """Put all secrets and configs of the installation under a new key; fleet admins only."""

    async def work(client: Client) -> secrets_pb2.RekeySecretsResponse:
        return await client.secrets.RekeySecrets(secrets_pb2.RekeySecretsRequest(), timeout=600.0)

    answer = session.run(work)
    click.echo(f"{answer.payloads} payloads are under the key {answer.key_id} now.")

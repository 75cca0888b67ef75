"""create and update: from options as `moor run` has them, from a file, or both (options win)."""

from collections.abc import Mapping
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.group.policy import FOR_GOOD, NAMES, POLICY, apply_policy, read_file
from cli.group.show import COLUMNS, teller
from cli.instance.create import ensure_template
from cli.instance.lifecycle import timeout_option
from cli.instance.replace import change_spec, given_options
from cli.names import short
from cli.output import output_option, print_one
from cli.progress import OperationProgress
from cli.run_options import INSTANCE, add_options
from cli.session import Session, pass_session, project_option
from cli.spec import key_values
from moorage.client import Client
from moorage.errors import InvalidSpec
from moorage.ids import new_id
from moorage.units import parse_duration
from moorage.v1 import groups_pb2

wait_option = click.option(
    "--wait", is_flag=True, help="Until all members are ready, or the canaries; tells how far it is."
)
#: What an update sets, each as a whole, where it became something else.
_PATHS = (
    "spec.replicas",
    "spec.instance",
    "spec.instance_labels",
    "spec.rollout",
    "spec.depends_on",
    "spec.kept_revisions",
    "labels",
    "delete_protection",
)


def changed(group: groups_pb2.Group, options: Mapping[str, Any], project: str) -> None:
    """Work options of both kinds into a group."""
    apply_policy(group, options)
    own = {name: value for name, value in options.items() if name not in NAMES}
    if given_options(own):
        change_spec(group.spec.instance, own, project)
    if options.get("label"):
        group.spec.instance_labels.clear()
        group.spec.instance_labels.update(key_values("label", options["label"]))


async def _template(client: Client, session: Session, image: str) -> str:
    with OperationProgress(f"template of {image}", quiet=True) as progress:
        return await ensure_template(client, session.project, image, progress)


@click.command("create")
@click.argument("name", required=False)
@click.argument("image", required=False, metavar="[IMAGE_OR_TEMPLATE]")
@click.argument("command", nargs=-1, metavar="[COMMAND]...", type=click.UNPROCESSED)
@add_options((*POLICY, *FOR_GOOD))
@click.option("-i", "--interactive", "stdin_open", is_flag=True, help="Keep their input open for attach.")
@click.option("-t", "--tty", is_flag=True, help="Give them a terminal.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@wait_option
@timeout_option
@add_options(INSTANCE)
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    /,
    name: str | None,
    image: str | None,
    validate_only: bool,
    wait: bool,
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Make a group: NAME and IMAGE_OR_TEMPLATE as `moor run` takes them, or all of it from a file (-f).

    A COMMAND with options of its own goes behind --: moor group create web busybox -r 3 -- httpd -f -p 80.
    """
    group = read_file(options["file"]) if options["file"] else groups_pb2.Group()
    own_name = name or short(group.name)
    if not own_name:
        raise click.UsageError("give the group a NAME")
    if not image and not group.spec.instance.template:
        raise click.UsageError(
            "say what its members are made from: IMAGE_OR_TEMPLATE, or a file with spec.instance.template"
        )
    if not options["file"] and options["replicas"] is None and not options["per_host"]:
        group.spec.replicas = 1
    changed(group, options, session.project)
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> groups_pb2.Group:
        if image:
            group.spec.instance.template = await _template(client, session, image)
        request = groups_pb2.CreateGroupRequest(
            parent=session.project,
            group_id=own_name,
            group=groups_pb2.Group(labels=group.labels, spec=group.spec, delete_protection=group.delete_protection),
            request_id=new_id(),
            validate_only=validate_only,
        )
        made = await client.groups.CreateGroup(request)
        return await waited(client, made, seconds) if wait and not validate_only else made

    print_one(session.run(work), COLUMNS, output)


@click.command("update")
@click.argument("name", required=False, shell_complete=complete_names("groups"))
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
@click.option("--image", metavar="IMAGE_OR_TEMPLATE", help="What members are made from.")
@add_options(POLICY)
@click.option("--validate-only", is_flag=True, help="Check only.")
@wait_option
@timeout_option
@add_options(INSTANCE)
@project_option
@output_option("name")
@pass_session
def update(
    session: Session,
    /,
    name: str | None,
    image: str | None,
    validate_only: bool,
    wait: bool,
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Change a group; its members follow, some at a time.

    Options change what they name, and one that can be repeated replaces all values that were there. A file (-f) replaces the whole.
    """
    wanted = wish(session, name, image, options)
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> groups_pb2.Group:
        request = await wanted.request(client)
        request.validate_only = validate_only
        made = await client.groups.UpdateGroup(request)
        return await waited(client, made, seconds) if wait and not validate_only else made

    print_one(session.run(work), COLUMNS, output)


class Wish:
    """What `update` was asked for, and `plan`."""

    def __init__(self, session: Session, name: str, image: str | None, options: Mapping[str, Any]) -> None:
        self.name = session.name_in_project("groups", name)
        self._session = session
        self._image = image
        self._options = options

    async def request(self, client: Client) -> groups_pb2.UpdateGroupRequest:
        """The update, of what is there now: with its etag, so that two at once cannot undo each other."""
        before = await client.groups.GetGroup(groups_pb2.GetGroupRequest(name=self.name))
        after = groups_pb2.Group()
        after.CopyFrom(before)
        if self._options["file"]:
            found = read_file(self._options["file"])
            after.spec.CopyFrom(found.spec)
            after.spec.mode = found.spec.mode or before.spec.mode
            after.delete_protection = found.delete_protection
            after.labels.clear()
            after.labels.update(found.labels)
        changed(after, self._options, self._session.project)
        if self._image:
            after.spec.instance.template = await _template(client, self._session, self._image)
        paths = [path for path in _PATHS if _part(after, path) != _part(before, path)]
        if self._options["file"]:
            paths += ["spec.mode", "spec.slots"]  # refused where they are others
        after.ClearField("status")
        return groups_pb2.UpdateGroupRequest(
            group=after, update_mask=field_mask_pb2.FieldMask(paths=paths or ["labels"])
        )


def wish(session: Session, name: str | None, image: str | None, options: Mapping[str, Any]) -> Wish:
    """From the options of the command.

    Raises:
        click.UsageError: nothing shall be changed, or no group is named.
    """
    own_name = name or (short(read_file(options["file"]).name) if options["file"] else "")
    if not own_name:
        raise click.UsageError("say which group")
    if not image and not given_options(options) and options["delete_protection"] is None:
        raise click.UsageError("nothing to change: give an option")
    if options["file"] and str(options["file"]) == "-" and not name:
        raise InvalidSpec.of("file", "from standard input it is read once: give the NAME as well")
    return Wish(session, own_name, image, options)


def _part(group: groups_pb2.Group, path: str) -> Any:
    found: Any = group
    for name in path.split("."):
        found = getattr(found, name)
    return found


async def waited(client: Client, group: groups_pb2.Group, seconds: float) -> groups_pb2.Group:
    """The group once it is as it was asked to be. Raises as `Client.wait_group`."""
    return await client.wait_group(group.name, seconds, revision=group.status.target_revision, on_change=teller())

"""replace and update: a new container in an instance's place, and what can be changed while it runs."""

import os
from collections.abc import Mapping
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.host import parse_label_changes
from cli.instance.inspect import COLUMNS
from cli.instance.lifecycle import HAS_RUN, no_wait_option, timeout_option
from cli.names import short
from cli.output import output_option, print_one
from cli.probes import apply_probes
from cli.run_options import INSTANCE, PROBES, PROTECTION, RESOURCES, add_options, many, one
from cli.session import Session, pass_session, project_option
from cli.spec import apply_options, apply_resources, key_values, publish, restart, user_data
from moorage.client import Client
from moorage.units import parse_duration
from moorage.v1 import instances_pb2

# Lists and maps that an option replaces as a whole: adding to what was there could never take anything away.
_REPLACED = {
    "env": "env",
    "env_file": "env",
    "publish": "published_ports",
    "ulimit": "ulimits",
    "cap_add": "capabilities_add",
    "cap_drop": "capabilities_drop",
    "mount": "mounts",
    "volume": "mounts",
    "tmpfs": "mounts",
    "device": "devices",
    "sysctl": "sysctls",
    "dns": "dns_servers",
    "dns_search": "dns_search",
    "add_host": "extra_hosts",
    "gpus": "device_requests",
    "device_request": "device_requests",
}
_OF_VOLUMES = {"mount", "volume"}  # either may name volumes as well
_REPLACED_IN_PLACEMENT = {
    "host_label": "host_labels",
    "affinity": "affinity",
    "anti_affinity": "anti_affinity",
    "spread": "spread",
    "distinct": "distinct",
    "tolerate": "tolerations",
}


def given_options(options: Mapping[str, Any]) -> set[str]:
    """Names of those that say something."""
    return {key for key, value in options.items() if value not in (None, False, ())}


def change_spec(spec: instances_pb2.InstanceSpec, options: Mapping[str, Any], project: str) -> None:
    """Work the options of run_options.INSTANCE into a spec that is there: one that can be repeated replaces all values."""
    given = given_options(options)
    for field in {_REPLACED[key] for key in given & _REPLACED.keys()}:
        spec.ClearField(field)  # type: ignore[arg-type]  # names of fields, from the table above
    if given & _OF_VOLUMES:
        spec.ClearField("volumes")
    for field in {_REPLACED_IN_PLACEMENT[key] for key in given & _REPLACED_IN_PLACEMENT.keys()}:
        spec.placement.ClearField(field)  # type: ignore[arg-type]
    apply_options(spec, options, project, os.environ)


@click.command("replace", context_settings={"allow_interspersed_args": False})
@click.argument("name", shell_complete=complete_names("instances"))
@click.argument("command", nargs=-1, metavar="[COMMAND]...", type=click.UNPROCESSED)
@one("--template", metavar="TEMPLATE", text="Another template; default the same, with its newest digest.")
@click.option("--dry-run", is_flag=True, help="Check only.")
@no_wait_option
@timeout_option
@add_options(INSTANCE)
@project_option
@output_option("name")
@pass_session
def replace(
    session: Session,
    /,
    name: str,
    template: str | None,
    dry_run: bool,
    no_wait: bool,
    timeout: str,
    output: str,
    **options: Any,
) -> None:
    """Make a new container in the place of an instance: same name, same addresses, new files.

    Options change its spec; one that can be repeated replaces all values that were there.
    """
    full_name = session.name_in_project("instances", name)
    seconds = parse_duration(timeout, field="timeout")
    is_changed = bool(given_options(options))

    async def work(client: Client) -> instances_pb2.Instance:
        before = await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))
        request = instances_pb2.ReplaceInstanceRequest(name=before.name, validate_only=dry_run)
        if is_changed or template:
            request.etag = before.etag  # the spec is made from this version of it
            request.spec.CopyFrom(before.spec)
            if template:
                request.spec.template = session.name_in_project("templates", template)
            change_spec(request.spec, options, session.project)
        changed = await client.instances.ReplaceInstance(request)
        if dry_run or no_wait:
            return changed
        return await client.wait_instance(before.name, HAS_RUN, seconds, after_run=before.status.run)

    print_one(session.run(work), COLUMNS, output)


@click.command("update")
@click.argument("name", shell_complete=complete_names("instances"))
@many("--label", "-l", metavar="K=V | K-", text="Set or remove a label.")
@many("--publish", "-p", metavar="[ADDRESS:]HOST_PORT:PORT[/udp]", text="Published ports, all of them.")
@many("--add-host", metavar="NAME:ADDRESS", text="Lines of /etc/hosts, all of them.")
@one("--restart", metavar="POLICY", text="no, on-failure[:N] or always.")
@one("--user-data", metavar="TEXT | @FILE", text="What it reads at 169.254.169.254; '' removes it.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@add_options((*RESOURCES, *PROBES, *PROTECTION))
@project_option
@output_option("name")
@pass_session
def update(session: Session, /, name: str, validate_only: bool, output: str, **options: Any) -> None:
    """Change an instance in place; what needs a new container is for `moor instance replace`."""
    full_name = session.name_in_project("instances", name)

    async def work(client: Client) -> instances_pb2.Instance:
        found = await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))
        changed, paths = _updated(found, options)
        request = instances_pb2.UpdateInstanceRequest(
            instance=changed, update_mask=field_mask_pb2.FieldMask(paths=paths), validate_only=validate_only
        )
        return await client.instances.UpdateInstance(request)

    if not given_options(options) and options["delete_protection"] is None:
        raise click.UsageError("nothing to change: give an option")
    print_one(session.run(work), COLUMNS, output)


def _updated(found: instances_pb2.Instance, options: dict[str, Any]) -> tuple[instances_pb2.Instance, list[str]]:
    """The instance as it shall be, and the mask of what changed."""
    changed = instances_pb2.Instance(name=found.name, etag=found.etag, labels=found.labels)
    paths = []
    if options["label"]:
        wanted, removed = parse_label_changes(options["label"])
        changed.labels.update(wanted)
        for key in removed:
            changed.labels.pop(key, None)
        paths.append("labels")
    changed.spec.resources.CopyFrom(found.spec.resources)
    apply_resources(changed.spec.resources, options)
    if changed.spec.resources != found.spec.resources:
        paths.append("spec.resources")
    if options["restart"]:
        changed.spec.restart.CopyFrom(restart(options["restart"]))
        paths.append("spec.restart")
    if options["publish"]:
        for word in options["publish"]:
            changed.spec.published_ports.extend(publish(word))
        paths.append("spec.published_ports")
    if options["add_host"]:
        words = (word.replace(":", "=", 1) for word in options["add_host"])
        changed.spec.extra_hosts.update(key_values("add-host", words))
        paths.append("spec.extra_hosts")
    if options["user_data"] is not None:
        changed.spec.user_data = user_data(options["user_data"])
        paths.append("spec.user_data")
    changed.spec.probes.CopyFrom(found.spec.probes)
    if apply_probes(changed.spec, options):
        paths.append("spec.probes")
    if options["delete_protection"] is not None:
        changed.spec.delete_protection = options["delete_protection"]
        paths.append("spec.delete_protection")
    return changed, paths


@click.command("rename")
@click.argument("name", shell_complete=complete_names("instances"))
@click.argument("new_name")
@click.option("--validate-only", is_flag=True, help="Check only.")
@project_option
@output_option("name")
@pass_session
def rename(session: Session, name: str, new_name: str, validate_only: bool, output: str) -> None:
    """Give an instance another name while it runs; its host name, DNS, and the rules and balancers that name it follow."""

    async def work(client: Client) -> instances_pb2.Instance:
        request = instances_pb2.RenameInstanceRequest(
            name=session.name_in_project("instances", name),
            new_instance_id=short(new_name),
            validate_only=validate_only,
        )
        return await client.instances.RenameInstance(request)

    print_one(session.run(work), COLUMNS, output)

"""The options of a group itself (how many, how members are replaced), and files that have all of it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml
from google.protobuf import json_format

from cli.dependencies import DEPENDS_ON, dependencies
from cli.run_options import PROTECTION, Decorator, flag, many, one
from cli.spec import duration, key_values
from cli.volume.words import slot_volume
from moorage.errors import InvalidSpec
from moorage.v1 import groups_pb2

_ORDERS = {
    "start-first": groups_pb2.ROLLOUT_ORDER_START_FIRST,
    "stop-first": groups_pb2.ROLLOUT_ORDER_STOP_FIRST,
}

#: What can be changed later too.
POLICY: tuple[Decorator, ...] = (
    click.option("--replicas", "-r", type=click.IntRange(min=0), help="Members; 1 when it is made, if not given."),
    click.option("--order", type=click.Choice(list(_ORDERS)), help="What comes first when a member is replaced."),
    one("--max-surge", metavar="N | N%", text="Members beyond the number meanwhile; default 1."),
    one("--max-unavailable", metavar="N | N%", text="Members that may be missing meanwhile; default 0."),
    one("--min-ready", metavar="TIME", text="How long a member must be ready to count."),
    one("--progress-deadline", metavar="TIME", text="How long a rollout may make no progress; default 10m."),
    click.option("--rollback/--no-rollback", default=None, help="Go back by itself when a rollout fails (default)."),
    click.option("--canaries", type=click.IntRange(min=0), help="Members that get a new revision first and alone."),
    click.option("--failure-limit", type=click.IntRange(min=1), help="Failed starts of one member; default 3."),
    click.option("--keep", "kept_revisions", type=click.IntRange(1, 100), help="Revisions kept; default 10."),
    DEPENDS_ON,
    *PROTECTION,
    click.option("--group-label", multiple=True, metavar="K=V", help="Label of the group itself."),
    click.option(
        "-f", "--file", type=click.Path(path_type=Path), help="YAML or JSON as `get` prints it; - is standard input."
    ),
)
#: What is settled when a group is made.
FOR_GOOD: tuple[Decorator, ...] = (
    flag("--per-host", text="One member on each host that fits, instead of a number."),
    flag("--sticky-name", text="Members are called NAME-0, NAME-1 and so on, for good."),
    flag("--sticky-address", text="Members keep their addresses when they are replaced."),
    many(
        "--slot-volume",
        "slot_volumes",
        metavar="NAME:/PATH[,K=V...]",
        text="A volume for each slot: owner=UID:GID, mode=BITS, size=BYTES, on-host-loss=P, removal=P, sharing=S, ro.",
    ),
)
NAMES = frozenset(
    {
        *(
            "replicas",
            "order",
            "max_surge",
            "max_unavailable",
            "min_ready",
            "progress_deadline",
            "rollback",
            "canaries",
            "depends_on",
        ),
        *(
            "failure_limit",
            "kept_revisions",
            "group_label",
            "delete_protection",
            "file",
            "per_host",
            "sticky_name",
            "sticky_address",
            "slot_volumes",
        ),
    }
)


def apply_policy(group: groups_pb2.Group, options: Mapping[str, Any]) -> None:
    """Work the options above into a group; what was not given stays."""
    spec, rollout = group.spec, group.spec.rollout
    if options.get("replicas") is not None:
        spec.replicas = options["replicas"]
    if options.get("order"):
        rollout.order = _ORDERS[options["order"]]
    for name in ("max_surge", "max_unavailable"):
        if options.get(name) is not None:
            setattr(rollout, name, options[name])
    for name in ("min_ready", "progress_deadline"):
        if options.get(name):
            getattr(rollout, name).CopyFrom(duration(name.replace("_", "-"), options[name]))
    if options.get("rollback") is not None:
        rollout.no_rollback = not options["rollback"]
    for name in ("canaries", "failure_limit"):
        if options.get(name) is not None:
            setattr(rollout, name, options[name])
    if options.get("kept_revisions"):
        spec.kept_revisions = options["kept_revisions"]
    if options.get("depends_on"):
        del spec.depends_on[:]
        spec.depends_on.extend(dependencies(options["depends_on"]))
    if options.get("group_label"):
        group.labels.clear()
        group.labels.update(key_values("group-label", options["group_label"]))
    if options.get("delete_protection") is not None:
        group.delete_protection = options["delete_protection"]
    if options.get("per_host"):
        spec.mode = groups_pb2.GROUP_MODE_PER_HOST
    if options.get("sticky_name"):
        spec.slots.sticky_name = True
    if options.get("sticky_address"):
        spec.slots.sticky_address = True
    if options.get("slot_volumes"):
        del spec.slots.volumes[:]
        spec.slots.volumes.extend(slot_volume(word) for word in options["slot_volumes"])


def read_file(path: Path) -> groups_pb2.Group:
    """A group of a file: labels, spec and delete protection, and a name if it has one; status and the like are passed over.

    Raises:
        InvalidSpec: it cannot be read, or has a field that no group has.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSpec.of("file", f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InvalidSpec.of("file", f"{path} must be a mapping with a spec, as `moor group get` prints it")
    known = {key: found[key] for key in ("name", "labels", "spec", "delete_protection") if found.get(key)}
    unknown = sorted(set(map(str, found)) - {field.name for field in groups_pb2.Group.DESCRIPTOR.fields})
    if unknown:
        raise InvalidSpec.of("file", f"{path} has {unknown[0]}, which no group has")
    try:
        return json_format.ParseDict(known, groups_pb2.Group())
    except json_format.ParseError as error:
        raise InvalidSpec.of("file", f"{path}: {error}") from error

"""From what people write of volumes to the messages of the API, and back. Pure."""

from typing import Any

from cli.names import in_project
from moorage.errors import InvalidSpec
from moorage.units import parse_bytes
from moorage.v1 import groups_pb2, volumes_pb2

SHARING = {
    "exclusive": volumes_pb2.VOLUME_SHARING_EXCLUSIVE,
    "shared": volumes_pb2.VOLUME_SHARING_SHARED,
}
ON_HOST_LOSS = {
    "wait": volumes_pb2.HOST_LOSS_POLICY_WAIT,
    "replace": volumes_pb2.HOST_LOSS_POLICY_REPLACE,
    "fail": volumes_pb2.HOST_LOSS_POLICY_FAIL,
}
REMOVAL = {
    "retain": volumes_pb2.VOLUME_REMOVAL_RETAIN,
    "with-owner": volumes_pb2.VOLUME_REMOVAL_WITH_OWNER,
}


def is_volume(word: str) -> bool:
    """Whether `-v` names a volume, and no path of the host."""
    return not word.startswith(("/", ".", "~"))


def short_mount(project: str, word: str) -> volumes_pb2.VolumeMount:
    """`NAME[/FOLDER]:/PATH[:ro]`, Docker's short form.

    Raises:
        InvalidSpec: not of this form.
    """
    parts = word.split(":")
    if len(parts) not in (2, 3) or not parts[0] or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise InvalidSpec.of("volume", f"{word!r}: write NAME:/PATH[:ro] or NAME/FOLDER:/PATH[:ro]")
    name, _, sub_path = parts[0].partition("/")
    return volumes_pb2.VolumeMount(
        volume=in_project(project, "volumes", name),
        target=parts[1],
        read_only=parts[2:] == ["ro"],
        sub_path=sub_path,
    )


def long_mount(project: str, word: str) -> volumes_pb2.VolumeMount:
    """`type=volume,source=NAME,target=/PATH[,subpath=FOLDER][,readonly]`.

    Raises:
        InvalidSpec: not of this form.
    """
    made = volumes_pb2.VolumeMount()
    for part in word.split(","):
        key, equals, value = part.partition("=")
        if key in ("source", "src"):
            made.volume = in_project(project, "volumes", value)
        elif key in ("target", "dst", "destination"):
            made.target = value
        elif key in ("subpath", "volume-subpath"):
            made.sub_path = value
        elif key in ("readonly", "ro"):
            made.read_only = not equals or value in ("1", "true")
        elif part != "type=volume":
            example = "write type=volume,source=NAME,target=/PATH,subpath=FOLDER,readonly"
            raise InvalidSpec.of("mount", f"{word!r}: {part!r} is not known; {example}")
    return made


def slot_volume(word: str) -> groups_pb2.SlotVolume:
    """`NAME:/PATH[,ro][,owner=UID:GID][,mode=BITS][,size=BYTES][,on-host-loss=P][,removal=P][,sharing=S]`.

    Raises:
        InvalidSpec: not of this form.
    """
    first, *rest = word.split(",")
    name, colon, target = first.partition(":")
    if not name or not colon or not target.startswith("/"):
        raise InvalidSpec.of("slot-volume", f"{word!r}: write NAME:/PATH, such as data:/var/lib/data,owner=999")
    made = groups_pb2.SlotVolume(name=name, target=target)
    for part in rest:
        key, _, value = part.partition("=")
        match key:
            case "ro":
                made.read_only = True
            case "owner":
                made.spec.owner_uid, made.spec.owner_gid = owner(value)
            case "mode":
                made.spec.mode = mode(value)
            case "size":
                made.spec.size_bytes = parse_bytes(value, field="slot-volume")
            case "on-host-loss" if value in ON_HOST_LOSS:
                made.spec.on_host_loss = ON_HOST_LOSS[value]
            case "removal" if value in REMOVAL:
                made.spec.removal = REMOVAL[value]
            case "sharing" if value in SHARING:
                made.spec.sharing = SHARING[value]
            case _:
                raise InvalidSpec.of("slot-volume", f"{word!r}: {part!r} is not known; see `moor group create --help`")
    return made


def owner(word: str) -> tuple[int, int]:
    """`UID[:GID]`, both numbers: names mean nothing outside an image.

    Raises:
        InvalidSpec: not of this form.
    """
    uid, colon, gid = word.partition(":")
    if not uid.isdecimal() or (colon and not gid.isdecimal()):
        raise InvalidSpec.of("owner", f"{word!r}: write UID or UID:GID, in numbers")
    return int(uid), int(gid or uid)


def mode(word: str) -> int:
    """Octal permission bits.

    Raises:
        InvalidSpec: not of this form.
    """
    try:
        return int(word, 8)
    except ValueError:
        raise InvalidSpec.of("mode", f"{word!r}: write octal permission bits, such as 0750") from None


def word_of(table: dict[str, Any], value: int) -> str:
    """What people write for a value; empty for one that is not set."""
    return next((word for word, number in table.items() if number == value), "")

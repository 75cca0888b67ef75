"""What an instance asks of its host against what its project's policy allows. Nothing of it is allowed by default.

Only names are judged here. A path below an allowed one may still be a symbolic link that leads elsewhere, which only
the host can see: the agent resolves a bind source without leaving the allowed path, and refuses otherwise.
"""

import posixpath
from dataclasses import dataclass
from typing import Final

from moorage.errors import FieldViolation

#: What Docker gives a container anyway, without NET_RAW, which Moorage drops: adding one of these asks for nothing new
#: (`drop ALL, add CHOWN` must work without a policy).
DEFAULT_CAPABILITIES: Final = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
ALL: Final = "ALL"


@dataclass(frozen=True, slots=True)
class ProjectPolicy:
    """What a project's instances may ask for; mirrors `moorage.v1.ProjectPolicy`.

    Capabilities are without CAP_; `ALL` allows all. A path allows all below it, a device only itself.
    """

    allow_privileged: bool = False
    allowed_host_paths: tuple[str, ...] = ()
    allowed_devices: tuple[str, ...] = ()
    allowed_capabilities: tuple[str, ...] = ()
    allowed_bridges: tuple[str, ...] = ()
    allowed_nics: tuple[str, ...] = ()
    allowed_device_kinds: tuple[str, ...] = ()
    max_priority: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing asked for, and the field of the request that asks (`instance.spec.mounts[0].source`)."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class HostAccess:
    """All that a request asks of a host. `privileged_field` is the field's path if it is set, else empty."""

    privileged_field: str = ""
    bind_mounts: tuple[Asked, ...] = ()
    devices: tuple[Asked, ...] = ()
    capabilities: tuple[Asked, ...] = ()
    bridges: tuple[Asked, ...] = ()
    nics: tuple[Asked, ...] = ()  # of the host
    device_kinds: tuple[Asked, ...] = ()
    priority: int = 0
    priority_field: str = ""


def check(asked: HostAccess, policy: ProjectPolicy) -> tuple[FieldViolation, ...]:
    """Everything that the policy does not allow, in the order of the request's parts; empty if all is allowed.

    Reasons: POLICY_PRIVILEGED, POLICY_HOST_PATH, POLICY_DEVICE, POLICY_CAPABILITY, POLICY_BRIDGE, POLICY_NIC, POLICY_DEVICE_KIND,
    POLICY_PRIORITY, and INVALID_PATH for
    a path that is not absolute or climbs.
    """
    violations: list[FieldViolation] = []
    if asked.privileged_field and not policy.allow_privileged:
        violations.append(_refused(asked.privileged_field, "privileged instances", "POLICY_PRIVILEGED"))
    violations += _check_paths(asked, policy)
    allowed_capabilities = {normal_capability(name) for name in policy.allowed_capabilities}
    for item in asked.capabilities:
        name = normal_capability(item.value)
        is_allowed = name in DEFAULT_CAPABILITIES or name in allowed_capabilities
        if not is_allowed and ALL not in allowed_capabilities:
            violations.append(_refused(item.field, f"the capability {name[:50]}", "POLICY_CAPABILITY"))
    for item in asked.bridges:
        if item.value not in policy.allowed_bridges:
            violations.append(_refused(item.field, f"the bridge {item.value[:50]!r}", "POLICY_BRIDGE"))
    for item in asked.nics:
        if item.value not in policy.allowed_nics:
            violations.append(_refused(item.field, f"the NIC {item.value[:50]!r} of the hosts", "POLICY_NIC"))
    kinds = policy.allowed_device_kinds
    for item in asked.device_kinds:
        if not {item.value, item.value.rpartition("/")[2], ALL} & set(kinds):
            violations.append(_refused(item.field, f"devices of the kind {item.value[:50]!r}", "POLICY_DEVICE_KIND"))
    if asked.priority > max(0, policy.max_priority):
        what = f"a priority above {max(0, policy.max_priority)}"
        violations.append(_refused(asked.priority_field, what, "POLICY_PRIORITY"))
    return tuple(violations)


def normal_path(path: str) -> str | None:
    """The path with single slashes and without `.`; None if it is relative, holds NUL, or climbs.

    `..` is refused, not resolved: behind a symbolic link the kernel climbs from where the link leads, so a text that
    looks as if it stayed below an allowed path may not.
    """
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        return None
    return "/" + posixpath.normpath(path).lstrip("/")


def is_below(path: str, allowed: str) -> bool:
    """Whether a normal path is `allowed` or below it, by whole components: /data allows /data/x and not /database."""
    return path == allowed or path.startswith(allowed.rstrip("/") + "/")


def normal_capability(name: str) -> str:
    """Upper case without CAP_."""
    return name.strip().upper().removeprefix("CAP_")


def _check_paths(asked: HostAccess, policy: ProjectPolicy) -> list[FieldViolation]:
    violations: list[FieldViolation] = []
    # A path in the policy that is not normal allows nothing.
    allowed_paths = [path for text in policy.allowed_host_paths if (path := normal_path(text)) is not None]
    allowed_devices = {path for text in policy.allowed_devices if (path := normal_path(text)) is not None}
    for item, is_device in [(item, False) for item in asked.bind_mounts] + [(item, True) for item in asked.devices]:
        path = normal_path(item.value)
        if path is None:
            problem = f"{item.value[:200]!r} must be an absolute path without '..'"
            violations.append(FieldViolation(item.field, problem, "INVALID_PATH"))
        elif is_device and path not in allowed_devices:
            violations.append(_refused(item.field, f"the device {path[:200]!r}", "POLICY_DEVICE"))
        elif not is_device and not any(is_below(path, allowed) for allowed in allowed_paths):
            violations.append(_refused(item.field, f"the host's path {path[:200]!r}", "POLICY_HOST_PATH"))
    return violations


def _refused(field: str, what: str, reason: str) -> FieldViolation:
    return FieldViolation(field, f"the project's policy does not allow {what}; a fleet admin can", reason)

"""What a project's policy lets an instance ask of its host."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.access.policy import Asked, HostAccess, ProjectPolicy, check, is_below, normal_path


def reasons(asked: HostAccess, policy: ProjectPolicy) -> list[tuple[str, str]]:
    return [(violation.field, violation.reason) for violation in check(asked, policy)]


def bind(path: str, *allowed: str) -> list[str]:
    asked = HostAccess(bind_mounts=(Asked("mounts[0].source", path),))
    return [reason for _, reason in reasons(asked, ProjectPolicy(allowed_host_paths=allowed))]


def capability(name: str, *allowed: str) -> list[str]:
    asked = HostAccess(capabilities=(Asked("capabilities_add[0]", name),))
    return [reason for _, reason in reasons(asked, ProjectPolicy(allowed_capabilities=allowed))]


EVERYTHING = HostAccess(
    privileged_field="spec.privileged",
    bind_mounts=(Asked("spec.mounts[0].source", "/etc"), Asked("spec.mounts[2].source", "/data/x")),
    devices=(Asked("spec.devices[0].host_path", "/dev/kvm"),),
    capabilities=(Asked("spec.capabilities_add[0]", "NET_ADMIN"),),
    bridges=(Asked("network.bridge", "br0"),),
    nics=(Asked("network.parent", "eth1"),),
    device_kinds=(Asked("spec.device_requests[0].kind", "nvidia.com/gpu"),),
    priority=5,
    priority_field="spec.placement.priority",
)


def test_nothing_is_allowed_by_default_and_all_refusals_come_at_once() -> None:
    assert reasons(EVERYTHING, ProjectPolicy()) == [
        ("spec.privileged", "POLICY_PRIVILEGED"),
        ("spec.mounts[0].source", "POLICY_HOST_PATH"),
        ("spec.mounts[2].source", "POLICY_HOST_PATH"),
        ("spec.devices[0].host_path", "POLICY_DEVICE"),
        ("spec.capabilities_add[0]", "POLICY_CAPABILITY"),
        ("network.bridge", "POLICY_BRIDGE"),
        ("network.parent", "POLICY_NIC"),
        ("spec.device_requests[0].kind", "POLICY_DEVICE_KIND"),
        ("spec.placement.priority", "POLICY_PRIORITY"),
    ]
    assert check(HostAccess(), ProjectPolicy()) == ()


def test_all_can_be_allowed() -> None:
    policy = ProjectPolicy(True, ("/etc", "/data"), ("/dev/kvm",), ("NET_ADMIN",), ("br0",), ("eth1",), ("gpu",), 5)
    assert check(EVERYTHING, policy) == ()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/data", ["/data"]),
        ("/data/", ["/data"]),
        ("/data/x/y", ["/data/"]),
        ("//data///x/./y", ["/data"]),
        ("/anything", ["/"]),
        ("/b", ["/a", "/b"]),
    ],
)
def test_allowed_paths(path: str, allowed: list[str]) -> None:
    assert bind(path, *allowed) == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/database", ["/data"]),
        ("/", ["/data"]),
        ("/dat", ["/data"]),
        ("/data", ["/data/x"]),
        ("/data", ["data", ""]),
        ("/x", ["/a/../x"]),
    ],
)
def test_refused_paths(path: str, allowed: list[str]) -> None:
    assert bind(path, *allowed) == ["POLICY_HOST_PATH"]


@pytest.mark.parametrize("path", ["", "data", "./data", "/data/../etc", "/data/..", "/data/x\0", "~/x"])
def test_paths_that_are_none(path: str) -> None:
    assert bind(path, "/") == ["INVALID_PATH"]


@given(
    st.lists(st.sampled_from(["data", "etc", ".", "..", "", "database"]), max_size=6),
    st.sampled_from(["/data", "/data/etc"]),
)
def test_what_is_let_through_stays_below(parts: list[str], allowed: str) -> None:
    path = "/" + "/".join(parts)
    if bind(path, allowed) == []:
        resolved = posixpath.normpath(path).replace("//", "/")
        assert (resolved + "/").startswith(allowed + "/")
        assert ".." not in parts
        normal = normal_path(path)
        assert normal is not None
        assert is_below(normal, allowed)


@pytest.mark.parametrize(
    ("name", "allowed", "result"),
    [
        ("CHOWN", [], []),  # Docker gives it anyway
        ("cap_chown", [], []),
        ("NET_RAW", [], ["POLICY_CAPABILITY"]),  # Docker gives it, Moorage does not
        ("SYS_ADMIN", ["NET_ADMIN"], ["POLICY_CAPABILITY"]),
        ("CAP_NET_ADMIN", ["net_admin"], []),
        ("NET_ADMIN", ["CAP_NET_ADMIN"], []),
        ("ALL", ["NET_ADMIN"], ["POLICY_CAPABILITY"]),
        ("ALL", ["ALL"], []),
        ("SYS_ADMIN", ["ALL"], []),
        ("", [], ["POLICY_CAPABILITY"]),
    ],
)
def test_capabilities(name: str, allowed: list[str], result: list[str]) -> None:
    assert capability(name, *allowed) == result


def test_a_device_allows_only_itself() -> None:
    asked = HostAccess(devices=(Asked("a", "/dev/dri/card0"), Asked("b", "/dev/dri"), Asked("c", "/dev//dri")))
    assert reasons(asked, ProjectPolicy(allowed_devices=("/dev/dri",))) == [("a", "POLICY_DEVICE")]

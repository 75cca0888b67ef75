"""The files that instances mount."""

from dataclasses import replace
from pathlib import Path

from hostagent.domain import ContainerSpec, DesiredState, InstanceAssignment, Mount, NicAssignment
from hostagent.files import FileTexts, InstanceFiles, render
from moorage.ids import InstanceId, NetworkId

ASSIGNMENT = InstanceAssignment(
    instance_id=InstanceId("i1"),
    name="web",
    project="p",
    generation=1,
    run_request=1,
    desired=DesiredState.RUNNING,
    container=ContainerSpec(),
    nics=(NicAssignment(NetworkId("n1"), "eth0", "02:00:00:00:00:01", ("10.1.0.5/24", "fd00::5/64")),),
    hostname="www",
    dns_servers=("9.9.9.9",),
    dns_search=("example.org", "example.com"),
    extra_hosts=(("db", "10.9.9.9"),),
)


def test_own_names_come_first_then_the_users_then_the_peers() -> None:
    texts = render(
        ASSIGNMENT, [("10.1.0.7", ("b",)), ("10.1.0.6", ("a", "aa")), ("10.1.0.5", ("www",)), ("10.1.0.8", ())]
    )
    assert texts.hosts.splitlines()[2:] == [
        "10.1.0.5\twww web",
        "fd00::5\twww web",
        "10.9.9.9\tdb",
        "10.1.0.6\ta aa",
        "10.1.0.7\tb",
    ]
    assert texts.resolv_conf == "nameserver 127.0.0.11\nsearch example.org example.com\n"
    assert texts.hostname == "www\n"


def test_the_networks_domains_are_searched_after_the_users() -> None:
    texts = render(ASSIGNMENT, (), ["back.internal", "example.com"])
    assert texts.resolv_conf == "nameserver 127.0.0.11\nsearch example.org example.com back.internal\n"
    assert render(replace(ASSIGNMENT, dns_search=()), ()).resolv_conf == "nameserver 127.0.0.11\n"


def test_a_shorter_text_replaces_a_longer_one_in_the_same_inode(tmp_path: Path) -> None:
    files = InstanceFiles(tmp_path / "instances")
    files.write(ASSIGNMENT.instance_id, FileTexts("long text\n", "", "a\n"))
    path = tmp_path / "instances/i1/hosts"
    inode = path.stat().st_ino
    files.write(ASSIGNMENT.instance_id, FileTexts("x\n", "", "a\n"))
    assert path.read_text() == "x\n"
    assert path.stat().st_ino == inode
    assert path.stat().st_mode & 0o444 == 0o444
    assert files.found() == {"i1"}
    files.remove(ASSIGNMENT.instance_id)
    files.remove(ASSIGNMENT.instance_id)
    assert files.found() == set()


def test_a_users_own_mount_wins(tmp_path: Path) -> None:
    files = InstanceFiles(tmp_path)
    targets = [mount.target for mount in files.mounts(ASSIGNMENT.instance_id, [Mount("/etc/hosts", source="/mine")])]
    assert targets == ["/etc/resolv.conf", "/etc/hostname"]

"""What people write of volumes."""

import pytest

from cli.volume.words import is_volume, long_mount, mode, owner, short_mount, slot_volume
from moorage.errors import InvalidSpec
from moorage.v1 import volumes_pb2

P = "projects/default"


def test_a_name_is_a_volume_and_a_path_is_none() -> None:
    assert is_volume("data:/data")
    assert not any(map(is_volume, ("/srv:/data", "./srv:/data", "~/srv:/data")))


def test_short_and_long_form_mean_the_same() -> None:
    wanted = volumes_pb2.VolumeMount(volume=f"{P}/volumes/data", target="/d", read_only=True, sub_path="a/b")
    assert short_mount(P, "data/a/b:/d:ro") == wanted
    assert long_mount(P, "type=volume,source=data,target=/d,subpath=a/b,readonly") == wanted
    assert short_mount(P, "data:/d:rw") == volumes_pb2.VolumeMount(volume=f"{P}/volumes/data", target="/d")


@pytest.mark.parametrize("word", ["data", ":/d", "data:/d:xx", "data:/d:ro:ro"])
def test_what_is_no_short_form(word: str) -> None:
    with pytest.raises(InvalidSpec):
        short_mount(P, word)


def test_owner_and_mode_are_numbers() -> None:
    assert (owner("999"), owner("999:0")) == ((999, 999), (999, 0))
    assert mode("0750") == 0o750
    for bad in ("postgres", "1:", "1:x", ""):
        with pytest.raises(InvalidSpec):
            owner(bad)
    with pytest.raises(InvalidSpec):
        mode("9")


def test_the_volume_of_a_slot() -> None:
    made = slot_volume("data:/var/lib/data,owner=999:1,mode=0700,size=1Gi,on-host-loss=replace,removal=with-owner,ro")
    assert (made.name, made.target, made.read_only) == ("data", "/var/lib/data", True)
    spec = made.spec
    assert (spec.owner_uid, spec.owner_gid, spec.mode, spec.size_bytes) == (999, 1, 0o700, 1 << 30)
    assert spec.on_host_loss == volumes_pb2.HOST_LOSS_POLICY_REPLACE
    assert spec.removal == volumes_pb2.VOLUME_REMOVAL_WITH_OWNER
    for bad in ("data", "data:relative", "data:/d,what=1", "data:/d,on-host-loss=panic"):
        with pytest.raises(InvalidSpec):
            slot_volume(bad)

"""What a DHCP client's events mean, and how a lease becomes an interface's address."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.dhcp_client.lease import Lease, LeaseFiles, leased_nics, read_event, with_leases
from hostagent.domain import LeasedNic, NicAssignment
from moorage.ids import InstanceId, NetworkId

NIC = NicAssignment(NetworkId("n1"), "eth1", "02:00:00:00:00:01", (), dhcp_client=True)
OTHER = NicAssignment(NetworkId("n2"), "eth0", "02:00:00:00:00:02", ("10.1.0.5/24",), ("10.1.0.1",))
LEASE = Lease("10.3.0.120/24", "10.3.0.1", 1120.0)


@pytest.mark.parametrize(
    ("line", "lease"),
    [
        ("bound|10.3.0.120|24|10.3.0.1|120\n", LEASE),
        ("renew|10.3.0.120|24||120", replace(LEASE, gateway="")),
        ("bound|10.3.0.120||10.3.0.1|120", replace(LEASE, address="10.3.0.120/32")),
        ("deconfig||||", None),
        ("nak||||", None),
    ],
)
def test_events(line: str, lease: Lease | None) -> None:
    event = read_event(line, 1000.0)
    assert event is not None
    assert event.lease == lease


@pytest.mark.parametrize(
    "line", ["", "leasefail||||", "bound", "bound|x|24||120", "bound|10.3.0.1|24||soon", "bound|1.2.3.4|99||1"]
)
def test_what_is_no_event(line: str) -> None:
    assert read_event(line, 1000.0) is None


def test_a_lease_is_an_address_for_a_time() -> None:
    (given,) = with_leases([NIC], {"eth1": LEASE}, 1000.0)
    assert (given.addresses, given.gateways, given.lease_seconds) == (("10.3.0.120/24",), ("10.3.0.1",), 120)
    assert with_leases([NIC], {}, 1000.0) == (NIC,)
    plain, given = with_leases([OTHER, NIC], {"eth0": LEASE, "eth1": LEASE}, 1119.9)
    assert plain == OTHER, "it does not ask"
    assert (given.gateways, given.lease_seconds) == ((), 1), "another interface has the default route"
    assert leased_nics({"eth1": LEASE}) == (LeasedNic("eth1", ("10.3.0.120/24",)),)


def test_leases_are_kept_in_files(tmp_path: Path) -> None:
    files = LeaseFiles(tmp_path / "dhcp")
    one, two = InstanceId("iaaaaaaaaa"), InstanceId("ibbbbbbbbb")
    files.keep(one, "lan.7", LEASE)
    files.keep(two, "eth0", LEASE)
    (tmp_path / "dhcp/icccccccccc.eth0.lease").write_text("torn")
    assert files.load(1000.0) == {(one, "lan.7"): LEASE, (two, "eth0"): LEASE}
    assert files.load(1120.0) == {}
    files.forget_others([one])
    assert set(files.load(1000.0)) == {(one, "lan.7")}
    files.keep(one, "lan.7", None)
    files.keep(one, "lan.7", None)
    assert files.load(1000.0) == {}


def test_the_script_prints_what_is_read(tmp_path: Path) -> None:
    script = LeaseFiles(tmp_path / "dhcp").write_script()
    values = {"ip": "10.3.0.120", "mask": "24", "router": "10.3.0.1 10.3.0.2", "lease": "120"}
    done = subprocess.run([script, "bound"], env={**os.environ, **values}, capture_output=True, text=True, check=True)
    event = read_event(done.stdout, 1000.0)
    assert event is not None
    assert event.lease == LEASE
    done = subprocess.run([script, "deconfig"], env={"PATH": "/bin"}, capture_output=True, text=True, check=True)
    assert done.stdout == "deconfig||||\n"

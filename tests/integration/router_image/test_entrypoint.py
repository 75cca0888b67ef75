"""The first process of a router's container against real HAProxy and dnsmasq, under each shell that a base may have.

It runs in a namespace of processes of its own, as in a container, so nothing of it can outlive a test.
"""

import contextlib
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.router_image.router_bed import STOP_SECONDS, WAIT_SECONDS, Router, require, until
from tests.support.free_ports import free_ports

NEEDED = ("haproxy", "dnsmasq", "unshare", "dash", "busybox")

HAPROXY = """\
global
    hard-stop-after 20s
defaults
    mode http
    timeout connect 1s
    timeout client 20s
    timeout server 20s
frontend web
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain string {word}
"""
DNSMASQ = "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\naddress=/name.test/192.0.2.7\n"


@pytest.fixture(params=[("dash",), ("busybox", "sh")], ids=["dash", "busybox"])
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Router]:
    require(*NEEDED)
    made = Router(tmp_path, request.param)
    yield made
    made.kill()


def master_answers(router: Router) -> bool:
    """Whether HAProxy's master is past its start: a signal before that is lost."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as master:
        master.connect(str(router.folder / "haproxy/master.sock"))
        master.sendall(b"show proc\n")
        return b"worker" in master.recv(65536)
    return False


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def says(port: int) -> str:
    """What the frontend answers; empty while it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_programs_run_that_have_a_configuration(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    router.start()
    until(lambda: says(port) == "one", "HAProxy does not answer")
    assert router.is_running("haproxy")
    assert router.status("dnsmasq")["state"] == "STOPPED"
    assert (router.folder / "status/contract").read_text() == "1\n"
    assert (router.folder / "haproxy/master.sock").is_socket()

    router.write("dnsmasq/dnsmasq.conf", DNSMASQ.format(port=free_ports(1)[0]))
    assert router.ask("sync") == ["ok"]
    until(lambda: router.is_running("dnsmasq"), "dnsmasq was not started")
    first = router.status("haproxy")

    (router.folder / "dnsmasq/dnsmasq.conf").unlink()
    assert router.ask("sync") == ["ok"]
    assert router.status("dnsmasq")["state"] == "STOPPED"
    assert router.status("haproxy") == first


def test_a_check_has_the_programs_own_words(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    router.start()
    assert router.ask("check haproxy")[0] == "ok"
    router.write("haproxy/next.cfg", "frontend web\n    bind nowhere\n")
    answer = router.ask("check haproxy next.cfg")
    assert answer[0] == "failed haproxy exited with 1"
    assert any("next.cfg:2" in line for line in answer)
    router.write("dnsmasq/next.conf", "no-such-option\n")
    answer = router.ask("check dnsmasq next.conf")
    assert answer[0].startswith("failed dnsmasq exited with")
    assert "bad option at line 1" in "".join(answer[1:])
    assert router.ask("check dnsmasq gone.conf") == [f"failed there is no file {router.folder}/dnsmasq/gone.conf"]
    assert says(port) == "one"


def test_a_reload_takes_the_new_configuration(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    router.start()
    until(lambda: says(port) == "one", "HAProxy does not answer")
    until(lambda: master_answers(router), "HAProxy's master does not answer")
    pid = router.status("haproxy")["pid"]
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="two"))
    assert router.ask("reload haproxy") == ["ok"]
    until(lambda: says(port) == "two", "HAProxy still has the old configuration")
    assert router.status("haproxy")["pid"] == pid
    assert router.ask("reload dnsmasq") == ["failed dnsmasq is not running"]
    assert router.ask("restart haproxy") == ["ok"]
    until(lambda: says(port) == "two", "HAProxy does not answer after its restart")
    assert router.status("haproxy")["pid"] != pid


def test_what_dies_is_started_again(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    router.start()
    until(lambda: says(port) == "one", "HAProxy does not answer")
    os.kill(router.outside("haproxy"), signal.SIGKILL)
    until(lambda: router.status("haproxy")["starts"] == "2", "HAProxy was not started again")
    until(lambda: says(port) == "one", "HAProxy does not answer again")
    assert router.status("haproxy")["exit"] == "137"


def test_what_cannot_start_is_tried_with_delays_and_says_why(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", "nonsense\n")
    router.start()
    until(lambda: router.status("haproxy").get("delay") in ("1", "2"), "no delay before the next start")
    assert router.status("haproxy")["exit"] == "1"
    assert "unknown keyword 'nonsense'" in (router.folder / "status/haproxy.stderr").read_text()
    assert "haproxy: [ALERT]" in (router.folder / "log").read_text()
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    assert router.ask("sync") == ["ok"]
    until(lambda: says(port) == "one", "HAProxy was not started at once")


def test_what_is_no_request_changes_nothing(router: Router) -> None:
    router.start()
    with (router.folder / "control").open("w") as control:
        control.write("../x sync\n\n.hidden sync\n" + "a" * 65 + " sync\n")
    assert router.ask("dance") == ["failed no such request: dance"]
    assert router.ask("reload cron") == ["failed no such program: cron"]
    assert router.ask("restart haproxy") == ["failed haproxy has no configuration"]
    assert list((router.folder / "answers").iterdir()) == []


def test_the_end_lets_requests_finish_within_its_time(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    router.write("dnsmasq/dnsmasq.conf", DNSMASQ.format(port=free_ports(1)[0]))
    router.start()
    until(lambda: says(port) == "one", "HAProxy does not answer")
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")  # half a request: HAProxy waits for the rest
        begun = time.monotonic()
        assert router.stop() == 0
        assert time.monotonic() - begun >= STOP_SECONDS
    assert router.status("haproxy")["state"] == "STOPPED"
    assert router.status("dnsmasq")["state"] == "STOPPED"
    assert not router.listens()


def test_a_killed_one_leaves_nothing_that_disturbs_the_next(router: Router, port: int) -> None:
    router.write("haproxy/haproxy.cfg", HAPROXY.format(port=port, word="one"))
    router.start()
    until(lambda: says(port) == "one", "HAProxy does not answer")
    router.kill()
    until(lambda: says(port) == "", "HAProxy outlives the first process")
    router.start()
    until(lambda: says(port) == "one", "HAProxy does not answer")
    assert router.status("haproxy")["starts"] == "1"
    assert router.stop() == 0

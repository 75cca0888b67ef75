"""Answers of HAProxy 2.6, as it gave them, and what is made of them."""

from hostagent.router.haproxy_answers import (
    LiveServer,
    Workers,
    info,
    server_state_file,
    servers,
    stats,
    table,
    workers,
)
from hostagent.router.haproxy_config import configuration
from hostagent.router.haproxy_figures import History, pool_figures
from moorage.router_bundle import BackendBundle, BackendFigure, BalancerBundle, BalancerMode, ListenerBundle, PoolBundle

STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port
3 lb.web 1 ia_8080 10.1.0.4 2 0 100 100 8080
3 lb.web 2 ib_8080 10.1.0.5 0 1 50 50 8080
3 lb.web 3 ic_8080 10.1.0.6 0 0 0 100 8080

"""
PROC = """#<PID>          <type>          <reloads>       <uptime>        <version>
10              master          3 [failed: 1]   0d00h00m26s     2.6.12-1+deb12u4
# workers
12              worker          0               0d00h00m03s     2.6.12-1+deb12u4
# old workers
11              worker          1               0d00h00m03s     2.6.12-1+deb12u4
9               worker          2               0d00h01m03s     2.6.12-1+deb12u4
# programs

"""


def _stat(*rows: str) -> str:
    head = "# pxname,svname,qcur,scur,stot,bin,bout,status,weight,type,check_code,last_chk,check_desc,"
    return "\n".join([head, *rows, ""])


WEB = PoolBundle("web", (BackendBundle("ia", "10.1.0.4", 8080, 30), BackendBundle("ic", "10.1.0.6", 8080)))
LB = BalancerBundle("lb", BalancerMode.HTTP, (ListenerBundle("192.0.2.1", 80),), (WEB,))


def test_servers_are_read() -> None:
    assert servers(STATE) == {
        "lb.web": {
            "ia_8080": LiveServer("10.1.0.4", 8080, 100, is_in_maintenance=False),
            "ib_8080": LiveServer("10.1.0.5", 8080, 50, is_in_maintenance=True),
            "ic_8080": LiveServer("10.1.0.6", 8080, 0, is_in_maintenance=False),
        }
    }


def test_a_new_process_is_told_of_health_but_not_of_weights_nor_of_what_goes() -> None:
    told = server_state_file(STATE, configuration([LB], drain_time_seconds=1.0)).splitlines()
    assert told[0] == "1"
    assert told[2:] == ["3 lb.web 1 ia_8080 10.1.0.4 2 0 30 30 8080", "3 lb.web 3 ic_8080 10.1.0.6 0 0 100 100 8080"]


def test_processes_are_read() -> None:
    assert workers(PROC) == Workers(current=12, old=(11, 9), reloads=3, has_failed=True)
    assert workers(PROC.replace("failed: 1", "failed: 0")).has_failed is False
    assert workers(PROC.replace(" [failed: 1]", "")).has_failed is False
    assert workers("") == Workers()


def test_info_and_maps_are_read() -> None:
    assert info("Name: HAProxy\nPid: 12\ndescription: a:b\n\n") == {
        "Name": "HAProxy",
        "Pid": "12",
        "description": "a:b",
    }
    assert table("0x55fe a.test/x/ lb.web\n0x55ff */ lb.api\n\n") == {"a.test/x/": "lb.web", "*/": "lb.api"}


def test_figures_are_summed_over_processes_and_kept_when_they_end() -> None:
    old = stats(
        _stat(
            "lb.web,ia_8080,0,1,10,100,1000,UP,100,2,200,OK,Layer7 check passed,",
            "lb.web,BACKEND,2,1,10,100,1000,UP,100,1,,,,",
        )
    )
    new = stats(
        _stat(
            "lb:192.0.2.1:80,FRONTEND,,1,3,30,300,OPEN,,0,,,,",
            "lb.web,ia_8080,0,0,2,20,200,DOWN 1/2,30,2,0,Connection refused,Layer4 connection problem,",
            "lb.web,ic_8080,0,3,1,10,100,no check,100,2,,,,",
            "lb.web,BACKEND,0,3,3,30,300,UP,100,1,,,,",
        )
    )
    history = History().seen({1: old}).seen({1: old, 2: new})
    (figure,) = pool_figures([LB], history)
    assert (figure.in_flight, figure.queued, figure.total, figure.bytes_in, figure.bytes_out) == (4, 2, 13, 130, 1300)
    assert figure.backends == (
        BackendFigure("ia", "down", "Layer4 connection problem: Connection refused", in_flight=1, total=12),
        BackendFigure("ic", "no check", "", in_flight=3, total=1),
    )
    (after,) = pool_figures([LB], history.seen({2: new}).seen({2: new}))
    assert (after.in_flight, after.queued, after.total) == (3, 0, 13)


def test_states_are_told_apart() -> None:
    def state(status: str, weight: int = 100) -> str:
        found = stats(_stat(f"lb.web,ia_8080,0,0,0,0,0,{status},{weight},2,,,,", "lb.web,BACKEND,0,0,0,0,0,UP,1,1,,,,"))
        return pool_figures([LB], History().seen({1: found}))[0].backends[0].state

    assert state("UP 1/3") == "up"
    assert state("MAINT") == "maint"
    assert state("DRAIN") == "drain"
    assert state("no check", 0) == "drain"
    assert state("DOWN", 0) == "down"

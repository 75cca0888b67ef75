"""Which answer a question gets, from values alone."""

import ipaddress

import pytest

from hostagent.domain import DnsRecord, DnsRecordType
from hostagent.names.answers import (
    NXDOMAIN,
    SERVFAIL,
    Elsewhere,
    Question,
    Reply,
    ResourceRecord,
    answer,
    nobody_to_ask,
)
from hostagent.names.directory import Directory, Member, build

BACK = build(
    "back.internal",
    ["10.1.0.0/24", "fd00:1::/64"],
    [
        Member(("www", "web"), ("10.1.0.5", "fd00:1::5")),
        Member(("db",), ("10.1.0.6",)),
        Member(("web-2", "web"), ("10.1.0.7",)),
        Member(("host.example.org",), ("10.1.0.8",)),
        Member((), ("10.1.0.9",)),
    ],
    [
        DnsRecord("www-2", DnsRecordType.A, ("192.0.2.1", "192.0.2.2"), 60.0),
        DnsRecord("@", DnsRecordType.MX, ("10 db", "20 mail.example.org")),
        DnsRecord("@", DnsRecordType.TXT, ("v=1",)),
        DnsRecord("alias", DnsRecordType.CNAME, ("db",)),
        DnsRecord("chain", DnsRecordType.CNAME, ("alias.back.internal",)),
        DnsRecord("outside", DnsRecordType.CNAME, ("example.org.",), 300.0),
        DnsRecord("broken", DnsRecordType.CNAME, ("nowhere",)),
        DnsRecord("one", DnsRecordType.CNAME, ("two",)),
        DnsRecord("two", DnsRecordType.CNAME, ("one",)),
        DnsRecord("_http._tcp.web", DnsRecordType.SRV, ("0 5 80 web",)),
        DnsRecord("db", DnsRecordType.CNAME, ("example.org",)),
        DnsRecord("web", DnsRecordType.A, ("192.0.2.9",)),
        DnsRecord("db", DnsRecordType.TXT, ("main",)),
        DnsRecord("*.apps", DnsRecordType.A, ("192.0.2.3",)),
        DnsRecord("fixed.apps", DnsRecordType.TXT, ("x",)),
    ],
    serial=7,
)
OTHER = build("corp.example", ["10.2.0.0/22"], [Member(("db",), ("10.2.0.6",))])
BOTH = [BACK, OTHER]


def ask(name: str, kind: str = "A", directories: list[Directory] = BOTH, turn: int = 0) -> Reply:
    found = answer(Question(name, kind), directories, turn)
    assert isinstance(found, Reply), found
    return found


def values(name: str, kind: str = "A", turn: int = 0) -> list[str]:
    found = ask(name, kind, turn=turn)
    assert all(line.type == kind for line in found.answer)
    return [line.value for line in found.answer]


def test_every_name_of_a_member_below_the_domain_and_bare() -> None:
    assert values("db.back.internal") == ["10.1.0.6"]
    assert values("www.back.internal", "AAAA") == ["fd00:1::5"]
    assert values("www") == ["10.1.0.5"]
    assert values("web-2") == ["10.1.0.7"]
    assert values("host.example.org") == values("host.example.org.back.internal") == ["10.1.0.8"]


def test_a_shared_name_has_all_addresses_in_turn() -> None:
    assert values("web.back.internal") == ["10.1.0.5", "10.1.0.7"]
    assert values("web.back.internal", turn=1) == ["10.1.0.7", "10.1.0.5"]
    assert values("web", turn=3) == ["10.1.0.7", "10.1.0.5"]
    assert values("db") == ["10.1.0.6", "10.2.0.6"], "a bare name is looked for on every network"


def test_a_name_without_such_a_value_is_not_a_name_that_is_not_there() -> None:
    empty = ask("db.back.internal", "AAAA")
    assert (empty.rcode, empty.answer) == (0, ())
    (soa,) = empty.authority
    assert (soa.name, soa.type, soa.ttl) == ("back.internal", "SOA", 5)
    assert soa.value.split()[2] == "7"
    missing = ask("nobody.back.internal")
    assert (missing.rcode, missing.authority) == (NXDOMAIN, (soa,))
    assert ask("example.org.back.internal").rcode == 0, "it has names below it"
    assert ask("back.internal").rcode == 0
    assert ask("back.internal", "SOA").answer == (soa,)
    assert ask("db", "AAAA").rcode == 0


def test_addresses_lead_back_to_the_first_name() -> None:
    assert values("5.0.1.10.in-addr.arpa", "PTR") == ["www.back.internal"]
    reverse = ipaddress.ip_address("fd00:1::5").reverse_pointer
    assert values(reverse, "PTR") == ["www.back.internal"]
    nobody = ask("9.0.1.10.in-addr.arpa", "PTR")
    assert (nobody.rcode, nobody.authority[0].name) == (NXDOMAIN, "0.1.10.in-addr.arpa")
    assert ask("9.1.2.10.in-addr.arpa", "PTR").authority[0].name == "2.10.in-addr.arpa"
    nobody = ask(ipaddress.ip_address("fd00:1::77").reverse_pointer, "PTR")
    assert nobody.authority[0].name == "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.org", "A"),
        ("xback.internal", "A"),
        ("internal", "NS"),
        ("", "NS"),
        ("5.0.1.11.in-addr.arpa", "PTR"),
        ("1.10.in-addr.arpa", "PTR"),
        ("x.in-addr.arpa", "PTR"),
        ("5.0.1.10.ip6.arpa", "PTR"),
    ],
)
def test_what_is_not_ours_is_asked_elsewhere(name: str, kind: str) -> None:
    assert answer(Question(name, kind), BOTH) == Elsewhere(Question(name, kind))


def test_a_single_word_stays_here() -> None:
    assert ask("nobody").rcode == NXDOMAIN
    assert ask("nobody", directories=[]).rcode == NXDOMAIN


def test_names_of_other_networks_are_not_known() -> None:
    assert isinstance(answer(Question("db.back.internal", "A"), [OTHER]), Elsewhere)
    assert isinstance(answer(Question("6.0.1.10.in-addr.arpa", "PTR"), [OTHER]), Elsewhere)
    assert answer(Question("web", "A"), [OTHER]) == Reply(NXDOMAIN)


def test_one_domain_for_two_networks_is_one_zone() -> None:
    twin = build("back.internal", ["10.3.0.0/24"], [Member(("db", "cache"), ("10.3.0.6",))])
    assert [v.value for v in ask("db.back.internal", directories=[BACK, twin]).answer] == ["10.1.0.6", "10.3.0.6"]
    assert [v.value for v in ask("cache.back.internal", directories=[BACK, twin]).answer] == ["10.3.0.6"]


def test_the_longer_domain_wins() -> None:
    inner = build("db.back.internal", [], [Member(("x",), ("10.9.0.1",))])
    assert [v.value for v in ask("x.db.back.internal", directories=[BACK, inner]).answer] == ["10.9.0.1"]
    assert ask("web.back.internal", directories=[BACK, inner]).answer


def test_extra_records_stand_beside_the_members() -> None:
    found = ask("www-2.back.internal").answer
    assert [(v.value, v.ttl) for v in found] == [("192.0.2.1", 60), ("192.0.2.2", 60)]
    assert values("www-2") == ["192.0.2.1", "192.0.2.2"]
    assert values("back.internal", "MX") == ["10 db.back.internal.", "20 mail.example.org."]
    assert values("back.internal", "TXT") == ["v=1"]
    assert values("_http._tcp.web.back.internal", "SRV") == ["0 5 80 web.back.internal."]
    assert ask("_tcp.web.back.internal", "SRV") == ask("_tcp.web.back.internal", "A")
    assert ask("_tcp.web.back.internal").rcode == 0
    assert ask("back.internal", "SOA").answer


def test_a_member_is_no_alias_and_has_its_own_addresses_alone() -> None:
    assert values("db.back.internal") == ["10.1.0.6"]
    assert values("db.back.internal", "TXT") == ["main"]
    assert values("web.back.internal") == ["10.1.0.5", "10.1.0.7"]


def test_aliases_are_followed_here() -> None:
    found = ask("chain.back.internal").answer
    assert [(v.name, v.type, v.value) for v in found] == [
        ("chain.back.internal", "CNAME", "alias.back.internal"),
        ("alias.back.internal", "CNAME", "db.back.internal"),
        ("db.back.internal", "A", "10.1.0.6"),
    ]
    assert [v.type for v in ask("alias").answer] == ["CNAME", "A"]
    assert [v.value for v in ask("chain.back.internal", "CNAME").answer] == ["alias.back.internal"]
    broken = ask("broken.back.internal")
    assert (broken.rcode, len(broken.answer), len(broken.authority)) == (NXDOMAIN, 1, 1)
    assert ask("one.back.internal").rcode == SERVFAIL, "a circle"


def test_aliases_that_lead_outside_are_asked_there() -> None:
    found = answer(Question("outside.back.internal", "AAAA"), BOTH)
    assert isinstance(found, Elsewhere)
    assert found.question == Question("example.org", "AAAA")
    assert found.answer == (ResourceRecord("outside.back.internal", "CNAME", 300, "example.org"),)
    nobody = nobody_to_ask(found)
    assert (nobody.rcode, nobody.answer) == (NXDOMAIN, found.answer)


def test_a_star_stands_for_names_of_which_nothing_else_is_said() -> None:
    assert values("any.apps.back.internal") == ["192.0.2.3"]
    assert values("a.b.apps.back.internal") == ["192.0.2.3"]
    assert ask("any.apps.back.internal").answer[0].name == "any.apps.back.internal"
    assert (ask("any.apps.back.internal", "AAAA").rcode, ask("fixed.apps.back.internal").rcode) == (0, 0)
    assert values("fixed.apps.back.internal") == []
    assert ask("x.fixed.apps.back.internal").rcode == NXDOMAIN, "its nearest relative has no star beside it"
    assert ask("apps.back.internal").rcode == 0
    assert ask("any.back.internal").rcode == NXDOMAIN


def test_localhost_is_here() -> None:
    assert values("localhost") == ["127.0.0.1"]
    assert values("x.localhost", "AAAA") == ["::1"]


def test_who_has_nobody_to_ask_is_told_that_there_is_no_such_name() -> None:
    found = answer(Question("example.org", "A"), BOTH)
    assert isinstance(found, Elsewhere)
    assert nobody_to_ask(found) == Reply(NXDOMAIN, is_authoritative=False)

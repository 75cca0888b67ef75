"""Extra names of networks: what may be asked for, and what becomes of them."""

from typing import Any

import pytest

from controlplane.dispatch.assignments import network_assignment
from controlplane.domain.dns import DnsRecordSpec, DnsRecordType
from controlplane.domain.instances import Nic
from controlplane.domain.kinds import DNS_RECORD
from controlplane.domain.networks import NetworkDns
from controlplane.networks import records
from controlplane.services.lookup import etag_of
from controlplane.services.paging import PageRequest
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec, NotFound, VersionConflict
from tests.unit.controlplane.world import P, World, problems

A, AAAA, CNAME, TXT, SRV, MX = list(DnsRecordType)[1:]


def spec(name: str, kind: DnsRecordType = A, *values: str, ttl: float = 0.0) -> DnsRecordSpec:
    return DnsRecordSpec(name, kind, values or ("192.0.2.1",), ttl)


async def create(world: World, record: DnsRecordSpec, record_id: str = "", **options: Any) -> Any:
    return await world.dns.create(P, "back", record_id, record, **options)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (spec(""), "name"),
        (spec("Www"), "name"),
        (spec("www."), "name"),
        (spec("a..b"), "name"),
        (spec("x.*"), "name"),
        (spec("*a"), "name"),
        (spec("-a"), "name"),
        (spec("a" * 64), "name"),
        (spec(".".join(["a" * 60] * 4)), "name"),
        (spec("www", A, "fd00::1"), "values[0]"),
        (spec("www", A, "192.0.2.1", "192.0.2.256"), "values[1]"),
        (spec("www", A, "192.0.2.1", "192.0.2.1"), "values[1]"),
        (spec("www", AAAA, "192.0.2.1"), "values[0]"),
        (spec("www", AAAA, "fe80::1%eth0"), "values[0]"),
        (spec("www", CNAME, "a.example", "b.example"), "values"),
        (spec("www", CNAME, "A.example"), "values[0]"),
        (spec("www", CNAME, "a b"), "values[0]"),
        (spec("@", CNAME, "a.example"), "type"),
        (spec("www", MX, "mail.example"), "values[0]"),
        (spec("www", MX, "70000 mail.example"), "values[0]"),
        (spec("www", SRV, "1 2 mail.example"), "values[0]"),
        (spec("www", SRV, "1 2 3 mail..example"), "values[0]"),
        (spec("www", SRV, "1  2 3 mail.example"), "values[0]"),
        (spec("www", TXT, "a" * 2049), "values[0]"),
        (spec("www", DnsRecordType.UNSPECIFIED), "type"),
        (DnsRecordSpec("www", A), "values"),
        (DnsRecordSpec("www", A, tuple(f"10.0.0.{n}" for n in range(101))), "values"),
        (spec("www", ttl=-1.0), "ttl"),
        (spec("www", ttl=1.5), "ttl"),
        (spec("www", ttl=86401.0), "ttl"),
    ],
)
async def test_what_cannot_be_is_refused(world: World, record: DnsRecordSpec, field: str) -> None:
    await world.network("back")
    with pytest.raises(InvalidSpec) as caught:
        await create(world, record)
    assert [where for where, _ in problems(caught.value)] == [f"dns_record.spec.{field}"]
    assert not list(world.store.view().all(DNS_RECORD))


async def test_everything_that_is_wrong_is_said_at_once(world: World) -> None:
    await world.network("back")
    with pytest.raises(InvalidSpec) as caught:
        await create(world, spec("A", A, "x", "y", ttl=1e6), "-id")
    assert len(problems(caught.value)) == 5


@pytest.mark.parametrize(
    "record",
    [
        spec("@"),
        spec("*"),
        spec("*.apps"),
        spec("_http._tcp.web", SRV, "0 5 80 web", "0 5 80 web.example."),
        spec("x", TXT, "", 'any "text" ü'),
        spec("x", MX, "10 mail"),
        spec("x", AAAA, "fd00::1", ttl=86400.0),
        spec("x", CNAME, "example.org."),
    ],
)
async def test_what_can_be(world: World, record: DnsRecordSpec) -> None:
    await world.network("back")
    made = await create(world, record)
    assert made.spec == record
    assert made.id.endswith(f"-{record.type.name.lower()}")
    assert network_assignment(world.store.view(), await world.networks.update(P, "back")).records == (record,)


def test_ids_that_are_made() -> None:
    assert records.default_id(spec("@", MX)) == "at-mx"
    assert records.default_id(spec("*", TXT)) == "any-txt"
    assert records.default_id(spec("_http._tcp.web", SRV)) == "http-tcp-web-srv"
    assert records.default_id(spec("0", A)) == "r-0-a"
    assert len(records.default_id(spec("a" * 63 + ".b", A))) <= 63


async def test_one_answer_a_name_and_type(world: World) -> None:
    await world.network("back")
    await create(world, spec("www"))
    with pytest.raises(InvalidSpec) as caught:
        await create(world, spec("www", A, "192.0.2.9"), "other")
    assert problems(caught.value) == [("dns_record.spec.name", "RECORD_CLASHES")]
    await create(world, spec("www", TXT, "beside"))
    with pytest.raises(InvalidSpec) as caught:
        await create(world, spec("www", CNAME, "a.example"))
    assert problems(caught.value) == [("dns_record.spec.type", "RECORD_CLASHES")]
    await create(world, spec("alias", CNAME, "a.example"))
    with pytest.raises(InvalidSpec):
        await create(world, spec("alias", TXT, "x"))
    with pytest.raises(AlreadyExists):
        await create(world, spec("www2"), "www-a")


async def test_a_members_name_is_its_own(world: World) -> None:
    await world.network("back")
    await world.network("other")
    await world.create("db", Nic("back"), hostname="Main")
    for name in ("db", "main"):
        with pytest.raises(InvalidSpec) as caught:
            await create(world, spec(name))
        assert problems(caught.value) == [("dns_record.spec.name", "DNS_NAME_TAKEN")]
    await create(world, spec("db", TXT, "beside it is room"))
    await world.dns.create(P, "other", "", spec("db"))
    await world.instances.delete(P, ["db"])
    await create(world, spec("main"))


async def test_values_and_ttl_can_be_changed(world: World) -> None:
    await world.network("back")
    made = await create(world, spec("www"))
    changed = await world.dns.update(P, "back", "www-a", values=("192.0.2.2",), etag=etag_of(made))
    assert changed.spec.values == ("192.0.2.2",)
    with pytest.raises(VersionConflict):
        await world.dns.update(P, "back", "www-a", ttl_seconds=60.0, etag=etag_of(made))
    assert (await world.dns.update(P, "back", "www-a", ttl_seconds=60.0)).spec.ttl_seconds == 60
    with pytest.raises(InvalidSpec):
        await world.dns.update(P, "back", "www-a", values=("x",))
    await world.dns.update(P, "back", "www-a", values=("192.0.2.3",), validate_only=True)
    assert world.dns.get(P, "back", "www-a").spec.values == ("192.0.2.2",)


async def test_a_retried_create_is_the_same_and_a_dry_one_leaves_nothing(world: World) -> None:
    await world.network("back")
    await create(world, spec("dry"), validate_only=True)
    one = await create(world, spec("www"), request_key="k", body=b"1")
    assert await create(world, spec("www"), request_key="k", body=b"1") == one
    assert [i.value for i in world.dns.list(P, "back", PageRequest()).items] == [one]


async def test_they_go_with_their_network_and_their_names_are_found_under_its_domain(world: World) -> None:
    network = await world.network("back", dns=NetworkDns("corp.example"))
    made = await create(world, spec("www"))
    assert world.dns.fqdn(made) == "www.corp.example"
    assert world.dns.fqdn(await create(world, spec("@"))) == "corp.example"
    await world.dns.delete(P, "back", "at-a", etag="")
    with pytest.raises(NotFound):
        await world.dns.delete(P, "back", "at-a")
    await world.networks.delete(P, "back")
    assert not world.store.view().find(DNS_RECORD, "network", network.uid)
    await world.network("back")
    with pytest.raises(NotFound):
        world.dns.get(P, "back", "www-a")
    with pytest.raises(NotFound):
        world.dns.list(P, "none", PageRequest())


async def test_there_is_an_end_to_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.network("back")
    monkeypatch.setattr("controlplane.services.dns.RECORD_LIMIT", 2)
    for number in range(2):
        await create(world, spec(f"x{number}"))
    with pytest.raises(Exhausted):
        await create(world, spec("x2"))


async def test_hosts_ask_their_own_servers_where_there_is_a_way_out(world: World) -> None:
    async def asks(network_id: str, **fields: Any) -> bool:
        network = await world.network(network_id, **fields)
        return network_assignment(world.store.view(), network).host_resolvers

    assert not await asks("closed")
    assert await asks("open", egress=True)
    assert not await asks("silent", egress=True, dns=NetworkDns(no_forwarding=True))

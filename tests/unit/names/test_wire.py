"""Bytes of DNS messages."""

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.names import wire
from hostagent.names.answers import Elsewhere, Question, Reply, ResourceRecord


def query(name: str = "WeB.back.internal.", kind: str = "A", **options: object) -> tuple[bytes, wire.Query]:
    data = dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]
    found = wire.read(data)
    assert isinstance(found, wire.Query)
    return data, found


def test_a_question_is_read_in_lower_case_and_answered_in_its_own() -> None:
    data, found = query()
    assert found.question == Question("web.back.internal", "A")
    assert found.udp_size == 512
    reply = dns.message.from_wire(
        wire.write(found, Reply(0, (ResourceRecord("web.back.internal", "A", 5, "10.0.0.1"),)), 512)
    )
    assert reply.id == int.from_bytes(data[:2])
    assert reply.question[0].name.to_text() == "WeB.back.internal."
    assert reply.answer[0].to_text() == "WeB.back.internal. 5 IN A 10.0.0.1", "compressed against the question"
    assert reply.flags & (dns.flags.AA | dns.flags.RA | dns.flags.QR) == dns.flags.AA | dns.flags.RA | dns.flags.QR
    assert reply.edns == -1


def test_edns_is_answered_and_its_size_kept_within_reason() -> None:
    assert query(use_edns=0, payload=1232)[1].udp_size == 1232
    assert query(use_edns=0, payload=100)[1].udp_size == 512
    _, found = query(use_edns=0, payload=65535)
    assert found.udp_size == 4096
    assert dns.message.from_wire(wire.write(found, Reply(), 512)).edns == 0


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("TXT", 'v=spf1 "a" \\ é', '"v=spf1 \\"a\\" \\\\ \\195\\169"'),
        ("TXT", "", '""'),
        ("SRV", "1 2 80 web.back.internal.", "1 2 80 web.back.internal."),
        ("MX", "10 mail.example.org.", "10 mail.example.org."),
        ("AAAA", "fd00::1", "fd00::1"),
        ("PTR", "web.back.internal", "web.back.internal."),
    ],
)
def test_values_of_every_type(kind: str, value: str, text: str) -> None:
    _, found = query(kind=kind)
    reply = dns.message.from_wire(wire.write(found, Reply(0, (ResourceRecord("x.y", kind, 9, value),)), 4096))
    assert reply.answer[0][0].to_text().lower() == text.lower()


def test_a_long_text_is_several_strings() -> None:
    _, found = query(kind="TXT")
    reply = dns.message.from_wire(wire.write(found, Reply(0, (ResourceRecord("x", "TXT", 9, "a" * 600),)), 4096))
    assert [len(piece) for piece in reply.answer[0][0].strings] == [255, 255, 90]


def test_what_does_not_fit_is_cut_and_says_so() -> None:
    _, found = query()
    lines = tuple(ResourceRecord("web.back.internal", "A", 5, f"10.0.{i}.1") for i in range(100))
    whole = wire.write(found, Reply(0, lines), wire.LARGEST_TCP)
    assert len(dns.message.from_wire(whole).answer[0]) == 100
    for data in (wire.write(found, Reply(0, lines), 512), wire.relay(found, whole, 512)):
        assert len(data) <= 512
        assert dns.message.from_wire(data).flags & dns.flags.TC


def test_an_answer_from_elsewhere_passes_as_it_is() -> None:
    data, found = query()
    upstream = dns.message.make_response(dns.message.from_wire(data))
    upstream.id = 4711
    upstream.set_rcode(dns.rcode.NXDOMAIN)
    relayed = wire.relay(found, upstream.to_wire(), 512)
    assert relayed[:2] == data[:2]
    assert relayed[2:] == upstream.to_wire()[2:]


def test_an_alias_goes_before_what_others_say_of_its_target() -> None:
    _, found = query("www.back.internal.")
    alias = ResourceRecord("www.back.internal", "CNAME", 5, "example.org")
    elsewhere = Elsewhere(Question("example.org", "A"), (alias,))
    asked = dns.message.from_wire(wire.follow_up(elsewhere))
    assert asked.question[0].to_text() == "example.org. IN A"
    upstream = dns.message.make_response(asked)
    upstream.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "A", "192.0.2.1"))
    joined = dns.message.from_wire(wire.join(found, elsewhere, upstream.to_wire(), 512))
    assert [line.to_text() for line in joined.answer] == [
        "www.back.internal. 5 IN CNAME example.org.",
        "example.org. 60 IN A 192.0.2.1",
    ]
    with pytest.raises(ValueError, match="cannot be read"):
        wire.join(found, elsewhere, upstream.to_wire()[:-2], 512)


def test_only_the_answer_to_a_question_is_taken_for_it() -> None:
    data, _ = query()
    right = dns.message.make_response(dns.message.from_wire(data))
    assert wire.is_answer_to(data, right.to_wire())
    assert not wire.is_answer_to(data, data), "it is a question itself"
    assert not wire.is_answer_to(data, wire.with_number(right.to_wire(), right.id ^ 1))
    other, _ = query("other.example.")
    assert not wire.is_answer_to(data, data[:2] + dns.message.make_response(dns.message.from_wire(other)).to_wire()[2:])
    refusal = data[:2] + bytes((0x81, 5)) + bytes(8)
    assert wire.is_answer_to(data, refusal)
    assert not wire.is_answer_to(data, data[:2] + bytes((0x81, 0)) + bytes(8))


@pytest.mark.parametrize(
    ("change", "rcode"),
    [
        (lambda data: data[:2] + bytes((data[2] | 0x28,)) + data[3:], dns.rcode.NOTIMP),  # opcode UPDATE
        (lambda data: data[:4] + b"\0\0" + data[6:12], dns.rcode.FORMERR),  # no question
        (lambda data: data[:-3], dns.rcode.FORMERR),
        (lambda data: data[:-1] + b"\3", dns.rcode.REFUSED),  # class CHAOS
    ],
)
def test_what_is_no_question_is_refused(change: object, rcode: int) -> None:
    data, _ = query()
    found = wire.read(change(data))  # type: ignore[operator]
    assert isinstance(found, bytes)
    assert found[:2] == data[:2]
    assert wire.rcode_of(found) == rcode
    assert dns.message.from_wire(found, ignore_trailing=True).flags & dns.flags.QR


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_survived(data: bytes) -> None:
    found = wire.read(data)
    if isinstance(found, bytes):
        assert found[:2] == data[:2]
    wire.is_answer_to(query()[0], data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_question_is_survived(data: st.DataObject) -> None:
    whole = bytearray(query(use_edns=0)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = wire.read(bytes(whole))
    if isinstance(found, wire.Query):
        wire.write(found, Reply(3), 512)

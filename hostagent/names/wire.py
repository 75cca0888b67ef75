"""Bytes of DNS messages to our values and back; the only importer of dnspython. Pure."""

import functools
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from hostagent.names.answers import Elsewhere, Question, Reply, ResourceRecord

SMALLEST_UDP = 512
LARGEST_UDP = 4096
LARGEST_TCP = 65535
_HEADER = 12
_QR, _RCODE = 0x80, 0x0F
_LONGEST_STRING = 255  # bytes of one character string of a TXT


@dataclass(frozen=True, slots=True)
class Query:
    """A question that was understood."""

    question: Question
    udp_size: int  # bytes that the asker takes in one datagram
    message: dns.message.Message


def read(data: bytes) -> Query | bytes | None:
    """The question in a datagram; or the refusal to answer with; or None for what is not to be answered at all."""
    if len(data) < _HEADER or data[2] & _QR:
        return None
    if data[2] >> 3 & 0x0F != dns.opcode.QUERY:
        return _bare_reply(data, dns.rcode.NOTIMP)
    try:
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        return _bare_reply(data, dns.rcode.FORMERR)
    if len(message.question) != 1:
        return _bare_reply(data, dns.rcode.FORMERR)
    asked = message.question[0]
    if asked.rdclass != dns.rdataclass.IN:
        return _bare_reply(data, dns.rcode.REFUSED)
    size = SMALLEST_UDP if message.edns < 0 else min(max(message.payload, SMALLEST_UDP), LARGEST_UDP)
    name = asked.name.to_text(omit_final_dot=True).lower()
    return Query(Question("" if name == "." else name, dns.rdatatype.to_text(asked.rdtype)), size, message)


def write(query: Query, reply: Reply, size: int) -> bytes:
    """A reply of ours; one that is larger than `size` bytes is cut and says so."""
    message = _response(query)
    if reply.is_authoritative:
        message.flags |= dns.flags.AA
    message.set_rcode(dns.rcode.Rcode(reply.rcode))
    _add(message.answer, reply.answer)
    _add(message.authority, reply.authority)
    return message.to_wire(max_size=size, prefer_truncation=True, want_shuffle=False)


def relay(query: Query, upstream: bytes, size: int) -> bytes:
    """Somebody else's answer to the very question, under the asker's number; cut if it is larger than `size` bytes."""
    if len(upstream) > size:
        message = _response(query)
        message.flags |= dns.flags.TC
        return message.to_wire()
    return query.message.id.to_bytes(2) + upstream[2:]


def follow_up(elsewhere: Elsewhere) -> bytes:
    """The question for where an alias of ours leads."""
    name = elsewhere.question.name + "."
    return dns.message.make_query(name, elsewhere.question.type, use_edns=0, payload=LARGEST_UDP).to_wire()


def join(query: Query, elsewhere: Elsewhere, upstream: bytes, size: int) -> bytes:
    """Our aliases, then what somebody else says of where they lead.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        found = dns.message.from_wire(upstream)
    except dns.exception.DNSException as error:
        raise ValueError(f"a name server's answer cannot be read: {error}") from error
    message = _response(query)
    message.set_rcode(found.rcode())
    _add(message.answer, elsewhere.answer)
    message.answer += found.answer
    message.authority += found.authority
    return message.to_wire(max_size=size, prefer_truncation=True, want_shuffle=False)


def with_number(data: bytes, number: int) -> bytes:
    """The same message under another number."""
    return number.to_bytes(2) + data[2:]


def is_answer_to(query: bytes, data: bytes) -> bool:
    """Whether a datagram answers this query: same number, same question. A refusal may leave the question out."""
    if len(data) < _HEADER or data[:2] != query[:2] or not data[2] & _QR:
        return False
    if data[4:6] == b"\0\0":
        return rcode_of(data) != 0
    end = _question_end(query)
    return data[4:6] == b"\0\1" and data[_HEADER:end].lower() == query[_HEADER:end].lower()


def is_truncated(data: bytes) -> bool:
    """Whether an answer says that there is more."""
    return bool(data[2] & 0x02)


def rcode_of(data: bytes) -> int:
    """The answer's code, without EDNS's upper bits."""
    return data[3] & _RCODE


def _question_end(query: bytes) -> int:
    """Where the first question ends; its name is not compressed, for nothing stands before it."""
    position = _HEADER
    while position < len(query) and query[position]:
        position += query[position] + 1
    return position + 5


def _bare_reply(data: bytes, rcode: int) -> bytes:
    """A refusal of what could not be read: its number and nothing else."""
    return data[:2] + bytes((_QR | (data[2] & 0x79), rcode)) + bytes(8)


def _response(query: Query) -> dns.message.Message:
    return dns.message.make_response(query.message, recursion_available=True, our_payload=LARGEST_UDP)


def _add(section: list[dns.rrset.RRset], lines: tuple[ResourceRecord, ...]) -> None:
    for line in lines:
        rdata = _rdata(line.type, line.value)
        last = section[-1] if section else None
        name = _name(line.name)
        if last is None or (last.name, last.rdtype) != (name, rdata.rdtype):
            last = dns.rrset.RRset(name, dns.rdataclass.IN, rdata.rdtype)
            section.append(last)
        last.add(rdata, line.ttl)


@functools.lru_cache(4096)
def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text)


@functools.lru_cache(4096)
def _rdata(kind: str, value: str) -> dns.rdata.Rdata:
    if kind == "TXT":
        data = value.encode()
        pieces = [data[i : i + _LONGEST_STRING] for i in range(0, len(data), _LONGEST_STRING)] or [b""]
        value = " ".join('"' + "".join(f"\\{byte:03d}" for byte in piece) + '"' for piece in pieces)
    return dns.rdata.from_text("IN", kind, value, origin=dns.name.root, relativize=False)

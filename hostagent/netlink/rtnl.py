"""A small route netlink client: one socket, many messages in one system call.

Why not a library: a socket belongs to the network namespace of the thread that opened it, so a plain socket can be
opened inside a namespace and used from anywhere, and a batch of messages costs one system call and no event loop.
Importing pyroute2 alone costs 25 MB of memory, a fifth of what the agent may use.

Owns the wire format only (struct layouts of linux/netlink.h and linux/rtnetlink.h); `links.py` knows what the messages
mean. Errors are OSError with the kernel's errno and its own words; callers translate them where they know what was
asked.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_ACK_TLVS = 0x200
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BATCH = 64  # messages in one sendmsg: the acknowledgements must fit the receive buffer
_RECEIVE_BYTES = 1 << 18
_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Message:
    """One request. `tolerate` lists errnos that mean that there was nothing to do."""

    kind: int
    flags: int
    body: bytes
    tolerate: frozenset[int] = frozenset()
    what: str = ""  # for the error's text


def attr(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | _NLA_F_NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attr(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """One byte."""
    return attr(kind, struct.pack("=B", value))


def u16be(kind: int, value: int) -> bytes:
    """Sixteen bits in network order, as ports are."""
    return attr(kind, struct.pack(">H", value))


def u32(kind: int, value: int) -> bytes:
    """Thirty-two bits, host order."""
    return attr(kind, struct.pack("=I", value))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of a message or a nest; of a repeated one the last counts."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class Rtnl:
    """A netlink socket, of the route family unless told otherwise, of the calling thread's network namespace.
    Blocking; one thread at a time."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, messages: Sequence[Message]) -> None:
        """Send all, in order; the kernel goes on after a refusal.

        Raises: OSError: the first refusal that its message does not tolerate.
        """
        first: OSError | None = None
        for start in range(0, len(messages), _BATCH):
            for message, (code, words) in self._exchange(messages[start : start + _BATCH]):
                if code and code not in message.tolerate and first is None:
                    said = f" ({words})" if words else ""
                    first = OSError(code, f"{message.what or 'netlink'}: {os.strerror(code)}{said}")
        if first is not None:
            raise first

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All answers to a dump request, without their netlink headers. Tries again when the kernel says that it was
        torn."""
        for _ in range(5):
            answers, torn = self._dump_once(kind, body)
            if not torn:
                break
        return answers

    def get(self, kind: int, body: bytes) -> bytes | None:
        """The answer about one object, or None when there is no such object."""
        self._sequence += 1
        self._send(kind, NLM_F_REQUEST, body, self._sequence)
        for answer_kind, _flags, sequence, payload in self._receive():
            if sequence != self._sequence:
                continue
            if answer_kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                if code in (errno.ENODEV, errno.ENOENT):
                    return None
                raise OSError(code, f"netlink: {os.strerror(code)}")
            return payload
        raise OSError(errno.EIO, "netlink: no answer")

    def _exchange(self, messages: Sequence[Message]) -> list[tuple[Message, tuple[int, str]]]:
        first = self._sequence + 1
        packed = bytearray()
        for message in messages:
            self._sequence += 1
            flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
            packed += _HEADER.pack(16 + len(message.body), message.kind, flags, self._sequence, 0) + message.body
            packed += b"\0" * (-len(message.body) % 4)
        self._socket.send(packed)
        results: dict[int, tuple[int, str]] = {}
        while len(results) < len(messages):
            for kind, flags, sequence, payload in self._receive():
                if kind == _NLMSG_ERROR and first <= sequence <= self._sequence:
                    results[sequence] = (-struct.unpack_from("=i", payload)[0], _words(flags, payload))
        return [(message, results[first + offset]) for offset, message in enumerate(messages)]

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body, self._sequence)
        answers: list[bytes] = []
        torn = False
        while True:
            for answer_kind, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & 0x10)  # NLM_F_DUMP_INTR
                if answer_kind == _NLMSG_DONE:
                    return answers, torn
                if answer_kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"netlink dump: {os.strerror(code)}")
                answers.append(payload)

    def _send(self, kind: int, flags: int, body: bytes, sequence: int) -> None:
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += (length + 3) & ~3


def _words(flags: int, payload: bytes) -> str:
    """The kernel's own explanation, if it gave one: it follows the error code and the header of the request."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    return attributes(payload, 20).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")

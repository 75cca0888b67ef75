"""Rate limits of an interface: a token bucket (TBF) as root queue of the end that sends. Values in, messages out.

What an instance receives is limited at its host end, what it sends at its own end, where the queue makes it wait; and
`guard.py` drops at the host end what is sent beyond that all the same, for an instance with NET_ADMIN can take its queue away.
"""

import struct

from hostagent.netlink.rtnl import NLM_F_CREATE, NLM_F_REPLACE, Message, Rtnl, attr, attributes, nest, text, u32

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_ROOT, _OUR_HANDLE = 0xFFFFFFFF, 0x6D6F0000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET = 1
_LEAST_BURST, _LEAST_QUEUE = 1 << 15, 1 << 17


def burst_bytes(rate_bits: int) -> int:
    """What may pass at once: 20 ms worth, and room for a large segment."""
    return max(rate_bits // 8 // 50, _LEAST_BURST)


def ensure(rtnl: Rtnl, index: int, rate_bits: int) -> None:
    """Limit what the link sends to `rate_bits` a second; 0: no limit. A queue of somebody else's is replaced only by a limit."""
    have = _ours(rtnl, index)
    if rate_bits and have != _parms(rate_bits):
        rtnl.run([_add(index, rate_bits)])
    elif not rate_bits and have is not None:
        rtnl.run([Message(_RTM_DELQDISC, 0, _head(index), what=f"delete the rate limit of link {index}")])


def _head(index: int) -> bytes:
    return struct.pack("=BxxxiIII", 0, index, _OUR_HANDLE, _ROOT, 0)


def _parms(rate_bits: int) -> tuple[int, int]:
    """(rate in bytes a second, bytes that may wait)."""
    rate = rate_bits // 8
    return rate, max(2 * burst_bytes(rate_bits), rate // 20, _LEAST_QUEUE)


def _add(index: int, rate_bits: int) -> Message:
    rate, queue = _parms(rate_bits)
    spec = struct.pack("=BBHhHI", 0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _ROOT))
    options = attr(_TBF_PARMS, spec + bytes(12) + struct.pack("=III", queue, 0, 0))
    options += attr(_TBF_RATE64, struct.pack("=Q", rate)) + u32(_TBF_BURST, burst_bytes(rate_bits))
    body = _head(index) + text(_TCA_KIND, "tbf") + nest(_TCA_OPTIONS, options)
    return Message(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body, what=f"limit link {index} to {rate_bits} bit/s")


def _ours(rtnl: Rtnl, index: int) -> tuple[int, int] | None:
    for payload in rtnl.dump(_RTM_GETQDISC, struct.pack("=BxxxiIII", 0, index, 0, 0, 0)):
        _family, of, handle, parent, _info = struct.unpack_from("=BxxxiIII", payload)
        parts = attributes(payload, 20)
        if (of, handle, parent) != (index, _OUR_HANDLE, _ROOT) or parts.get(_TCA_KIND) != b"tbf\0":
            continue
        options = attributes(parts.get(_TCA_OPTIONS, b""))
        parms = options.get(_TBF_PARMS, bytes(36))
        rate: int = struct.unpack_from("=I", parms, 8)[0]
        if _TBF_RATE64 in options:
            rate = struct.unpack("=Q", options[_TBF_RATE64])[0]
        return rate, struct.unpack_from("=I", parms, 24)[0]
    return None

"""TCP ports of 127.0.0.1 for servers of tests."""

import contextlib
import random
import socket

# Below the ports that the kernel gives to clients (32768-60999): a port of those could become some client's own between
# the moment it is chosen and the moment a server listens on it.
_FIRST, _LAST = 15000, 31999


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on.

    Raises:
        OSError: none of many tried is free.
    """
    chosen: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(range(_FIRST, _LAST + 1), 200):
            if len(chosen) == count:
                break
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                chosen.append(port)
    if len(chosen) < count:
        raise OSError(f"fewer than {count} of 200 ports are free")
    return chosen

"""A TCP port of the loopback interface for a server that is about to start, kept from everybody else until it does.

The port is bound, not listened on, by this process: the kernel refuses it to whoever else asks for a free one, in any
process, and gives it to a server that sets SO_REUSEADDR before it binds, as servers do. So two tests that start their
daemons in the same second never get one port for both.

Hazard: a server that binds without SO_REUSEADDR finds its port taken. The last 64 ports are kept, no more.
"""

from __future__ import annotations

import random
import socket
from collections import deque

__all__ = ["free_port"]

_kept: deque[socket.socket] = deque(maxlen=64)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now, and that nobody gets from here while this process keeps it.

    Chosen below the range that the kernel gives to outgoing connections, so that none of them takes it before we do.
    Raises `OSError` when there is none.
    """
    for port in (*random.sample(range(15_000, 32_000), 100), 0):
        keeper = socket.socket()
        try:
            keeper.bind(("127.0.0.1", port))  # without SO_REUSEADDR: fails beside anybody's, listening or not
        except OSError:
            keeper.close()
            continue
        # From now on the server that this port is for may bind it, too (socket(7): both must have set it, and none may
        # listen yet).
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _kept.append(keeper)
        return int(keeper.getsockname()[1])
    raise OSError("no free port on the loopback interface")

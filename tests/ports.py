"""Ports for servers that are started, or started again, by their number."""

import random
import socket

_LOWEST, _HIGHEST = 10_000, 32_000


def free_port() -> int:
    """Returns a port of loopback on which nothing listens.

    It is below those that kernels give to clients and to port 0: one of them could be taken before a server binds it.
    """
    while True:
        port = random.randint(_LOWEST, _HIGHEST)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue

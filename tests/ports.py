"""Ports for servers that are started, or started again, by their number."""

import os
import random
import socket

_LOWEST, _HIGHEST = 10_000, 32_000
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

_returned: set[int] = set()


def free_port() -> int:
    """Returns a port of loopback on which nothing listens, and that this run of the tests has not had yet.

    It is below those that kernels give to clients and to port 0: one of them could be taken before a server binds it.
    Nor does another test get it until then, or while its server is down.
    """
    while True:
        port = random.randrange(_LOWEST + _WORKER % _WORKERS, _HIGHEST, _WORKERS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            continue
        if port not in _returned:
            _returned.add(port)
            return port

"""Proves that a cell confines, by a program that tries from inside what must not work. Usage: see `try_everything`."""

import json
import os
import socket
import sys


def try_everything(root: str, outside: str, secret: str, port: int, service: int, namespace: str) -> dict[str, bool]:
    """Returns what was possible: to write to the root and outside, to read a secret, to connect to the service."""
    return {
        "root_writable": _is_possible(lambda: _write(f"{root}/inside")),
        "outside_writable": _is_possible(lambda: _write(f"{outside}/outside")),
        "secret_readable": _is_possible(lambda: _read(secret)),
        "loopback_reachable": _is_possible(lambda: socket.create_connection(("127.0.0.1", port), 1).close()),
        "service_visible": os.readlink("/proc/self/ns/pid") == namespace and _is_possible(lambda: os.kill(service, 0)),
        "has_capabilities": _has_capabilities(),
    }


EXPECTED = {
    "root_writable": True,
    "outside_writable": False,
    "secret_readable": False,
    "loopback_reachable": False,
    "service_visible": False,
    "has_capabilities": False,
}
"""What has to come of it."""


def _is_possible(attempt: object) -> bool:
    try:
        attempt()  # type: ignore[operator]  # a function without arguments
    except OSError:
        return False
    return True


def _write(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("written")


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read()


def _has_capabilities() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return any(line.startswith("CapEff:") and int(line.split()[1], 16) for line in file)


if __name__ == "__main__":
    root, outside, secret, port, service, namespace = sys.argv[1:]
    sys.stdout.write(json.dumps(try_everything(root, outside, secret, int(port), int(service), namespace)))

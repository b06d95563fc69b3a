"""Forks services and commands from a process that has imported them: importing takes longer than most of them live.

Each message at the socket orders one: its id, variables, arguments and directory, and as descriptors its stdin,
stdout and stderr, and maybe one that its last argument names. Answers say which process it is, and how it ended.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any

from runner_service.cli import main

_IMPORTED_BY_SERVICES = (
    "runner_service.cli.actions.serve",
    "runner_service.executors.daytona.factory",
    "runner_service.executors.local.executor",
    "runner_service.storage.redis.backend",
    "runner_service.temporal.worker",
)
_IMPORTED_BY_COMMANDS = (
    "runner_service.cli.silent_grpc",  # before anything else imports gRPC
    *(
        f"runner_service.cli.actions.{name}"
        for name in (
            "approvals",
            "cancel",
            "changes",
            "check",
            "delete",
            "events",
            "health",
            "output",
            "ps",
            "run",
            "web",
        )
    ),
)
_MAX_ORDER_BYTES = 1 << 20

_order_ids: dict[int, int] = {}


def _is_child(control: socket.socket, order: dict[str, Any], descriptors: list[int]) -> bool:
    """Forks, and returns whether this is the new process. Its end is only seen once it is known."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    pid = os.fork()
    if pid:
        _order_ids[pid] = order["id"]
        _answer(control, id=order["id"], pid=pid)
        for each in descriptors:
            os.close(each)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    return not pid


def _answer(control: socket.socket, **fields: int) -> None:
    try:
        control.send(json.dumps(fields).encode())
    except BrokenPipeError:  # the tests have ended, and with them this process
        return


def _reap(control: socket.socket) -> None:
    while _order_ids:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # this was interrupted by the signal of the last one, whose handler is still at it
            return
        if not pid:
            return
        _answer(control, id=_order_ids.pop(pid), exit_code=os.waitstatus_to_exitcode(status))


def _serve(order: dict[str, Any], descriptors: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["directory"])
    for target, source in enumerate(descriptors[:3]):
        os.dup2(source, target)
        os.close(source)
    sys.argv[1:] = [*order["arguments"], *map(str, descriptors[3:])]
    main()


def _fork_until_closed(control: socket.socket) -> None:
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _MAX_ORDER_BYTES, 4)
        if not data:
            break
        order = json.loads(data)
        if _is_child(control, order, descriptors):
            control.close()
            _serve(order, descriptors)
            break


def _preload(preloaded: str) -> None:
    if preloaded == "service":
        from daytona import AsyncDaytona  # noqa: F401  # it is imported when it is first used

        from runner_service.agent.loader import load

        load()
    for name in _IMPORTED_BY_SERVICES if preloaded == "service" else _IMPORTED_BY_COMMANDS:
        importlib.import_module(name)
    gc.freeze()


if __name__ == "__main__":
    _preload(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))

    def on_child(_: int, __: FrameType | None) -> None:
        _reap(control)

    signal.signal(signal.SIGCHLD, on_child)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _fork_until_closed(control)

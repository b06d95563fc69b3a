"""Forks services from a process that has imported everything: importing takes longer than many of them live.

Reads a line of JSON for each, {"environ", "ready_file", "log"}, and answers with its pid. The services outlive it.
"""

import json
import os
import signal
import sys
from types import FrameType
from typing import Any

import runner_service.cli.actions.serve  # noqa: F401  # for the services, which would import it when called
from runner_service.agent.loader import load
from runner_service.cli import main


def _reap(_: int, __: FrameType | None) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _serve(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.environ.clear()
    os.environ.update(order["environ"])
    nothing, log = os.open(os.devnull, os.O_RDWR), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv[1:] = ["serve", "--ready-file", order["ready_file"]]
    try:
        main()
    finally:
        os._exit(0)  # what it would say with its exit code is in its log


def _fork_forever() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            _serve(order)
        print(pid, flush=True)


load()
signal.signal(signal.SIGCHLD, _reap)
_fork_forever()

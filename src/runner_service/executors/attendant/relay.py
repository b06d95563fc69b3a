"""Relays one request to the attendant of this sandbox, starting it if necessary. Runs as a script.

The request is in variables, never on the command line, which every process can read: in parts in `RUNNER_REQUEST_0`
and so on, or, if it is too long for that, in the file named by `RUNNER_REQUEST_FILE`, which is removed when it is read.
With `RUNNER_REQUEST_CWD`, it is told where this was started. The response is the line of stdout that begins with
`ANSWER`.
"""

import os
import sys
import time
from _socket import AF_UNIX, socket  # importing `socket` takes as long as starting Python

ANSWER = "runner-service-answer:"
OLDEST_PYTHON = (3, 11)
SOCKET = "socket"
VARIABLE = "RUNNER_REQUEST"
MAX_VARIABLES = 8

_HOME = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # importing pathlib would double the cost of a call
_START_TIMEOUT_SECONDS = 20.0
_PROGRAM = (
    "import sys; sys.path.insert(0, {!r}); from runner_service.executors.attendant.server import main; main({!r})"
)


def main() -> None:
    """Sends the request and prints the response."""
    if sys.version_info < OLDEST_PYTHON:
        print(ANSWER + '{"too_old": "%d.%d"}' % sys.version_info[:2])  # noqa: UP031, T201  # must run on old versions
        return
    os.chdir(_HOME)  # socket paths are limited in length
    request = _request()
    if not request:
        sys.stdout.write("\n" + ANSWER + '{"request_missing": true}\n')
        return
    attendant = _connected()
    attendant.sendall(request + b"\n")
    answer = bytearray(ANSWER.encode())
    while data := attendant.recv(1 << 20):
        answer += data
    # The shell may have printed an unfinished line before this.
    sys.stdout.buffer.write(b"\n" + answer)


def _request() -> bytes:
    """Returns the request; empty if somebody else has read it from its file."""
    if path := os.environ.get(f"{VARIABLE}_FILE"):
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # as above
                request = file.read()
            os.unlink(path)  # noqa: PTH108  # as above
        except FileNotFoundError:
            return b""
        return request
    parts = (os.environ.get(f"{VARIABLE}_{number}", "") for number in range(MAX_VARIABLES))
    request = "".join(parts).encode()
    if cwd := os.environ.get(f"{VARIABLE}_CWD"):
        import json  # noqa: PLC0415  # only the first call of an execution needs it

        request = b'{"working_directory":' + json.dumps(cwd).encode() + b"," + request[1:]
    return request


def _connected() -> socket:
    """Connects; under a lock, one caller starts the attendant if it is not running."""
    try:
        return _try_to_connect()
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    import fcntl  # noqa: PLC0415  # only the first call needs this

    with open("start.lock", "w") as lock:  # noqa: PTH123  # as above
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _try_to_connect()
        except (FileNotFoundError, ConnectionRefusedError):
            _start()
        return _connected_within(_START_TIMEOUT_SECONDS)


def _try_to_connect() -> socket:
    attendant = socket(AF_UNIX)
    try:
        attendant.connect(SOCKET)
    except BaseException:
        attendant.close()
        raise
    return attendant


def _connected_within(seconds: float) -> socket:
    end = time.monotonic() + seconds
    while True:
        try:
            return _try_to_connect()
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def _start() -> None:
    """Starts the attendant detached, so that it outlives this call and its process group."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _exec_attendant()
    finally:
        os._exit(1)


def _exec_attendant() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open("attendant.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in enumerate((nothing, log, log)):
        os.dup2(source, target)
    os.closerange(3, 1024)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLE)}
    program = _PROGRAM.format(os.path.join(_HOME, "code"), _HOME)  # noqa: PTH118  # as above
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-X", "utf8", "-c", program], environment)  # noqa: S606  # ours


if __name__ == "__main__":
    main()

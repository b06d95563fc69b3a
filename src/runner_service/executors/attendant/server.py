"""The attendant's server: answers requests on a Unix socket, and exits when idle."""

import asyncio
import base64
import json
import logging
import os
import signal
import sys
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner_service.executors.attendant.changes import restored
from runner_service.executors.attendant.fence import Fence
from runner_service.executors.attendant.files import OPERATIONS
from runner_service.executors.attendant.output_buffer import STREAMS
from runner_service.executors.attendant.relay import SOCKET
from runner_service.executors.attendant.responses import (
    Request,
    Response,
    encode_response,
    poll_response,
    start_response,
)
from runner_service.executors.attendant.sessions import Session
from runner_service.executors.attendant.stdin_buffer import StdinBuffer
from runner_service.executors.local.executor import local_executor
from runner_service.executors.local.orphan_record import StateInUseError
from runner_service.executors.protocol import Executor, FileError, SandboxError, SandboxSpec
from runner_service.executors.supervisor.dumpable import make_undumpable
from runner_service.executors.supervisor.watchdog import Quota
from runner_service.settings.machine import default_command_memory, default_command_processes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_IDLE_TIMEOUT_SECONDS = 900.0
_ABANDONED_TIMEOUT_SECONDS = 6 * 3600.0
_IDLE_CHECK_INTERVAL_SECONDS = 10.0
_EARLIER_ATTENDANT_TIMEOUT_SECONDS = 10.0
_EARLIER_ATTENDANT_INTERVAL_SECONDS = 0.05
_MAX_REQUEST_BYTES = 64 * 1024 * 1024
_MAX_REMEMBERED_RESPONSES = 1000
_EXCLUDED_VARIABLES = {"TERM", "PWD", "OLDPWD", "SHLVL", "_"}


class UnknownSessionError(Exception):
    """The session is not open in this process, which started after it."""


class Attendant:
    """Responses requests. Not thread-safe."""

    def __init__(self, directory: Path, parts: AsyncExitStack) -> None:
        self._directory = directory
        self._parts = parts
        self._executor: Executor | None = None
        self._sessions: dict[str, Session] = {}
        self._session_lock = asyncio.Lock()
        self._responses: OrderedDict[str, asyncio.Task[Response]] = OrderedDict()
        self._handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "ping": self._ping,
            "open": self._open,
            "run": self._run,
            "run_with_stdin": self._run_with_stdin,
            "stdin": self._stdin,
            "poll": self._poll,
            "end": self._end,
            "close": self._close,
            "remove": self._remove,
            "file": self._file,
            "changes": self._changes,
            "restore": self._restore,
        }
        self._fence = Fence(directory / "sessions")
        self._active_requests = 0
        self._last_request = asyncio.get_running_loop().time()

    @property
    def is_idle(self) -> bool:
        """Whether the idle timeout is over; it is longer while sessions are open."""
        if self._active_requests:
            return False
        timeout = _ABANDONED_TIMEOUT_SECONDS if self._sessions else _IDLE_TIMEOUT_SECONDS
        return asyncio.get_running_loop().time() - self._last_request > timeout

    def abandon(self) -> None:
        """Records in all sessions that this process is stopping."""
        for session in self._sessions.values():
            session.abandon()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves the single request of a connection."""
        self._active_requests += 1
        try:
            request = json.loads(await reader.readline())
            response = await self._respond(request)
            writer.write(await encode_response(response))
            await writer.drain()
        except (ConnectionError, ValueError):
            logger.warning("caller_gone")
        finally:
            self._active_requests -= 1
            self._last_request = asyncio.get_running_loop().time()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _respond(self, request: Request) -> Response:
        """Answers a request; a repeated number gets the cached response. Runs on if the caller disconnects."""
        if not self._fence.admits(request.get("session", ""), request.get("token", 0)):
            return {"fenced": self._fence.highest(request["session"])}
        number = request.get("number")
        if number is None or request.get("session") not in self._sessions:  # that it is unknown is not to be cached
            return await self._dispatch(request)
        if number not in self._responses:
            self._responses[number] = asyncio.create_task(self._dispatch(request))
            while len(self._responses) > _MAX_REMEMBERED_RESPONSES:
                self._responses.popitem(last=False)
        return await asyncio.shield(self._responses[number])

    async def _dispatch(self, request: Request) -> Response:
        if request["do"] not in self._handlers:
            return {"unknown_request": True}
        try:
            return await self._handlers[request["do"]](request)
        except UnknownSessionError:
            return {"unknown_session": True}
        except FileError as error:
            return {"file_error": {"code": error.code, "message": error.message}}
        except SandboxError as error:
            return {"sandbox_error": str(error)}
        except Exception:
            logger.exception("request_failed do=%s", request.get("do"))
            return {"defect": True}

    async def _ping(self, request: Request) -> Response:
        del request  # only shows that the attendant is installed
        return {}

    async def _open(self, request: Request) -> Response:
        async with self._session_lock:
            if self._executor is None:
                if not (above := request.get("root") or request.get("working_directory")):
                    return {"unknown_root": True}
                self._executor = await self._enter_executor(request, Path(above, request["below_root"]))
            executor, name = self._executor, request["session"]
            if name not in self._sessions:
                given = {**_own_environment(), **request["environment"]}
                session = Session(self._directory / "sessions" / request["directory"], self._directory / "transfers")
                await session.enter(executor, SandboxSpec(name, environment=given, notify=session.notify))
                self._sessions[name] = session
        return {"root": self._sessions[name].sandbox.root, "process_control": executor.process_control}

    async def _enter_executor(self, request: Request, root: Path) -> Executor:
        """Waits for the end of an earlier attendant, which has given up its socket and still ends its commands."""
        end = asyncio.get_running_loop().time() + _EARLIER_ATTENDANT_TIMEOUT_SECONDS
        while True:
            opened = local_executor(
                root=root,
                state_dir=self._directory / "state",
                terminate_grace=request["terminate_grace"],
                quota=_quota(request),
                tracks_home=True,
            )
            try:
                return await self._parts.enter_async_context(opened)
            except StateInUseError:
                if asyncio.get_running_loop().time() > end:
                    raise
            logger.info("earlier_attendant_ending action=wait")
            await asyncio.sleep(_EARLIER_ATTENDANT_INTERVAL_SECONDS)

    async def _run(self, request: Request) -> Response:
        session, name = self._known_open(request), request["name"]
        run = session.start_command(name, request["text"], request["timeout"])
        return await start_response(session, name, run, request["wait"])

    async def _run_with_stdin(self, request: Request) -> Response:
        """Starts a command with stdin; it ends after `idle_timeout` seconds without a request."""
        session, name = self._known_open(request), request["name"]
        stdin = StdinBuffer(session.notifier, request["idle_timeout"])
        run = session.start_command(name, request["text"], request["timeout"], stdin)
        return await start_response(session, name, run, request["wait"])

    async def _poll(self, request: Request) -> Response:
        return await poll_response(self._known(request), request)

    async def _stdin(self, request: Request) -> Response:
        """Accepts a chunk of input, then waits until there is room for the next."""
        session = self._known(request)
        run = session.find_command(request["name"])
        if run is None or run.stdin is None:
            return {"unknown_command": True}
        run.reset_idle_timer(request["wait"])
        run.stdin.receive(request["offset"], base64.b64decode(request["data"]), is_last=request["is_last"])
        with suppress(TimeoutError):
            async with asyncio.timeout(request["wait"]):
                while not (run.ended.is_set() or run.stdin.has_room):
                    await session.notifier.wait()
        return {"has_ended": run.ended.is_set(), "has_room": run.stdin.has_room}

    async def _end(self, request: Request) -> Response:
        session = self._known(request)
        if run := session.find_command(request["name"]):
            for stream in STREAMS:
                run.output.acknowledge(stream, run.output.sizes[stream])
            await run.end()
        return {}

    async def _close(self, request: Request) -> Response:
        await self._known(request).close()
        return {}

    async def _remove(self, request: Request) -> Response:
        if session := self._sessions.pop(request["session"], None):
            await session.close()
            session.remove()
        return {}

    async def _file(self, request: Request) -> Response:
        return {"result": await OPERATIONS[request["operation"]](self._known(request).sandbox, request)}

    async def _changes(self, request: Request) -> Response:
        """Finds what was changed."""
        return await self._known(request).changes.respond(request)

    async def _restore(self, request: Request) -> Response:
        """Puts files back as they were."""
        root = self._known(request).sandbox.root
        assert self._executor is not None  # noqa: S101  # a session was opened by it
        async with self._executor.open_restorer(SandboxSpec(request["session"]), root) as restorer:
            return {"result": await restored(restorer, request)}

    def _known_open(self, request: Request) -> Session:
        session = self._known(request)
        if session.is_closed:
            raise SandboxError("the sandbox is closed")
        return session

    def _known(self, request: Request) -> Session:
        try:
            return self._sessions[request["session"]]
        except KeyError:
            raise UnknownSessionError from None


def _quota(request: Request) -> Quota:
    """Returns the limits of commands; defaults depend on the resources of this sandbox."""
    memory, processes = request.get("memory"), request.get("processes")
    return Quota(
        memory=default_command_memory() if memory is None else memory,
        processes=default_command_processes() if processes is None else processes,
        cpu_time=request.get("cpu_time", 0.0),
    )


def _own_environment() -> dict[str, str]:
    """Returns the sandbox's own environment."""
    return {name: value for name, value in os.environ.items() if name not in _EXCLUDED_VARIABLES}


async def _serve_until_idle(directory: Path) -> None:
    for name in ("transfers", "sessions"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as parts:
        attendant = Attendant(directory, parts)
        _remove_socket()
        async with await asyncio.start_unix_server(attendant.serve, SOCKET, limit=_MAX_REQUEST_BYTES):
            while not (stop.is_set() or attendant.is_idle):
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _IDLE_CHECK_INTERVAL_SECONDS)
            attendant.abandon()
            _remove_socket()


def _remove_socket() -> None:
    Path(SOCKET).unlink(missing_ok=True)


def main(directory: str) -> None:
    """Serves in `directory`, where the bundle is installed."""
    make_undumpable()
    os.umask(0o022)
    os.chdir(directory)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    asyncio.run(_serve_until_idle(Path(directory)))

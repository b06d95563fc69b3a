"""The attendant itself: one process that answers requests on a Unix socket in its directory, until long idle."""

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

from runner_service.executors.attendant.answers import Answer, Request, at, encoded, late_runs, news_of
from runner_service.executors.attendant.client import SOCKET
from runner_service.executors.attendant.feed import Feed
from runner_service.executors.attendant.files import OPERATIONS
from runner_service.executors.attendant.sessions import Opening
from runner_service.executors.attendant.spool import STREAMS
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Executor, FileError, SandboxError, SandboxSpec
from runner_service.executors.supervisor.dumpable import make_undumpable
from runner_service.executors.supervisor.watchdog import Quota
from runner_service.settings.machine import default_command_memory, default_command_processes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 900.0
_FORSAKEN_SECONDS = 6 * 3600.0
_LOOK_EVERY = 10.0
_LONGEST_REQUEST = 64 * 1024 * 1024
_ANSWERS_REMEMBERED = 1000
_NOT_PASSED_ON = {"TERM", "PWD", "OLDPWD", "SHLVL", "_"}


class UnknownOpeningError(Exception):
    """The request is about what this attendant has not opened: it was started after that."""


class Attendant:
    """Answers requests. Belongs to its loop."""

    def __init__(self, directory: Path, parts: AsyncExitStack) -> None:
        self._directory = directory
        self._parts = parts
        self._executor: Executor | None = None
        self._openings: dict[str, Opening] = {}
        self._opening = asyncio.Lock()
        self._answers: OrderedDict[str, asyncio.Task[Answer]] = OrderedDict()
        self._doing: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "nothing": self._nothing,
            "open": self._open,
            "run": self._run,
            "run_fed": self._run_fed,
            "feed": self._feed,
            "follow": self._follow,
            "end": self._end,
            "late": self._late,
            "close": self._close,
            "forget": self._forget,
            "file": self._file,
        }
        self._asking = 0
        self._last_asked = asyncio.get_running_loop().time()

    @property
    def is_done(self) -> bool:
        """Says whether nothing is open and nobody has asked for long, or nobody has asked for very long."""
        if self._asking:
            return False
        patience = _FORSAKEN_SECONDS if self._openings else _IDLE_SECONDS
        return asyncio.get_running_loop().time() - self._last_asked > patience

    def abandon(self) -> None:
        """Takes note that this process is about to end."""
        for opening in self._openings.values():
            opening.abandon()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the one request of a connection."""
        self._asking += 1
        try:
            request = json.loads(await reader.readline())
            answer = await self._answer(request)
            writer.write(encoded(answer))
            await writer.drain()
        except (ConnectionError, ValueError):
            logger.warning("caller_gone")
        finally:
            self._asking -= 1
            self._last_asked = asyncio.get_running_loop().time()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: Request) -> Answer:
        """Answers, or gives the answer that the same request has had; it is worked on whoever goes on waiting."""
        number = request.get("number")
        if number is None:
            return await self._guarded(request)
        if number not in self._answers:
            self._answers[number] = asyncio.create_task(self._guarded(request))
            while len(self._answers) > _ANSWERS_REMEMBERED:
                self._answers.popitem(last=False)
        return await asyncio.shield(self._answers[number])

    async def _guarded(self, request: Request) -> Answer:
        if request["do"] not in self._doing:
            return {"unknown_request": True}
        try:
            return await self._doing[request["do"]](request)
        except UnknownOpeningError:
            return {"unknown_opening": True}
        except FileError as error:
            return {"file_error": {"code": error.code, "message": error.message}}
        except SandboxError as error:
            return {"sandbox_error": str(error)}
        except Exception:
            logger.exception("request_failed do=%s", request.get("do"))
            return {"defect": True}

    async def _nothing(self, request: Request) -> Answer:
        del request  # asked only to be there
        return {}

    async def _open(self, request: Request) -> Answer:
        async with self._opening:
            executor = self._executor = self._executor or await self._enter_executor(request)
            name = request["opening"]
            if name not in self._openings:
                given = {**_own_environment(), **request["environment"]}
                opening = Opening(self._directory / "openings" / request["directory"])
                await opening.enter(executor, SandboxSpec(name, environment=given, notify=opening.notify))
                self._openings[name] = opening
        return {"root": self._openings[name].sandbox.root, "process_control": executor.process_control}

    async def _enter_executor(self, request: Request) -> Executor:
        return await self._parts.enter_async_context(
            local_executor(
                root=Path(request["root"]),
                state_dir=self._directory / "state",
                terminate_grace=request["terminate_grace"],
                quota=_quota(request),
            )
        )

    async def _run(self, request: Request) -> Answer:
        opening = self._open_still(request)
        run = opening.begin(request["name"], request["text"], request["timeout"])
        return await news_of(opening, run, request)

    async def _run_fed(self, request: Request) -> Answer:
        """Begins a command with a standard input; it ends when nobody asks about it for `forsaken_after` seconds."""
        opening = self._open_still(request)
        feed = Feed(opening.news, request["forsaken_after"])
        run = opening.begin(request["name"], request["text"], request["timeout"], feed)
        return await news_of(opening, run, request)

    async def _feed(self, request: Request) -> Answer:
        """Takes a piece of input, then waits until there is room for the next one."""
        opening = self._known(request)
        run = opening.find(request["name"])
        if run is None or run.feed is None:
            return {"unknown_command": True}
        run.hear(request["wait"])
        run.feed.take_in(request["offset"], base64.b64decode(request["data"]), is_last=request["is_last"])
        with suppress(TimeoutError):
            async with asyncio.timeout(request["wait"]):
                while not (run.ended.is_set() or run.feed.has_room):
                    await opening.news.wait()
        return {"has_ended": run.ended.is_set(), "has_room": run.feed.has_room}

    async def _follow(self, request: Request) -> Answer:
        opening = self._known(request)
        return await news_of(opening, opening.find(request["name"]), request)

    async def _end(self, request: Request) -> Answer:
        opening = self._known(request)
        if run := opening.find(request["name"]):
            for stream in STREAMS:
                run.spool.take(stream, run.spool.sizes[stream])
            await run.end()
        return {}

    async def _late(self, request: Request) -> Answer:
        """Waits until a command that has ended has more output, or there is a notice; `offsets` is by command."""
        opening = self._known(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(request["wait"]):
                while not (late_runs(opening, request["offsets"]) or opening.notices[request.get("notices", 0) :]):
                    await opening.news.wait()
                    self._known(request)
        late = late_runs(opening, request["offsets"])
        pieces = {name: {**run.spool.pieces(offsets), **at(offsets)} for name, (run, offsets) in late.items()}
        return {"late": pieces, "notices": opening.notices[request.get("notices", 0) :]}

    async def _close(self, request: Request) -> Answer:
        await self._known(request).close()
        return {}

    async def _forget(self, request: Request) -> Answer:
        if opening := self._openings.pop(request["opening"], None):
            await opening.close()
            opening.forget()
        return {}

    async def _file(self, request: Request) -> Answer:
        return {"result": await OPERATIONS[request["operation"]](self._known(request).sandbox, request)}

    def _open_still(self, request: Request) -> Opening:
        opening = self._known(request)
        if opening.is_closed:
            raise SandboxError("the sandbox is closed")
        return opening

    def _known(self, request: Request) -> Opening:
        try:
            return self._openings[request["opening"]]
        except KeyError:
            raise UnknownOpeningError from None


def _quota(request: Request) -> Quota:
    """Returns what commands may use; what the service leaves open is decided by what there is in this sandbox."""
    memory, processes = request.get("memory"), request.get("processes")
    return Quota(
        memory=default_command_memory() if memory is None else memory,
        processes=default_command_processes() if processes is None else processes,
        cpu_time=request.get("cpu_time", 0.0),
    )


def _own_environment() -> dict[str, str]:
    """Returns what the sandbox itself gives to its processes."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}


async def _serve_until_idle(directory: Path) -> None:
    for name in ("transfers", "openings"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as parts:
        attendant = Attendant(directory, parts)
        _remove_socket()
        async with await asyncio.start_unix_server(attendant.serve, SOCKET, limit=_LONGEST_REQUEST):
            while not (stop.is_set() or attendant.is_done):
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _LOOK_EVERY)
            attendant.abandon()
            _remove_socket()


def _remove_socket() -> None:
    Path(SOCKET).unlink(missing_ok=True)


def main(directory: str) -> None:
    """Serves in `directory`, which holds the bundle and is this attendant's own."""
    make_undumpable()
    os.umask(0o022)
    os.chdir(directory)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    asyncio.run(_serve_until_idle(Path(directory)))

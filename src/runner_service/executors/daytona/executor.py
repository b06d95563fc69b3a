"""The Daytona executor: opens the sandboxes of executions in boxes, and sees that no box is left over."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from runner_service.executors.completion import run_to_completion
from runner_service.executors.daytona.box import Box
from runner_service.executors.daytona.bundle import bundle
from runner_service.executors.daytona.following import Followed
from runner_service.executors.daytona.reaper import reap_for_ever
from runner_service.executors.daytona.rpc import Line
from runner_service.executors.daytona.sandbox import DaytonaSandbox
from runner_service.executors.daytona.sandboxes import Boxes, Terms, Wanted
from runner_service.executors.daytona.sdk import daytona_client
from runner_service.executors.daytona.session import Attendance, CommandTerms, place_of
from runner_service.executors.protocol import SandboxError, SandboxSpec

logger = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 4
_AS_ALWAYS = CommandTerms()


@dataclass(frozen=True)
class Account:
    """Where Daytona is and who we are there. `target` is a region, or empty for the organisation's own."""

    api_key: SecretStr
    api_url: str = "https://app.daytona.io/api"
    target: str = ""


class DaytonaExecutor:
    """Opens sandboxes. The SDK is loaded in the background, once wanted or when the first one is opened."""

    sandbox_type = "daytona"

    def __init__(self, account: Account, terms: Terms, begin: asyncio.Event, commands: CommandTerms) -> None:
        self._account = account
        self._terms = terms
        self._commands = commands
        self._wanted = begin
        self._boxes: asyncio.Future[Boxes] = asyncio.get_running_loop().create_future()
        self._held: set[str] = set()
        self.process_control = ""

    @asynccontextmanager
    async def open(self, spec: SandboxSpec) -> AsyncIterator[DaytonaSandbox]:
        """Opens the sandbox of an execution: in its session's box, or in one of its own that is deleted in the end.

        Raises:
            SandboxError: there is none to be had; the class says why.
        """
        self._wanted.set()
        boxes = await asyncio.shield(self._boxes)
        async with self._box(boxes, spec) as box, AsyncExitStack() as parts:
            sent = (await asyncio.to_thread(bundle)).for_terms(self._commands)
            line = Line(box, sent, place=place_of(spec), slack=self._terms.slack)
            attendance = Attendance(box, line, spec, root=await box.working_directory(), terms=self._commands)
            await attendance.open()
            self.process_control = attendance.process_control
            followed = Followed(attendance, spec.notify, poll=self._terms.poll, forsaken=self._terms.forsaken)
            parts.push_async_callback(_closed, followed, spec)
            await parts.enter_async_context(_beside(followed.listen()))
            await parts.enter_async_context(_beside(self._renew(box)))
            yield DaytonaSandbox(box, attendance, followed, spec.is_interrupted)

    async def work(self) -> None:
        """Loads the SDK when wanted, and reaps what crashes have left, until it is cancelled."""
        await self._wanted.wait()
        try:
            async with daytona_client(
                api_key=self._account.api_key, api_url=self._account.api_url, target=self._account.target
            ) as client:
                boxes = Boxes(client, self._terms)
                self._boxes.set_result(boxes)
                await reap_for_ever(client, boxes, self._held)
        except Exception as error:  # whatever it is, executions are to end with it rather than wait for ever
            logger.exception("daytona_failed")
            if not self._boxes.done():
                known = error if isinstance(error, SandboxError) else None
                self._boxes.set_exception(known or SandboxError("the Daytona SDK cannot be loaded; the log says why"))
                self._boxes.exception()

    @asynccontextmanager
    async def _box(self, boxes: Boxes, spec: SandboxSpec) -> AsyncIterator[Box]:
        wanted = boxes.wanted(spec)
        self._held.add(wanted.name)
        try:
            yield Box(boxes, await boxes.obtain(wanted, spec.notify), spec.notify)
        finally:
            try:
                if wanted.kind == "execution" and not spec.is_interrupted():
                    await run_to_completion(_discarded(boxes, wanted))
            finally:
                self._held.discard(wanted.name)

    async def _renew(self, box: Box) -> None:
        while True:
            await asyncio.sleep(self._terms.lease / _RENEWALS_PER_LEASE)
            try:
                await box.renew()
            except SandboxError as error:
                logger.warning("lease_not_renewed box=%s reason=%s", box.name, error)


@asynccontextmanager
async def daytona_executor(
    account: Account,
    terms: Terms,
    *,
    begin: asyncio.Event | None = None,
    commands: CommandTerms = _AS_ALWAYS,
) -> AsyncIterator[DaytonaExecutor]:
    """Opens the executor. Nothing is imported or called before `begin` is set, or its first `open`.

    Args:
        account: where Daytona is, and the key.
        terms: what boxes are made from, and when they go.
        begin: when to load the SDK, if no sandbox is asked for before.
        commands: how commands are run, and what they may use.
    """
    executor = DaytonaExecutor(account, terms, begin or asyncio.Event(), commands)
    async with _beside(executor.work()):
        yield executor


async def _discarded(boxes: Boxes, wanted: Wanted) -> None:
    try:
        await boxes.discard(wanted.name)
    except SandboxError as error:
        logger.warning("box_not_deleted name=%s reason=%s", wanted.name, error)


async def _closed(followed: Followed, spec: SandboxSpec) -> None:
    """Ends what runs, unless it is to be gone on with."""
    if spec.is_interrupted():
        return
    with suppress(SandboxError):
        await run_to_completion(followed.close())


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs something during the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])

"""The Daytona executor: gives each execution a sandbox and leaves none behind."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from runner_service.executors.completion import run_to_completion
from runner_service.executors.confinement import Confinement, ConfinementInForce
from runner_service.executors.daytona.attendant_client import AttendantClient
from runner_service.executors.daytona.bundle import bundle
from runner_service.executors.daytona.changes import DaytonaRestorer, restorer_in
from runner_service.executors.daytona.commands import CommandRunner
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.deletions import Deletions
from runner_service.executors.daytona.manager import SandboxManager
from runner_service.executors.daytona.raw_api import RawApi
from runner_service.executors.daytona.reaper import run_reaper
from runner_service.executors.daytona.remote_sandbox import RemoteSandbox
from runner_service.executors.daytona.sandbox import DaytonaSandbox
from runner_service.executors.daytona.sdk import daytona_client
from runner_service.executors.daytona.session import (
    CLOSE_TIMEOUT_SECONDS,
    CommandLimits,
    ExecutionSession,
    session_directory_name,
)
from runner_service.executors.daytona.warm_pool import WarmPool
from runner_service.executors.protocol import ConfinementError, SandboxError, SandboxSpec
from runner_service.settings import SecretStr
from runner_service.telemetry.metrics import WARM_SANDBOXES, gauges_observed, sandbox_opened

if TYPE_CHECKING:
    from daytona import AsyncSandbox

logger = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 4
_NO_SESSION = "none"
_RESTORER_PREFIX = "revert "  # begins no id of an execution
_DEFAULT_LIMITS = CommandLimits()


@dataclass(frozen=True)
class Account:
    """API endpoint and credentials. `target` is a region; empty means the organisation's default."""

    api_key: SecretStr
    api_url: str = "https://app.daytona.io/api"
    target: str = ""


class _Sandboxes(NamedTuple):
    """What the SDK's client is needed for."""

    manager: SandboxManager
    deletions: Deletions
    pool: WarmPool


class DaytonaExecutor:
    """Opens sandboxes. Loads the SDK in the background once `begin` is set or the first sandbox is opened."""

    sandbox_type = "daytona"

    def __init__(self, account: Account, config: SandboxConfig, begin: asyncio.Event, limits: CommandLimits) -> None:
        self._account = account
        self._config = config
        self._limits = limits
        self._load_sdk = begin
        self._sandboxes: asyncio.Future[_Sandboxes] = asyncio.get_running_loop().create_future()
        self._held: set[str] = set()
        self.process_control = ""

    async def confinement_for(self, asked: Confinement) -> ConfinementInForce | None:
        """Refuses any level: a cloud sandbox is a machine of its own.

        Raises:
            ConfinementError: a level is asked for.
        """
        if asked:
            raise ConfinementError("confinement is for local mode: a cloud sandbox is a machine of its own")
        return None

    def root_for(self, spec: SandboxSpec) -> str | None:
        """Returns None: the sandbox decides."""
        del spec
        return None

    async def delete(self, spec: SandboxSpec) -> None:
        """Implements `Executor`."""
        self._load_sdk.set()
        manager = (await asyncio.shield(self._sandboxes)).manager
        await manager.delete_for(manager.ref_for(spec))

    async def release_ended(self, spec: SandboxSpec) -> None:
        """Implements `Executor`. A sandbox that is stopped runs nothing, and stays so."""
        if not spec.session_id:
            await self.delete(spec)
            return
        self._load_sdk.set()
        manager = (await asyncio.shield(self._sandboxes)).manager
        if handle := await manager.running(manager.ref_for(spec)):
            session = await self._session(RemoteSandbox(manager, handle, spec.notify), spec)
            await session.request("remove", response_timeout=CLOSE_TIMEOUT_SECONDS)

    def skip_grace(self) -> None:
        """Does nothing: commands in a sandbox outlive the service."""

    @asynccontextmanager
    async def open_restorer(self, spec: SandboxSpec, root: str) -> AsyncIterator[DaytonaRestorer]:
        """Implements `Executor`. The sandbox is started if it is stopped."""
        self._load_sdk.set()
        manager = (await asyncio.shield(self._sandboxes)).manager
        ref = manager.ref_for(spec)
        end = asyncio.get_running_loop().time() + self._config.start_timeout
        self._held.add(ref.name)
        try:
            handle = await manager.existing(ref, spec.notify)
            remote = RemoteSandbox(manager, handle, spec.notify)
            own_session = SandboxSpec(f"{_RESTORER_PREFIX}{spec.execution_id}")
            async with restorer_in(await self._open_session(remote, own_session, end), root) as restorer:
                yield restorer
        finally:
            self._held.discard(ref.name)

    @asynccontextmanager
    async def open(self, spec: SandboxSpec) -> AsyncIterator[DaytonaSandbox]:
        """Opens the session's sandbox, or one for this execution only, which is deleted when the block ends.

        Raises:
            SandboxError: no sandbox can be obtained; the class says why.
        """
        await self.confinement_for(spec.confinement)
        self._load_sdk.set()
        sandboxes = await asyncio.shield(self._sandboxes)
        end = asyncio.get_running_loop().time() + self._config.start_timeout
        async with self._remote_sandbox(sandboxes, spec) as remote, AsyncExitStack() as parts:
            session = await self._open_session(remote, spec, end)
            self.process_control = session.process_control
            commands = CommandRunner(
                session,
                spec.notify,
                poll_interval=self._config.poll_interval,
                stdin_idle_timeout=self._config.stdin_idle_timeout,
            )
            await parts.enter_async_context(_background_task(commands.poll()))
            parts.push_async_callback(_closed, commands, spec)
            await parts.enter_async_context(_background_task(self._renew(remote)))
            scan_wait = self._config.poll_interval
            yield DaytonaSandbox(remote, session, commands, spec.is_interrupted, scan_wait=scan_wait)

    async def _open_session(self, remote: RemoteSandbox, spec: SandboxSpec, end: float) -> ExecutionSession:
        session = await self._session(remote, spec)
        try:
            async with asyncio.timeout_at(end):
                await session.open()
        except TimeoutError:
            raise SandboxError(f"the sandbox did not start within {self._config.start_timeout:g} s") from None
        return session

    async def _session(self, remote: RemoteSandbox, spec: SandboxSpec) -> ExecutionSession:
        """Returns the session of an execution, which need not be open."""
        sent = (await asyncio.to_thread(bundle)).for_limits(self._limits)
        client = AttendantClient(
            remote,
            sent,
            session_directory=session_directory_name(spec),
            config=self._config,
            installs=remote.is_new,
        )
        return ExecutionSession(
            client,
            spec,
            remote.working_directory,
            config=self._config,
            limits=self._limits,
            on_fenced=remote.note_fenced,
        )

    async def _install(self, manager: SandboxManager, handle: "AsyncSandbox") -> None:
        """Installs the attendant in a sandbox of the warm pool. Raises SandboxError."""
        remote = RemoteSandbox(manager, handle, lambda code, text: None)  # noqa: ARG005  # nobody uses it yet
        sent = (await asyncio.to_thread(bundle)).for_limits(self._limits)
        client = AttendantClient(remote, sent, session_directory=_NO_SESSION, config=self._config, installs=True)
        await client.request({"do": "ping"}, response_timeout=self._config.start_timeout)

    def warm_sandboxes(self) -> float:
        """Returns how many sandboxes are started and wait for somebody."""
        is_there = self._sandboxes.done() and not self._sandboxes.exception()
        return len(self._sandboxes.result().pool) if is_there else 0

    async def work(self) -> None:
        """Loads the SDK when needed, fills the warm pool and reaps abandoned sandboxes, until cancelled."""
        await self._load_sdk.wait()
        try:
            async with daytona_client(
                api_key=self._account.api_key, api_url=self._account.api_url, target=self._account.target
            ) as client:
                manager = SandboxManager(client, RawApi(self._account.api_url, self._account.api_key), self._config)
                await self._work(manager, Deletions(manager))
        except Exception as error:  # executions fail with it instead of waiting forever
            logger.exception("daytona_failed")
            if not self._sandboxes.done():
                handled = error if isinstance(error, SandboxError) else None
                self._sandboxes.set_exception(
                    handled or SandboxError("the Daytona SDK cannot be loaded; the log says why")
                )
                self._sandboxes.exception()

    async def _work(self, manager: SandboxManager, deletions: Deletions) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                pool = WarmPool(manager, deletions, self._config.warm, partial(self._install, manager))
                self._sandboxes.set_result(_Sandboxes(manager, deletions, pool))
                tasks.create_task(pool.run())
                tasks.create_task(run_reaper(manager, self._held))
        finally:
            await deletions.finish()
            await manager.close()

    @asynccontextmanager
    async def _remote_sandbox(self, sandboxes: _Sandboxes, spec: SandboxSpec) -> AsyncIterator[RemoteSandbox]:
        manager, deletions, pool = sandboxes
        ref = manager.ref_for(spec)
        self._held.add(ref.name)
        reference, awaits_deletion = ref.name, False
        remote = None
        try:
            handle, origin = await manager.obtain(ref, spec.notify, pool.claim if self._config.warm else None)
            sandbox_opened(origin)
            reference, awaits_deletion = handle.id, True  # one of the warm pool has another name
            if origin == "existing":
                await manager.unpark(handle, ref)
            remote = RemoteSandbox(manager, handle, spec.notify, is_new=origin == "new")
            yield remote
        except SandboxError:
            awaits_deletion = False  # it may take long when Daytona fails, and nothing depends on it
            raise
        finally:
            try:
                if remote and remote.is_fenced:
                    pass  # a later owner uses it
                elif spec.is_parked():
                    await run_to_completion(_park(manager, reference))
                elif ref.kind == "execution" and not spec.is_interrupted():
                    deletion = deletions.begin(reference)
                    if awaits_deletion:
                        await run_to_completion(deletion)
            finally:
                self._held.discard(ref.name)

    async def _renew(self, remote: RemoteSandbox) -> None:
        while True:
            await asyncio.sleep(self._config.lease / _RENEWALS_PER_LEASE)
            try:
                await remote.renew_lease()
            except SandboxError as error:
                logger.warning("lease_not_renewed sandbox=%s reason=%s", remote.name, error)


@asynccontextmanager
async def daytona_executor(
    account: Account,
    config: SandboxConfig,
    *,
    begin: asyncio.Event | None = None,
    limits: CommandLimits = _DEFAULT_LIMITS,
) -> AsyncIterator[DaytonaExecutor]:
    """Opens the executor. Imports and calls nothing until `begin` is set or a sandbox is opened.

    Args:
        account: API endpoint and key.
        config: what sandboxes are made from and how long they live.
        begin: when to load the SDK if no sandbox is opened before.
        limits: resource limits of commands.
    """
    executor = DaytonaExecutor(account, config, begin or asyncio.Event(), limits)
    async with _background_task(executor.work()):
        with gauges_observed({WARM_SANDBOXES: executor.warm_sandboxes}):
            yield executor


async def _park(manager: SandboxManager, reference: str) -> None:
    try:
        await manager.park(reference)
    except SandboxError as error:
        logger.warning("sandbox_not_parked name=%s reason=%s", reference, error)


async def _closed(commands: CommandRunner, spec: SandboxSpec) -> None:
    """Ends running commands unless the execution will be resumed."""
    if spec.is_interrupted():
        return
    with suppress(SandboxError):
        await run_to_completion(commands.close())


@asynccontextmanager
async def _background_task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` for the duration of the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])

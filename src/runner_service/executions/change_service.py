"""Changes of files as callers see them: lists, diffs and reverts."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial

from runner_service import states
from runner_service.changes.contents import Contents
from runner_service.changes.diffs import Diff, diff_of
from runner_service.changes.messages import file_change
from runner_service.changes.net import NetChange, between, net_changes
from runner_service.changes.records import ChangeSet, RecordedChange, decode_all
from runner_service.changes.renames import with_renames
from runner_service.changes.revert import RevertPlan, changes_to_undo, latest_revert, plan_revert
from runner_service.changes.tracker import summarize
from runner_service.errors import AbortedError, NotFoundError, PreconditionError, UnavailableError
from runner_service.executions.audit import Audit
from runner_service.executions.execution import Execution
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.registry import Registry
from runner_service.executions.reverting import PENDING_REVERT, Reverting
from runner_service.executions.run_context import RunContext
from runner_service.executors.protocol import FileError, SandboxError, SandboxLostError, SandboxSpec
from runner_service.executors.tracking import Restorer
from runner_service.identity import OwnerKey, bare_id
from runner_service.redaction import Redactor
from runner_service.storage.event_log import LogError, NewValue
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_REVERT_POLL_INTERVAL_SECONDS = 0.25


class ChangeService:
    """Belongs to the event loop."""

    def __init__(self, context: RunContext, registry: Registry, ownership: ExecutionOwnership, audit: Audit) -> None:
        self._log = context.log
        self._ownership = ownership
        self._context = context
        self._registry = registry
        self._audit = audit
        self._reverting = asyncio.Lock()

    async def page(
        self, request: runner_pb2.ListFileChangesRequest, *, limit: int, after_key: int
    ) -> tuple[Sequence[event_pb2.FileChange], event_pb2.FilesChangedSummary, int]:
        """Returns a page of net changes, the counts of all, and the key of the next page.

        Raises:
            NotFoundError, LogError.
        """
        execution = await self._registry.find(OwnerKey(request.execution_id))
        contents = self._contents(execution)
        sets = between(await self._sets(execution), request.after_sequence, request.to_sequence)
        changes = await contents.net(await asyncio.to_thread(net_changes, sets))
        stored = await self._context.contents.names(execution.id)
        shown = await asyncio.to_thread(_shown, changes, stored)
        next_key = after_key + limit if len(shown) > after_key + limit else 0
        return shown[after_key : after_key + limit], summarize(changes), next_key

    async def diff(self, request: runner_pb2.GetDiffRequest, context_lines: int) -> Diff:
        """Returns a unified diff of net changes. Raises NotFoundError, LogError."""
        execution = await self._registry.find(OwnerKey(request.execution_id))
        sets = between(await self._sets(execution), request.after_sequence, request.to_sequence)
        changes = _selected(await asyncio.to_thread(net_changes, sets), request.paths, execution)
        return await diff_of(changes, self._contents(execution), context_lines)

    async def revert(self, request: runner_pb2.RevertChangesRequest) -> runner_pb2.RevertChangesResponse:
        """Puts files back, as RevertChanges's contract says.

        Raises:
            CallError: NOT_FOUND, FAILED_PRECONDITION, ABORTED or UNAVAILABLE.
        """
        async with self._reverting:
            execution = await self._registry.find(OwnerKey(request.execution_id))
            with self._registry.holding(execution):
                self._require_here(execution)
                try:
                    async with (
                        self._at_rest(execution),
                        self._restorer(execution) as restorer,
                        self._ownership.owning(execution),
                    ):
                        return await self._revert(execution, request, restorer)
                except SandboxLostError as error:
                    raise PreconditionError(f"nothing can be put back: {error}") from error
                except (FileError, SandboxError) as error:
                    raise UnavailableError(str(error)) from error

    async def complete_reverts(self) -> None:
        """Completes the reverts of processes that are gone. Raises LogError."""
        for execution_id in await self._log.find_values(PENDING_REVERT):
            async with self._reverting:
                execution = await self._registry.lookup(OwnerKey(execution_id))
                if execution and not execution.is_active:  # else it does so itself
                    with self._registry.holding(execution):
                        await self._complete_if_abandoned(execution)

    async def settle_own_revert(self, execution: Execution) -> None:
        """Completes a revert of an execution that is about to go on. Raises as `Reverting.complete`."""
        if execution.id in await self._log.find_values(PENDING_REVERT):
            async with self._reverting:
                await self._complete(execution)

    async def wait_for_reverts(self, execution: Execution) -> None:
        """Waits until no revert is under way in the session of an execution that has begun."""
        await execution.stream.flush()  # a revert that begins now sees it
        while await self._has_pending_revert(execution.session):  # noqa: ASYNC110  # of another process
            await asyncio.sleep(_REVERT_POLL_INTERVAL_SECONDS)

    async def _has_pending_revert(self, session: OwnerKey) -> bool:
        try:
            for name in await self._log.find_values(PENDING_REVERT):
                stored = await self._log.get(name)
                if stored and stored.execution.session_id == session:
                    return True
        except LogError:
            return True  # nobody knows
        return False

    async def _complete_if_abandoned(self, execution: Execution) -> None:
        try:
            async with self._ownership.owning(execution), self._unused(execution):
                await self._complete(execution)
        except UnavailableError as error:  # the replica that carries it out lives
            logger.debug("revert_not_completed execution=%s reason=%s", execution.id, error)
        except (SandboxError, LogError) as error:
            logger.warning("revert_not_completed execution=%s error=%s", execution.id, error)

    def _unused(self, execution: Execution) -> AbstractAsyncContextManager[None]:
        """Keeps executions from the files. With replicas they wait for a revert to end, and have the lock meanwhile."""
        if self._context.wait_for_reverts:
            return nullcontext()
        return self._context.sandbox_locks.held(execution.session or execution.id)

    async def _complete(self, execution: Execution) -> None:
        data = (await self._log.find_values(PENDING_REVERT)).get(execution.id)
        if data is None:  # completed while the lock was awaited
            return
        try:
            async with self._restorer(execution) as restorer:
                await self._reverter(execution, restorer).complete(data)
        except SandboxLostError:  # with all that was to be put back
            execution.stream.append(NewValue(execution.id, PENDING_REVERT, None), 0)
            await execution.stream.flush()
        logger.info("revert_completed execution=%s", execution.id)

    async def _revert(
        self, execution: Execution, request: runner_pb2.RevertChangesRequest, restorer: Restorer
    ) -> runner_pb2.RevertChangesResponse:
        if not request.dry_run and (pending := (await self._log.find_values(PENDING_REVERT)).get(execution.id)):
            await self._reverter(execution, restorer).complete(pending)  # which was killed, or failed
        sets = await self._sets(execution)
        changes = await asyncio.to_thread(_to_revert, sets, request)
        if changes is None:
            raise PreconditionError(f"there is no revert of execution {bare_id(execution.id)} to take back")
        changes = _selected(changes, request.paths, execution)
        now = await restorer.states([change.path for change in changes])
        present = {change.path: state for change, state in zip(changes, now, strict=True)}
        stored = await self._context.contents.names(execution.id)
        plan = await asyncio.to_thread(plan_revert, changes, present, stored)
        contents = self._contents(execution)
        if request.dry_run:
            done = [await contents.compared(each.as_change()) for each in plan.items]
        else:
            _require_possible(plan, request)
            done = await self._reverter(execution, restorer).carry_out(plan.items) if plan.items else []
            kind = "files changed again" if request.undo_revert else "files put back"
            self._audit.record(
                "REVERT", key=execution.id, session=execution.record.session_id, text=f"{len(done)} {kind}"
            )
        conflicts = [runner_pb2.RevertConflict(path=path, reason=obstacle.value) for path, obstacle in plan.obstacles]
        reverted = [file_change(each) for each in done]
        return runner_pb2.RevertChangesResponse(reverted=reverted, conflicts=conflicts)

    def _reverter(self, execution: Execution, restorer: Restorer) -> Reverting:
        return Reverting(
            execution.stream,
            self._contents(execution),
            restorer,
            workspaces=self._context.workspaces,
            root=execution.record.root,
            session_id=execution.record.session_id,
            require_rest=partial(self._require_rest, execution),
        )

    def _contents(self, execution: Execution) -> Contents:
        return Contents(execution.id, self._context.contents, Redactor([]))

    async def _sets(self, execution: Execution) -> list[ChangeSet]:
        return await asyncio.to_thread(decode_all, await self._log.change_sets(execution.id))

    def _require_here(self, execution: Execution) -> None:
        mode = execution.record.mode
        if mode and mode != self._context.mode:
            raise PreconditionError(
                f"execution {bare_id(execution.id)} ran with MODE={mode}, "
                f"and this service has MODE={self._context.mode}"
            )

    def _restorer(self, execution: Execution) -> AbstractAsyncContextManager[Restorer]:
        spec = SandboxSpec(execution.id, execution.record.session_id)
        return self._context.executor.open_restorer(spec, execution.record.root)

    @asynccontextmanager
    async def _at_rest(self, execution: Execution) -> AsyncIterator[None]:
        """Keeps an execution, and the others of its session, from running. Raises PreconditionError, LogError."""
        if execution.is_active:
            state = states.state_name(execution.state).removeprefix("STATE_")
            raise PreconditionError(f"execution {bare_id(execution.id)} is {state}: cancel it, or wait for its end")
        await self._require_rest(execution)
        name = execution.session or execution.id
        if self._context.sandbox_locks.is_held(name):
            raise _in_use(execution)
        async with self._context.sandbox_locks.held(name):
            yield

    async def _require_rest(self, execution: Execution) -> None:
        """Checks that no execution of the same session runs. Raises PreconditionError, LogError."""
        if session := execution.session:
            wanted = ExecutionFilter([event_pb2.STATE_RUNNING], session)
            if (await self._log.list_executions(wanted, limit=1)).executions:
                raise _in_use(execution)


def _in_use(execution: Execution) -> PreconditionError:
    return PreconditionError(
        f"an execution of session {bare_id(execution.session)} is running: cancel it, or wait for its end"
        if execution.session
        else f"execution {bare_id(execution.id)} is about to go on: cancel it, or wait for its end"
    )


def _shown(changes: Sequence[RecordedChange], stored: Collection[str]) -> list[event_pb2.FileChange]:
    return with_renames([file_change(each, stored) for each in changes])


def _to_revert(sets: Sequence[ChangeSet], request: runner_pb2.RevertChangesRequest) -> list[NetChange] | None:
    return latest_revert(sets) if request.undo_revert else changes_to_undo(sets, request.to_sequence)


def _selected(changes: Sequence[NetChange], paths: Sequence[str], execution: Execution) -> list[NetChange]:
    """Returns the changes of these paths, or all if none is named. Raises NotFoundError."""
    if not paths:
        return list(changes)
    found = {each.shown_path: each for each in changes}
    if unknown := next((path for path in paths if path not in found), None):
        raise NotFoundError(
            f"paths: execution {bare_id(execution.id)} has no change of {unknown!r} there; ListFileChanges has all"
        )
    return [found[path] for path in dict.fromkeys(paths)]


def _require_possible(plan: RevertPlan, request: runner_pb2.RevertChangesRequest) -> None:
    if not plan.obstacles or request.skip_conflicts:
        return
    path, obstacle = next((each for each in plan.obstacles if each[1].is_conflict), plan.obstacles[0])
    others = f", and {len(plan.obstacles) - 1} more" if len(plan.obstacles) > 1 else ""
    text = f"nothing was put back: {path}: {obstacle.value}{others}; set skip_conflicts to leave such files"
    raise AbortedError(text) if obstacle.is_conflict else PreconditionError(text)

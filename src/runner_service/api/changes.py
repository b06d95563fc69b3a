"""The rpcs about changes of files."""

from collections.abc import Mapping

from runner_service.api.handlers import Context, Handler, unary_handler
from runner_service.api.page_tokens import PageTokens
from runner_service.api.validation import changes as validation
from runner_service.api.validation.requests import DEFAULT_PAGE_SIZE, page_token
from runner_service.executions.change_service import ChangeService
from runner_service.identity import current_caller, owner_key
from runner_service.v1 import agent_runner_pb2 as runner_pb2


class ChangeRpcs:
    """Validates requests about changes and answers them. Raises only `CallError`."""

    def __init__(self, changes: ChangeService, pages: PageTokens) -> None:
        self._changes = changes
        self._pages = pages

    def handlers(self) -> Mapping[str, Handler]:
        """Returns the handlers by the names of the rpcs."""
        return {
            "ListFileChanges": unary_handler(
                self._pages.sealed(self.list_file_changes), runner_pb2.ListFileChangesRequest
            ),
            "GetDiff": unary_handler(self.get_diff, runner_pb2.GetDiffRequest),
            "RevertChanges": unary_handler(self.revert_changes, runner_pb2.RevertChangesRequest),
        }

    async def list_file_changes(
        self, request: runner_pb2.ListFileChangesRequest, _: Context
    ) -> runner_pb2.ListFileChangesResponse:
        """Returns a page of what an execution changed."""
        key = validation.check_list_file_changes(request)
        filters = validation.filters_of(request)
        request.execution_id = owner_key(current_caller.get().tenant, request.execution_id)
        changes, summary, next_key = await self._changes.page(
            request, limit=request.page_size or DEFAULT_PAGE_SIZE, after_key=key
        )
        return runner_pb2.ListFileChangesResponse(
            changes=changes, summary=summary, next_page_token=page_token(filters, next_key)
        )

    async def get_diff(self, request: runner_pb2.GetDiffRequest, _: Context) -> runner_pb2.GetDiffResponse:
        """Returns what an execution changed as a diff."""
        context = validation.check_get_diff(request)
        request.execution_id = owner_key(current_caller.get().tenant, request.execution_id)
        diff = await self._changes.diff(request, context)
        return runner_pb2.GetDiffResponse(diff=diff.text, truncated=diff.is_truncated)

    async def revert_changes(
        self, request: runner_pb2.RevertChangesRequest, _: Context
    ) -> runner_pb2.RevertChangesResponse:
        """Puts files back."""
        validation.check_revert_changes(request)
        request.execution_id = owner_key(current_caller.get().tenant, request.execution_id)
        return await self._changes.revert(request)

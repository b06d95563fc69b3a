"""The rpcs about callers: who one is, and the audit."""

import math
from collections.abc import Mapping

from runner_service.api.callers.watching import KnownCallers
from runner_service.api.handlers import Context, Handler, unary_handler
from runner_service.api.page_tokens import PageTokens
from runner_service.api.validation.requests import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    page_key,
    page_token,
    raise_if_any,
)
from runner_service.errors import FieldViolation
from runner_service.identity import current_caller
from runner_service.storage.audit import AuditStore
from runner_service.v1 import agent_runner_pb2 as runner_pb2


class OperatorRpcs:
    """Answers WhoAmI and ListAudit. Raises only `CallError`."""

    def __init__(self, callers: KnownCallers, audit: AuditStore, pages: PageTokens) -> None:
        self._callers = callers
        self._pages = pages
        self._audit = audit

    def handlers(self) -> Mapping[str, Handler]:
        """Returns the handlers by the names of the rpcs."""
        return {
            "WhoAmI": unary_handler(self.who_am_i, runner_pb2.WhoAmIRequest),
            "ListAudit": unary_handler(self._pages.sealed(self.list_audit), runner_pb2.ListAuditRequest),
        }

    async def who_am_i(self, _: runner_pb2.WhoAmIRequest, __: Context) -> runner_pb2.WhoAmIResponse:
        """Returns who calls."""
        caller, directory = current_caller.get(), self._callers.directory
        response = runner_pb2.WhoAmIResponse(
            caller=caller.message(),
            roles=sorted(caller.roles),
            acts_for=sorted(caller.acts_for),
            callers_digest=directory.file.digest if directory else "",
        )
        if caller.until < math.inf:
            response.expire_time.FromMilliseconds(int(caller.until * 1000))
        return response

    async def list_audit(self, request: runner_pb2.ListAuditRequest, _: Context) -> runner_pb2.ListAuditResponse:
        """Returns a page of the audit."""
        # Its filters, as a listing of executions that no caller can make.
        listing = runner_pb2.ListExecutionsRequest(
            page_token=request.page_token, session_id="audit~", tenant=request.tenant
        )
        key = page_key(listing)
        violations = []
        if not 0 <= request.page_size <= MAX_PAGE_SIZE:
            violations.append(FieldViolation("page_size", f"must be between 0 and {MAX_PAGE_SIZE}"))
        if key is None:
            violations.append(
                FieldViolation("page_token", "must be a next_page_token that was given for the same filters")
            )
        raise_if_any(iter(violations))
        await self._callers.audit.flush(self._audit)
        page = await self._audit.page(request.tenant, limit=request.page_size or DEFAULT_PAGE_SIZE, before_key=key or 0)
        return runner_pb2.ListAuditResponse(
            entries=map(runner_pb2.AuditEntry.FromString, page.entries),
            next_page_token=page_token(listing, page.next_key),
        )

"""Converts errors into gRPC statuses with `google.rpc` details, without internals."""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_status import rpc_status

from runner_service.api.field_count import MAX_FIELDS, has_too_many_fields
from runner_service.errors import (
    CallError,
    FieldViolation,
    InvalidRequestError,
    LogWentBackError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

DOMAIN = "runner-service"
"""The `domain` of every `google.rpc.ErrorInfo` of the service."""

# Clients refuse more than 8 KiB of metadata, with another status code. The message is sent percent-encoded, and again,
# like the violations, in base64.
_MAX_TEXT_BYTES = 2048
_MAX_VIOLATIONS_BYTES = 1024
_CUT = " […]"


async def abort_with(error: BaseException, method: str, context: Context) -> NoReturn:
    """Ends the call with the status of `error`, or INTERNAL with an id that is also in the service's log."""
    call_error = _as_call_error(error)
    details: list[Message] = []
    if call_error is None:
        fault = secrets.token_hex(4)
        logger.error("call_failed method=%s id=%s", method, fault, exc_info=error)
        code, text, reason = grpc.StatusCode.INTERNAL, f"internal error {fault}", "INTERNAL"
    else:
        code, text, reason = call_error.code, call_error.message, _reason(type(call_error))
        details = list(_details(call_error))
        # Whoever reaches the port can be refused for being unknown: the audit counts these instead.
        level = logging.DEBUG if isinstance(call_error, UnauthenticatedError) else logging.INFO
        logger.log(level, "call_refused method=%s code=%s reason=%s", method, code.name, reason)
    details.append(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=_metadata(call_error)))
    status = rpc_status.to_status(_status(code, truncate_status_text(text), details))
    await _complete(context, code, status.details, status.trailing_metadata)


async def end_abandoned_call(context: Context) -> NoReturn:
    """Ends a call whose caller has probably left. A caller that is still there must not wait forever."""
    await _complete(context, grpc.StatusCode.CANCELLED, "the call was abandoned", ())


async def _complete(
    context: Context, code: grpc.StatusCode, text: str, trailers: Sequence[tuple[str, str | bytes]]
) -> NoReturn:
    try:
        await context.abort(code, text, trailers)
    except grpc.aio.InternalError:  # the caller has left
        raise asyncio.CancelledError from None
    raise AssertionError("abort has returned")


def truncate_status_text(text: str) -> str:
    """Returns `text`, truncated to 2 KiB when percent-encoded: each non-ASCII byte counts three times."""
    if len(quote(text, safe=_UNQUOTED)) <= _MAX_TEXT_BYTES:
        return text
    room = _MAX_TEXT_BYTES - len(quote(_CUT, safe=_UNQUOTED))
    sizes = itertools.accumulate(len(quote(character, safe=_UNQUOTED)) for character in text)
    return text[: sum(1 for _ in itertools.takewhile(lambda size: size <= room, sizes))] + _CUT


_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # characters that grpc-message does not escape


def _as_call_error(error: BaseException) -> CallError | None:
    """Returns `error` as a CallError, unwrapping the group of a TaskGroup with one failed child; None otherwise."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, CallError) else None


def _reason(kind: type[CallError]) -> str:
    """Returns `INVALID_REQUEST` for InvalidRequestError."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Error")).upper()


def _details(error: CallError) -> Iterator[Message]:
    if isinstance(error, InvalidRequestError):
        yield _bad_request(error.violations)
    if isinstance(error, QuotaExceededError):
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=f"tenant:{error.tenant}", quota_metric=error.metric, quota_value=error.value)
        yield failure
    if isinstance(error, UnavailableError | QuotaExceededError) and error.retry_delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_delay * 1000))
        yield retry


def _metadata(error: CallError | None) -> dict[str, str]:
    return {"after_sequence": str(error.after_sequence)} if isinstance(error, LogWentBackError) else {}


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    """Adds as many violations as fit."""
    bad = error_details_pb2.BadRequest()
    for field, description in violations:
        bad.field_violations.add(field=field, description=description)
        if bad.ByteSize() > _MAX_VIOLATIONS_BYTES:
            del bad.field_violations[-1]
            break
    return bad


def _status(code: grpc.StatusCode, text: str, details: list[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@dataclass(frozen=True)
class UndecodableRequest:
    """Stands in for a request that could not be decoded, or was not, for what it `should` be."""

    should: str = "be a message of the type that the method takes"


def tolerant_deserializer(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Wraps `deserialize`, of a class of messages, to return an `UndecodableRequest` instead of raising."""
    descriptor = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)

    def deserialize_or_mark(data: bytes) -> Any:
        if descriptor is not None and has_too_many_fields(data, descriptor):
            return UndecodableRequest(f"have at most {MAX_FIELDS:,} fields and entries in all")
        try:
            return deserialize(data)
        except Exception:  # noqa: BLE001  # whatever it raises, the bytes came from the caller
            return UndecodableRequest()

    return deserialize_or_mark


def require_decodable(request: Any) -> Any:
    """Returns the request, or the stream of requests, unchanged.

    Raises:
        InvalidRequestError: a request could not be decoded.
    """
    if isinstance(request, UndecodableRequest):
        raise _undecodable_request(request)
    return _require_all_decodable(request) if isinstance(request, AsyncIterator) else request


async def _require_all_decodable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, UndecodableRequest):
            raise _undecodable_request(request)
        yield request


def _undecodable_request(request: UndecodableRequest) -> InvalidRequestError:
    return InvalidRequestError([FieldViolation("request", f"should {request.should}")])

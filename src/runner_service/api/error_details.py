"""How an error reaches a caller: a status with `google.rpc` details that holds nothing it should not."""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has types, but no marker

from runner_service.errors import CallError, FieldViolation, InvalidRequestError, UnavailableError

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

DOMAIN = "runner-service"
"""The `domain` of every `google.rpc.ErrorInfo` of the service."""

_DETAILS_KEY = "grpc-status-details-bin"

# A client refuses more than 8 KiB of metadata and then shows a code of its own. The text travels percent-encoded, and
# once more, like the violations, in base64.
_LONGEST_TEXT = 2048
_LONGEST_VIOLATIONS = 1024
_CUT = " […]"


async def abort_with(error: BaseException, method: str, context: Context) -> NoReturn:
    """Ends the call with the status of `error`, or INTERNAL with an id under which the log has the rest."""
    refusal = _as_call_error(error)
    details: list[Message] = []
    if refusal is None:
        fault = secrets.token_hex(4)
        logger.error("call_failed method=%s id=%s", method, fault, exc_info=error)
        code, text, reason = grpc.StatusCode.INTERNAL, f"internal error {fault}", "INTERNAL"
    else:
        code, text, reason = refusal.code, refusal.message, _reason(type(refusal))
        details = list(_details(refusal))
        logger.info("call_refused method=%s code=%s reason=%s", method, code.name, reason)
    details.append(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    text = shortened(text)
    await _complete(context, code, text, ((_DETAILS_KEY, _status(code, text, details)),))


async def abandon(context: Context) -> NoReturn:
    """Ends a call whose caller has most likely left. If it has not, it must not wait for ever."""
    await _complete(context, grpc.StatusCode.CANCELLED, "the call was abandoned", ())


async def _complete(
    context: Context, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, bytes], ...]
) -> NoReturn:
    try:
        await context.abort(code, text, trailers)
    except grpc.aio.InternalError:  # there is nobody left to tell
        raise asyncio.CancelledError from None
    raise AssertionError("abort has returned")


def shortened(text: str) -> str:
    """Returns `text`, cut to 2 KiB as it travels, percent-encoded: each byte of other than ASCII counts three times."""
    if len(quote(text, safe=_UNQUOTED)) <= _LONGEST_TEXT:
        return text
    room = _LONGEST_TEXT - len(quote(_CUT, safe=_UNQUOTED))
    sizes = itertools.accumulate(len(quote(character, safe=_UNQUOTED)) for character in text)
    return text[: sum(1 for _ in itertools.takewhile(lambda size: size <= room, sizes))] + _CUT


_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what grpc-message leaves as it is


def _as_call_error(error: BaseException) -> CallError | None:
    """Returns the refusal that `error` is, or that it wraps as a TaskGroup wraps the error of its only failed child."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, CallError) else None


def _reason(kind: type[CallError]) -> str:
    """Returns `INVALID_REQUEST` for InvalidRequestError."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Error")).upper()


def _details(error: CallError) -> Iterator[Message]:
    if isinstance(error, InvalidRequestError):
        yield _bad_request(error.violations)
    if isinstance(error, UnavailableError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_delay * 1000))
        yield retry


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    """Names as many of the fields as fit."""
    bad = error_details_pb2.BadRequest()
    for field, description in violations:
        bad.field_violations.add(field=field, description=description)
        if bad.ByteSize() > _LONGEST_VIOLATIONS:
            del bad.field_violations[-1]
            break
    return bad


def _status(code: grpc.StatusCode, text: str, details: list[Message]) -> bytes:
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return bytes(status.SerializeToString())


class Unreadable:
    """A request that could not be read, in its place."""


def lenient(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Returns `deserialize`, but with an `Unreadable` for what it cannot read."""

    def deserialize_or_tell(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # noqa: BLE001  # whatever it is, the bytes came from the caller
            return Unreadable()

    return deserialize_or_tell


def readable(request: Any) -> Any:
    """Returns the request, or the requests of a stream, as they are.

    Raises:
        InvalidRequestError: one could not be read.
    """
    if isinstance(request, Unreadable):
        raise _unreadable()
    return _all_readable(request) if isinstance(request, AsyncIterator) else request


async def _all_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Unreadable):
            raise _unreadable()
        yield request


def _unreadable() -> InvalidRequestError:
    return InvalidRequestError([FieldViolation("request", "should be a message of the type that the method takes")])

"""What an error of a call means for the caller: call again, with a new credential, or not at all."""

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no types
from grpc_status import rpc_status

_DISCONNECT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_PROXY_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_RENEWABLE_REASONS = frozenset({"CREDENTIAL_EXPIRED", "CREDENTIAL_REVOKED"})


def retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    """Returns the retry delay that the service asks for, in seconds; None if it does not."""
    retry = error_details_pb2.RetryInfo()
    return float(retry.retry_delay.ToNanoseconds() / 1e9) if _unpack_detail(error, retry) else None


def is_disconnect(error: grpc.aio.AioRpcError) -> bool:
    """Whether the stream broke, rather than the service refused the call.

    Behind a proxy a service that was killed is INTERNAL (Envoy, nginx) or UNKNOWN (HAProxy). What the service itself
    means by these codes carries its ErrorInfo.
    """
    if error.code() in _PROXY_CODES:
        return not _unpack_detail(error, error_details_pb2.ErrorInfo())
    return error.code() in _DISCONNECT_CODES


def is_expired(error: grpc.aio.AioRpcError) -> bool:
    """Whether the caller's credential has expired or was replaced, so that the call may succeed with a new one."""
    info = error_details_pb2.ErrorInfo()
    return _unpack_detail(error, info) and info.reason in _RENEWABLE_REASONS


def _unpack_detail(error: grpc.aio.AioRpcError, detail: Message) -> bool:
    """Fills `detail` from the details of the status; False when there is none of its type."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both kinds of calls have
    except (ValueError, DecodeError):  # from something in between that changed the status
        return False
    return any(each.Unpack(detail) for each in (status.details if status else ()))

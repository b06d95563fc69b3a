"""What a failed call of the daemon means, as an error of ours or as text."""

import grpc

from runner_service.errors import CallError, NotFoundError, PermissionDeniedError, PreconditionError, UnavailableError

_CERTIFICATE_ERROR = "CERTIFICATE_VERIFY_FAILED"  # from the status details: grpc has no code for it
_REASON_PREFIX = "last error: UNKNOWN: "
_RETRY_DELAY_SECONDS = 2.0
_MAX_DETAIL_CHARACTERS = 300


def refusal_of(error: grpc.aio.AioRpcError, endpoint: str, what: str) -> CallError:
    """Returns the error for the caller when the daemon at `endpoint` did not return `what`."""
    code = error.code()
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(f"the Stigmer daemon does not know {what}")
        case grpc.StatusCode.PERMISSION_DENIED:
            return PermissionDeniedError(f"the Stigmer daemon does not show {what}: {detail_of(error)}")
        case grpc.StatusCode.UNAUTHENTICATED:
            return PreconditionError(f"the Stigmer daemon at {endpoint} does not accept STIGMER_API_KEY")
        case grpc.StatusCode.UNIMPLEMENTED:
            return PreconditionError(version_mismatch(endpoint))
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"the Stigmer daemon at {endpoint} did not answer when asked for {what} ({code.name})"
            if is_untrusted(error):
                text = f"the Stigmer daemon at {endpoint} shows no certificate that this service trusts"
            return UnavailableError(text, retry_delay=_RETRY_DELAY_SECONDS)
    return PreconditionError(f"the Stigmer daemon failed when asked for {what}: {code.name}: {detail_of(error)}")


def undecodable(endpoint: str, what: str) -> PreconditionError:
    """Returns the error for the caller when the daemon's answer is not the message that it should be."""
    return PreconditionError(
        f"the answer of the Stigmer daemon at {endpoint} for {what} cannot be decoded: is {endpoint} a Stigmer daemon?"
    )


def version_mismatch(endpoint: str) -> str:
    """Says that the daemon lacks a method which the service calls."""
    return (
        f"the Stigmer daemon at {endpoint} speaks another version of the API: this service speaks that of January "
        "2026; run a daemon of that version, or a newer runner-service"
    )


def is_untrusted(error: grpc.aio.AioRpcError) -> bool:
    """Returns whether the connection failed because the daemon's certificate is not trusted."""
    return _CERTIFICATE_ERROR in (error.details() or "")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Returns the cause of a failed connection from the status details."""
    return (error.details() or "").rpartition(_REASON_PREFIX)[2][:_MAX_DETAIL_CHARACTERS]


def detail_of(error: grpc.aio.AioRpcError) -> str:
    """Returns the status details, bounded."""
    return (error.details() or "")[:_MAX_DETAIL_CHARACTERS]

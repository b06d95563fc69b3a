"""Checks the Stigmer daemon with one call, as the service makes it."""

import grpc

from runner_service.check.network import TIMEOUT_SECONDS
from runner_service.check.result import Check
from runner_service.settings import Settings
from runner_service.stigmer.client import daemon_channel, key_metadata
from runner_service.stigmer.failures import is_untrusted, reason_of, version_mismatch
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.stigmer.wire import agentexecution_pb2_grpc as execution_grpc

_ENDPOINT = "STIGMER_BACKEND_ENDPOINT"
_ANY_ID = "runner-service-check"


async def daemon_check(settings: Settings) -> Check:
    """Asks the daemon for an unknown execution; any answer will do.

    An unreachable daemon is a warning: the service works without it until it is there.
    """
    endpoint = settings.stigmer_backend_endpoint or ""
    async with daemon_channel(endpoint) as channel:
        stub = execution_grpc.AgentExecutionQueryControllerStub(channel)
        asked = execution_pb2.AgentExecutionId(value=_ANY_ID)
        try:
            await stub.get(asked, metadata=key_metadata(settings), timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            return _result(endpoint, error)
    return Check(_ENDPOINT, "ok", f"{endpoint} answers")


def _result(endpoint: str, error: grpc.aio.AioRpcError) -> Check:
    if is_untrusted(error):
        text = f"{endpoint} shows no certificate that this service trusts: {reason_of(error)}"
        step = "set GRPC_DEFAULT_SSL_ROOTS_FILE_PATH to the certificates of its authority"
        return Check(_ENDPOINT, "fail", text, step)
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return Check("STIGMER_API_KEY", "fail", f"{endpoint} does not accept it", "correct STIGMER_API_KEY")
        case grpc.StatusCode.UNIMPLEMENTED:
            return Check(_ENDPOINT, "fail", version_mismatch(endpoint), f"correct {_ENDPOINT}, or change the version")
        case grpc.StatusCode.UNAVAILABLE:
            text = f"{endpoint} cannot be reached: {reason_of(error)}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"{endpoint} does not answer within {TIMEOUT_SECONDS:g} s"
        case _:
            return Check(_ENDPOINT, "ok", f"{endpoint} answers")
    return Check(_ENDPOINT, "warn", text, f"start what should listen there, or correct {_ENDPOINT}")

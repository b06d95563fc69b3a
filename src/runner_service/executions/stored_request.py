"""What the log stores of a request: enough to resume it and to recognise it, and never a secret."""

import hashlib

from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_MAX_STORED_BYTES = 1024 * 1024


def fingerprint(request: runner_pb2.ExecuteAgentRequest, key: bytes) -> bytes:
    """Returns a keyed hash, 32 bytes, of what makes two requests the same: all but how they want to be watched.

    Nor do the values of secrets decide it: ALREADY_EXISTS would tell whether one was guessed.
    """
    same = _copy(request)
    for entry in same.environment.values():
        if entry.is_secret:
            entry.ClearField("value")
    same.ClearField("after_sequence")
    same.ClearField("after_owner")
    same.ClearField("disconnect_policy")
    return hashlib.blake2b(same.SerializeToString(deterministic=True), key=key, digest_size=32).digest()


def storable(request: runner_pb2.ExecuteAgentRequest) -> runner_pb2.ExecuteAgentRequest | None:
    """Returns what is stored of a request: all of it, or None when there are secrets in it."""
    return None if _has_secrets(request) else _copy(request)


def storable_by_id(request: runner_pb2.ExecuteAgentRequest, redactor: Redactor) -> runner_pb2.ExecuteAgentRequest:
    """Returns what is stored of a request that the daemon can be asked for again by its id.

    A request with secrets, or a large one, is stored as a reference, without `agent`.
    """
    if request.ByteSize() <= _MAX_STORED_BYTES and not _has_secrets(request):
        return _copy(request)
    return runner_pb2.ExecuteAgentRequest(
        execution_id=request.execution_id,
        message=redactor.text(request.message),
        limits=request.limits if request.HasField("limits") else None,
        labels={redactor.text(key): redactor.text(value) for key, value in request.labels.items()},
    )


def is_complete(request: runner_pb2.ExecuteAgentRequest | None) -> bool:
    """True for a request that suffices to resume its execution."""
    return request is not None and request.HasField("agent")


def is_reference(request: runner_pb2.ExecuteAgentRequest | None) -> bool:
    """True for a request that only names an execution of the daemon."""
    return request is not None and not request.HasField("agent")


def _has_secrets(request: runner_pb2.ExecuteAgentRequest) -> bool:
    return any(entry.is_secret for entry in request.environment.values())


def _copy(request: runner_pb2.ExecuteAgentRequest) -> runner_pb2.ExecuteAgentRequest:
    copy = runner_pb2.ExecuteAgentRequest()
    copy.CopyFrom(request)
    return copy

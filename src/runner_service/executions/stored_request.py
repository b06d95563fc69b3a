"""What the log keeps of a request: enough to go on with it, or to tell it from another one, and never a secret."""

import hashlib

from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_LONGEST_KEPT = 1024 * 1024


def fingerprint(request: runner_pb2.ExecuteAgentRequest, key: bytes) -> bytes:
    """Hashes what makes a request the same one: all of it but how it wants to be watched. 32 bytes, keyed by `key`."""
    same = _copy(request)
    same.ClearField("after_sequence")
    same.ClearField("disconnect_policy")
    return hashlib.blake2b(same.SerializeToString(deterministic=True), key=key, digest_size=32).digest()


def kept(request: runner_pb2.ExecuteAgentRequest) -> runner_pb2.ExecuteAgentRequest | None:
    """Returns what is stored of a request: all of it, or None when there are secrets in it."""
    return None if _has_secrets(request) else _copy(request)


def kept_by_id(request: runner_pb2.ExecuteAgentRequest, redactor: Redactor) -> runner_pb2.ExecuteAgentRequest:
    """Returns what is stored of a request that can be asked for again by its id.

    With secrets in it, or much of it, that is a reference: it has no `agent`.
    """
    if request.ByteSize() <= _LONGEST_KEPT and not _has_secrets(request):
        return _copy(request)
    return runner_pb2.ExecuteAgentRequest(
        execution_id=request.execution_id,
        message=redactor.text(request.message),
        limits=request.limits if request.HasField("limits") else None,
        labels=request.labels,
    )


def is_whole(request: runner_pb2.ExecuteAgentRequest | None) -> bool:
    """True for what an execution can go on with, without asking anybody."""
    return request is not None and request.HasField("agent")


def is_reference(request: runner_pb2.ExecuteAgentRequest | None) -> bool:
    """True for what only says which execution of the daemon's it is."""
    return request is not None and not request.HasField("agent")


def _has_secrets(request: runner_pb2.ExecuteAgentRequest) -> bool:
    return any(entry.is_secret for entry in request.environment.values())


def _copy(request: runner_pb2.ExecuteAgentRequest) -> runner_pb2.ExecuteAgentRequest:
    copy = runner_pb2.ExecuteAgentRequest()
    copy.CopyFrom(request)
    return copy

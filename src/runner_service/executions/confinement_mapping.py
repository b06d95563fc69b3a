"""Maps the confinement of requests, settings and events to that of executors."""

from runner_service.allowed_hosts import parse_hosts
from runner_service.errors import FieldViolation, InvalidRequestError
from runner_service.executors.confinement import (
    Confinement,
    ConfinementInForce,
    FilesLevel,
    LooseningError,
    NetworkLevel,
    Requested,
)
from runner_service.settings import Settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_FILES: dict["event_pb2.FilesConfinement.ValueType", FilesLevel] = {
    event_pb2.FILES_CONFINEMENT_NONE: "none",
    event_pb2.FILES_CONFINEMENT_WORKSPACE: "workspace",
    event_pb2.FILES_CONFINEMENT_READ_ONLY: "read_only",
    event_pb2.FILES_CONFINEMENT_STRICT: "strict",
}
_NETWORK: dict["event_pb2.NetworkConfinement.ValueType", NetworkLevel] = {
    event_pb2.NETWORK_CONFINEMENT_ALL: "all",
    event_pb2.NETWORK_CONFINEMENT_PROXY: "proxy",
    event_pb2.NETWORK_CONFINEMENT_NONE: "none",
}


def operator_minimum(settings: Settings) -> Confinement:
    """Returns the least confinement of every execution."""
    return Confinement(
        files=settings.sandbox_confinement,
        network=settings.sandbox_network,
        allowed_hosts=parse_hosts(settings.sandbox_allowed_hosts.split(",")) if settings.sandbox_allowed_hosts else (),
        readable_paths=_paths(settings.sandbox_readable_paths),
        writable_paths=_paths(settings.sandbox_writable_paths),
        hidden_paths=_paths(settings.sandbox_hidden_paths),
    )


def confinement_of(request: runner_pb2.ExecuteAgentRequest, minimum: Confinement) -> Confinement:
    """Returns the confinement of a request under the operator's minimum.

    Raises:
        InvalidRequestError: it asks for less.
    """
    asked = request.confinement
    try:
        return minimum.tightened(
            Requested(
                files=_FILES.get(asked.files),
                network=_NETWORK.get(asked.network),
                allowed_hosts=parse_hosts(asked.allowed_hosts),
                readable_paths=tuple(asked.readable_paths),
                writable_paths=tuple(asked.writable_paths),
                hidden_paths=tuple(asked.hidden_paths),
            )
        )
    except LooseningError as error:
        raise InvalidRequestError([FieldViolation(f"confinement.{error.field}", error.text)]) from error


def confinement_info(in_force: ConfinementInForce) -> event_pb2.ConfinementInfo:
    """Returns what is in force, for the `started` event."""
    files = next(value for value, level in _FILES.items() if level == in_force.files)
    network = next(value for value, level in _NETWORK.items() if level == in_force.network)
    return event_pb2.ConfinementInfo(files=files, network=network, mechanism=in_force.mechanism, gaps=in_force.gaps)


def _paths(text: str) -> tuple[str, ...]:
    return tuple(path.rstrip("/") or "/" for path in text.split(":") if path)

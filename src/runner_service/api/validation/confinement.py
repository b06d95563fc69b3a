"""Validation of the confinement of a request."""

from runner_service.allowed_hosts import AllowedHost
from runner_service.api.validation.fields import Violations, at_most
from runner_service.errors import FieldViolation
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

MAX_HOSTS = 256
MAX_HOST_CHARACTERS = 260
MAX_PATHS = 64
MAX_PATH_CHARACTERS = 4096


def confinement_violations(confinement: runner_pb2.Confinement) -> Violations:
    """Yields what is wrong with a confinement, whatever the operator requires."""
    if confinement.files not in event_pb2.FilesConfinement.values():
        yield FieldViolation("confinement.files", "must be one of the values of FilesConfinement")
    if confinement.network not in event_pb2.NetworkConfinement.values():
        yield FieldViolation("confinement.network", "must be one of the values of NetworkConfinement")
    yield from at_most("confinement.allowed_hosts", len(confinement.allowed_hosts), MAX_HOSTS, "hosts")
    for index, host in enumerate(confinement.allowed_hosts[:MAX_HOSTS]):
        try:
            AllowedHost.parse(host[: MAX_HOST_CHARACTERS + 1])
        except ValueError as error:
            yield FieldViolation(f"confinement.allowed_hosts[{index}]", str(error))
    for field in ("readable_paths", "writable_paths", "hidden_paths"):
        paths = getattr(confinement, field)
        yield from at_most(f"confinement.{field}", len(paths), MAX_PATHS, "paths")
        for index, path in enumerate(paths[:MAX_PATHS]):
            if not _is_plain(path):
                text = "must be an absolute path without '..', '//', a NUL, or a '/' at its end"
                yield FieldViolation(f"confinement.{field}[{index}]", text)


def _is_plain(path: str) -> bool:
    names = path.split("/")[1:]
    is_short = len(path) <= MAX_PATH_CHARACTERS and "\0" not in path
    return is_short and path.startswith("/") and not any(name in {"", ".", ".."} for name in names)

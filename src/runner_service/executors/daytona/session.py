"""One execution's session with the attendant; reopened after the sandbox was restarted."""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from runner_service.executors.daytona.attendant_client import AttendantClient
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.protocol import FileError, SandboxError, SandboxFencedError, SandboxSpec

CLOSE_TIMEOUT_SECONDS = 30.0


class CommandLimits(NamedTuple):
    """Limits of commands in a sandbox: seconds between SIGTERM and SIGKILL, bytes, processes, CPU seconds.

    As in `Quota`, 0 is unlimited; None is a default computed in the sandbox.
    """

    terminate_grace: float = 2.0
    memory: int | None = None
    processes: int | None = None
    cpu_time: float = 0.0


class ExecutionSession:
    """Sends requests on behalf of one execution."""

    def __init__(
        self,
        client: AttendantClient,
        spec: SandboxSpec,
        working_directory: Callable[[], Awaitable[str]],
        *,
        config: SandboxConfig,
        limits: CommandLimits,
        on_fenced: Callable[[], None],
    ) -> None:
        self._on_fenced = on_fenced
        self._client = client
        self._spec = spec
        self._working_directory = working_directory
        self._below_root = config.directory
        self._open_timeout = config.start_timeout
        self._limits = limits
        self.root = ""
        self.process_control = ""

    async def open(self) -> None:
        """Opens the session, or attaches to the one an earlier process of the service left. Raises SandboxError."""
        message = {
            "do": "open",
            "session": self._spec.execution_id,
            "token": self._spec.owner_token,
            "directory": session_directory_name(self._spec),
            "below_root": self._below_root,
            "environment": dict(self._spec.environment),
            **self._limits._asdict(),
        }
        response = await self._client.request(message, response_timeout=self._open_timeout, cwd="")
        if "unknown_root" in response:
            root = await self._working_directory()
            response = await self._client.request({**message, "root": root}, response_timeout=self._open_timeout)
        self._raise_errors(response)
        self.root, self.process_control = str(response["root"]), str(response["process_control"])

    async def request(
        self, do: str, *, wait: float = 0.0, response_timeout: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Sends an idempotent request.

        Raises:
            FileError: a file operation failed.
            SandboxError: the sandbox is lost or refuses.
        """
        about = {"session": self._spec.execution_id, "token": self._spec.owner_token}
        message = {"do": do, **about, "wait": wait, **fields}
        response = await self._client.request(message, wait=wait, response_timeout=response_timeout)
        if "unknown_session" in response:
            await self.open()
            response = await self._client.request(message, wait=wait, response_timeout=response_timeout)
        self._raise_errors(response)
        return response

    def _raise_errors(self, response: dict[str, Any]) -> None:
        if "fenced" in response:
            self._on_fenced()
            raise SandboxFencedError(int(response["fenced"]))
        _raise_errors(response)

    async def file_operation(self, operation: str, **fields: Any) -> Any:
        """Performs a file operation exactly once, whatever is resent. Raises FileError, SandboxError."""
        response = await self.request("file", number=secrets.token_hex(16), operation=operation, **fields)
        return response["result"]

    def transfer_path(self, name: str) -> str:
        """Returns the path of a temporary file for a transfer. Only known in an open session."""
        return f"{self._client.directory}/transfers/{name}"


def session_directory_name(spec: SandboxSpec) -> str:
    """Returns the name of an execution's directory in the sandbox."""
    return hashlib.sha256(spec.execution_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _raise_errors(response: dict[str, Any]) -> None:
    if "file_error" in response:
        raise FileError(response["file_error"]["code"], str(response["file_error"]["message"]))
    if "sandbox_error" in response:
        raise SandboxError(str(response["sandbox_error"]))
    if "unknown_request" in response:
        raise SandboxError("the sandbox runs an older version of the service for this execution, which cannot do this")
    if "defect" in response or "unknown_session" in response:
        raise SandboxError("the attendant of the sandbox failed; its log in the sandbox says why")

"""The deepagents backend: the sandbox, plus mounts for command output and offloaded context.

One backend serves all executions; `current_scope` tells which.
"""

from deepagents.backends.protocol import (
    BackendProtocol,
    EditResult,
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
    GlobResult,
    GrepResult,
    LsResult,
    ReadResult,
    SandboxBackendProtocol,
    WriteResult,
)

from runner_service.agent.tools.command import OUTPUT_MOUNT, run_command
from runner_service.agent.tools.files import SandboxFiles
from runner_service.agent.tools.outputs import CommandOutputs
from runner_service.agent.tools.scope import current_call, current_scope

_OFFLOAD_MOUNTS = ("/conversation_history", "/large_tool_results")
"""Where deepagents offloads what does not fit into the model's context."""


class SandboxBackend(SandboxBackendProtocol):
    """Forwards to the sandbox of the current execution. Implements only the asynchronous methods."""

    @property
    def id(self) -> str:
        """The backend's name, required by the protocol."""
        return "sandbox"

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:  # noqa: ASYNC109  # the protocol's
        """Runs a command; publishes its output as events."""
        if (call := current_call.get()) is None:
            raise RuntimeError("a command runs for a tool call, and there is none")
        output, exit_code = await run_command(current_scope.get(), call, command, timeout)
        return ExecuteResponse(output=output, exit_code=exit_code)

    async def als(self, path: str) -> LsResult:
        """Lists a directory."""
        return await _backend_for(path).als(path)

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads `limit` lines after the first `offset` ones."""
        if limit <= 0:
            return ReadResult(file_data={"content": "", "encoding": "utf-8"}, no_lines_requested=True)
        return await _backend_for(file_path).aread(file_path, max(offset, 0), limit)

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """Writes a whole file."""
        return await _backend_for(file_path).awrite(file_path, content)

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replaces a string in a file."""
        return await _backend_for(file_path).aedit(file_path, old_string, new_string, replace_all)

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """Finds files by name."""
        return await _backend_for(path or "/").aglob(pattern, path or "/")

    async def agrep(
        self, pattern: str, path: str | None = None, glob: str | None = None, *, max_count: int | None = None
    ) -> GrepResult:
        """Finds lines that contain a literal string."""
        return await _backend_for(path or "/").agrep(pattern, path or "/", glob, max_count=max_count)

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files that deepagents offloaded; refuses others."""
        if all(map(_is_offloaded, paths)):
            return await current_scope.get().scratch().adownload_files(paths)
        return [FileDownloadResponse(path=path, error="permission_denied") for path in paths]

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files that deepagents offloads; refuses others."""
        if all(_is_offloaded(path) for path, _ in files):
            return await current_scope.get().scratch().aupload_files(files)
        return [FileUploadResponse(path=path, error="permission_denied") for path, _ in files]


def _backend_for(path: str) -> BackendProtocol:
    scope = current_scope.get()
    if _is_below(path, OUTPUT_MOUNT):
        return CommandOutputs(scope)
    if _is_offloaded(path):
        return scope.scratch()
    call = current_call.get()
    return SandboxFiles(scope.run.sandbox, scope.run.redactor, agent=call.sub_agent_id if call else "")


def _is_offloaded(path: str) -> bool:
    return any(_is_below(path, prefix) for prefix in _OFFLOAD_MOUNTS)


def _is_below(path: str, mount: str) -> bool:
    return path == mount or path.startswith(f"{mount}/")

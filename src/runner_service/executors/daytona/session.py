"""One execution's place in a box: opened, asked things, opened again after the box was restarted, closed."""

import hashlib
import secrets
from typing import Any, NamedTuple

from runner_service.executors.daytona.box import Box
from runner_service.executors.daytona.rpc import ANSWER_WITHIN, Line
from runner_service.executors.protocol import FileError, SandboxError, SandboxSpec

CLOSE_PATIENCE = 30.0


class CommandTerms(NamedTuple):
    """How commands are run in a box: seconds between SIGTERM and SIGKILL, and what they may use.

    As in `Quota`, 0 is any number; None is what is found to be good for the box, in the box.
    """

    terminate_grace: float = 2.0
    memory: int | None = None
    processes: int | None = None
    cpu_time: float = 0.0


class Attendance:
    """Asks the attendant on behalf of one execution."""

    def __init__(self, box: Box, line: Line, spec: SandboxSpec, *, root: str, terms: CommandTerms) -> None:
        self._line = line
        self._box = box
        self._spec = spec
        self._asked_root = root
        self._terms = terms
        self.root = ""
        self.process_control = ""

    async def open(self) -> None:
        """Opens the place, or finds it as an earlier process of the service has left it. Raises SandboxError."""
        answer = await self._line.ask(
            {
                "do": "open",
                "opening": self._spec.execution_id,
                "directory": place_of(self._spec),
                "root": self._asked_root,
                "environment": dict(self._spec.environment),
                **self._terms._asdict(),
            }
        )
        _raise_errors(answer)
        self.root, self.process_control = str(answer["root"]), str(answer["process_control"])

    async def ask(
        self, do: str, *, wait: float = 0.0, patience: float = ANSWER_WITHIN, **fields: Any
    ) -> dict[str, Any]:
        """Asks for something that may be done any number of times.

        Raises:
            FileError: what a file operation was refused with.
            SandboxError: the sandbox is lost, or refuses.
        """
        request = {"do": do, "opening": self._spec.execution_id, "wait": wait, **fields}
        answer = await self._line.ask(request, wait=wait, patience=patience)
        if "unknown_opening" in answer:
            await self.open()
            answer = await self._line.ask(request, wait=wait, patience=patience)
        _raise_errors(answer)
        return answer

    async def operate(self, operation: str, **fields: Any) -> Any:
        """Does a file operation once, however often it has to be asked for. Raises FileError, SandboxError."""
        answer = await self.ask("file", number=secrets.token_hex(16), operation=operation, **fields)
        return answer["result"]

    async def transfer_path(self, name: str) -> str:
        """Returns where in the box a file of that name is on its way."""
        return f"{await self._line.directory()}/transfers/{name}"


def place_of(spec: SandboxSpec) -> str:
    """Returns the name of an execution's directory in a box."""
    return hashlib.sha256(spec.execution_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _raise_errors(answer: dict[str, Any]) -> None:
    if "file_error" in answer:
        raise FileError(answer["file_error"]["code"], str(answer["file_error"]["message"]))
    if "sandbox_error" in answer:
        raise SandboxError(str(answer["sandbox_error"]))
    if "unknown_request" in answer:
        raise SandboxError(
            "the sandbox works for this execution as an older version of the service does, which cannot do this"
        )
    if "defect" in answer or "unknown_opening" in answer:
        raise SandboxError("the attendant of the sandbox failed; its log in the sandbox says why")

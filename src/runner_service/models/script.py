"""The script format of the scripted model, described in docs/scripted-model.md."""

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner_service.errors import ModelRejectedEnd

Seconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScriptedCall(_Part):
    """A tool call. `args` given as a string are sent verbatim, valid JSON or not."""

    name: str
    args: dict[str, Any] | str = {}
    id: str = ""

    def text_of(self, args: object) -> str:
        """The arguments as a provider would send them."""
        return args if isinstance(args, str) else json.dumps(args)


class ScriptedUsage(_Part):
    """The token usage that a turn reports."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class ScriptedFailure(_Part):
    """Fails a turn the first `times` times, after `after_pieces` chunks. Without `status` the connection breaks."""

    status: int | None = None
    message: str = "the script says so"
    retry_after: float | None = None
    times: int = 1_000_000
    after_pieces: int = 0

    def exception(self, kind: type[Exception]) -> Exception:
        """The error to raise: `kind` with a status, or a broken connection."""
        if self.status is None:
            return ConnectionError(self.message)
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return kind(self.message, self.status, headers)


class Turn(_Part):
    """One answer of the model. `delay`: seconds before each chunk; `silence`: seconds before the end."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ScriptedCall] = []
    usage: ScriptedUsage | None = None
    stop_reason: str = ""
    error: ScriptedFailure | None = None
    delay: Seconds = 0.0
    silence: Seconds = 0.0


class ScriptedSubAgent(_Part):
    """The turns of sub-agents with this `name` whose task contains `task`; empty matches any."""

    name: str = ""
    task: str = ""
    turns: list[Turn] = Field(min_length=1)


class Script(_Part):
    """A script."""

    turns: list[Turn] = Field(min_length=1)
    sub_agents: list[ScriptedSubAgent] = []

    def turns_for(self, agent: str, task: str) -> list[Turn]:
        """The turns of the agent named `agent`, empty for the main one, that was asked for `task`."""
        if not agent:
            return self.turns
        for each in self.sub_agents:
            if each.name in {"", agent} and each.task in task:
                return each.turns
        return [Turn(text="The script has no turns for this task: {{message}}")]


def load_script(path: Path) -> Script:
    """Reads a script.

    Raises:
        ModelRejectedEnd: unreadable or invalid; the text says where.
    """
    try:
        return Script.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise ModelRejectedEnd(f"the script {path.name} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ModelRejectedEnd(f"the script {path.name} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ModelRejectedEnd(f"the script {path.name} is wrong: {'; '.join(_problems(error))}") from error


def _problems(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors(include_url=False)]

"""What is kept of executions and for how long, how many run, and what one of them may use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from runner_service.settings.machine import default_concurrency
from runner_service.settings.reading import Variables, by_mode, computed
from runner_service.settings.types import Count, CountOrZero, Seconds, SecondsOrZero
from runner_service.state_dir import default_state_dir


def _default_state_dir(data: Mapping[str, Any]) -> Path:
    return default_state_dir(data["home"], data["xdg_state_home"])


class ExecutionVariables(Variables):
    """The directory of the service, and limits."""

    home: Path | None = None
    """The base of STATE_DIR when neither it nor XDG_STATE_HOME is set."""
    xdg_state_home: Path | None = None
    """The base of STATE_DIR when it is not set itself."""
    state_dir: Annotated[Path, Path.absolute] = computed(_default_state_dir)
    """The directory of the event log, outputs and checkpoints. The default follows XDG."""
    log_max_age: Seconds = 7 * 24 * 3600.0
    """How many seconds finished executions are kept in the event log."""
    execution_max_bytes: CountOrZero = 1 << 30
    """How many bytes of events and output one execution may store, and add to its private /tmp and caches if it is \
confined; output beyond it is dropped, with more of anything else it ends as LIMIT_EXCEEDED. 0 means no limit."""
    state_min_free_bytes: CountOrZero = 64 << 20
    """How many bytes should stay free on the disk of STATE_DIR, at most a twentieth of it: below that the running \
execution that has stored most ends as LIMIT_EXCEEDED. 0 means any number. Beside it a reserve of 16 MiB is held, in \
which ends are stored when other programs fill the disk."""
    log_max_bytes: Count = 2 << 30
    """The maximum size of the event log in bytes; the oldest finished executions are deleted first."""

    changes_max_bytes: CountOrZero = by_mode(1 << 30, 256 << 20)
    """How many bytes of contents of changed files are kept, compressed, so that changes can be shown and taken back; \
those of the oldest executions are deleted first."""

    audit_keep: Seconds = 30 * 24 * 3600.0
    """How many seconds entries of the audit are kept, of which there are at most 100,000."""

    drain_timeout: SecondsOrZero = by_mode(4.0, 300.0)
    """How many seconds executions may take to finish after SIGTERM. The daemon kills after 10."""
    resume_on_start: bool = False
    """Whether interrupted executions are resumed at start, if they had no secrets."""
    disconnect_grace: SecondsOrZero = 5.0
    """How many seconds an execution waits for its last caller to come back before it is cancelled."""
    kill_grace: SecondsOrZero = 2.0
    """How many seconds a process has between SIGTERM and SIGKILL."""

    max_concurrent_executions: Count = computed(lambda _: default_concurrency())
    """How many executions run at once; the others are queued. The default is 64 for each core of the machine, at
    most 256 and at most one for 4 MiB of memory, but at least 16."""
    max_queued_executions: CountOrZero = 1000
    """How many executions may be queued, over all replicas; further ones are refused with RESOURCE_EXHAUSTED."""

    default_timeout: Seconds = 1800.0
    """How many seconds an execution may take when its request does not say."""
    default_command_timeout: Seconds = 120.0
    """How many seconds one command may run when the request does not say."""
    default_max_model_calls: Count = 200
    """How many model calls an execution may make when its request does not say."""
    default_max_tool_calls: Count = 1000
    """How many tool calls an execution may make when its request does not say."""
    default_max_total_tokens: Count = 5_000_000
    """How many tokens an execution may use when its request does not say."""
    default_max_output_bytes: Count = 1 << 30
    """How many bytes of output of one command are kept when the request does not say."""

    mcp_start_timeout: Seconds = 30.0
    """How long an MCP server may take to start and to list its tools. One that installs itself first needs minutes."""

    max_repeated_calls: CountOrZero = 10
    """How many tool calls in a row may bring nothing new (same call, same result) before the execution is ended as
    LOOP_DETECTED; after three the model is told. Calls of more than 2 seconds, such as polling, do not count. 0 allows
    any number."""

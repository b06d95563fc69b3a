"""Where tools run, how far they are confined, and which of their calls need an approval."""

from pathlib import Path
from typing import Annotated, Literal

from runner_service.settings.machine import default_command_memory, default_command_processes
from runner_service.settings.reading import Variables, by_mode, computed
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import (
    Count,
    CountOrZero,
    FilesLevel,
    HostList,
    NetworkLevel,
    PathList,
    Seconds,
    SecondsOrZero,
    UrlText,
    in_any_case,
)


class ToolVariables(Variables):
    """MODE comes first: the defaults of many others depend on it."""

    mode: Literal["local", "cloud"] = "cloud"
    """Where tools run: `local`, in a directory of this machine, or `cloud`, in Daytona sandboxes."""
    env: Literal["development", "staging", "production"] = "development"
    """The stage of the deployment, a mark on logs and traces. Never a mode."""
    sandbox_type: Literal["filesystem", "daytona"] = by_mode("filesystem", "daytona")
    """The kind of sandbox. Follows the mode."""
    workspace_root: str | None = None
    """What SANDBOX_ROOT_DIR is when it is not set: the daemon starts a runner with this variable."""
    sandbox_root_dir: str = computed(lambda data: data["workspace_root"] or "./workspace")
    """The directory that the tools work in, created when missing. Local mode only."""
    sandbox_scope: Literal["shared", "session"] = "shared"
    """`shared`: all executions work in SANDBOX_ROOT_DIR. `session`: each session has its own directory below it."""
    sandbox_track_changes: Literal["auto", "off"] = "auto"
    """Whether changes of files are tracked, so that they can be listed and taken back."""
    sandbox_confinement: Annotated[FilesLevel, in_any_case] = "none"
    """The least confinement of files for every execution: `none`, `workspace`, `read_only` or `strict`; a request can \
only tighten it. Local mode on Linux, with bubblewrap; where it cannot be had, executions are refused."""
    sandbox_network: Annotated[NetworkLevel, in_any_case] = "all"
    """The least confinement of the network for every execution: `all`, `proxy` (SANDBOX_ALLOWED_HOSTS alone, by a \
proxy of the service) or `none`. Other than `all` it needs SANDBOX_CONFINEMENT."""
    sandbox_allowed_hosts: HostList = ""
    """What SANDBOX_NETWORK=proxy lets through, separated by commas: `HOST`, `*.DOMAIN` or an address, with `:PORT` \
for others than 80 and 443. Private addresses are reached only when named as addresses."""
    sandbox_readable_paths: PathList = ""
    """Absolute paths, separated by `:`, that confined executions may read although their level hides them."""
    sandbox_writable_paths: PathList = ""
    """Absolute paths, separated by `:`, that confined executions may write as well."""
    sandbox_hidden_paths: PathList = ""
    """Absolute paths, separated by `:`, that are hidden from confined executions as well."""
    sandbox_cache_max_bytes: Count = 4 << 30
    """How many bytes the private caches and /tmp directories of confined sessions may take together, between \
executions; the least recently used go first."""
    sandbox_cache_max_age: Seconds = 7 * 24 * 3600.0
    """How many seconds the private cache and /tmp of a confined session are kept without use."""
    sandbox_max_memory_bytes: CountOrZero = computed(lambda _: default_command_memory())
    """How many bytes of memory the commands of an execution may use together; 0 is any number. The default is three \
quarters of the memory of the machine, or of the container if that is less; in cloud mode, of the sandbox. Linux \
only."""
    sandbox_max_processes: CountOrZero = computed(lambda _: default_command_processes())
    """How many processes the commands of an execution may have together; 0 is any number. The default is 4096, but at \
most half of what the machine, the container and the user may have; in cloud mode, in the sandbox. Linux only."""
    sandbox_max_cpu_seconds: SecondsOrZero = 0.0
    """How many seconds of CPU time one command may use, with all its processes; 0 is any number. Linux only."""

    approval_policy_file: Path | None = None
    """A YAML file with the operator's approval policy (docs/approvals.md), which holds for every execution."""
    prices_file: Path | None = None
    """Prices of models, in YAML, by which `finished`, `GetExecution` and the metrics tell what executions cost. See \
docs/operations.md."""
    approval_webhook_url: UrlText | None = None
    """Where each new request for approval is announced, as a POST of JSON. Unset: nowhere."""
    approval_webhook_secret: SecretStr | None = None
    """Signs announcements: `X-Runner-Signature` is `sha256=` and the HMAC-SHA256 of `X-Runner-Timestamp`, `.` and \
the body, in hexadecimal."""
    approval_hold: SecondsOrZero = 60.0
    """How many seconds a tool call that waits for approval keeps its execution running; then it is parked, WAITING."""
    approval_hold_background: SecondsOrZero = 900.0
    """The same, if longer, once a command of the execution has left processes running: parking ends them, with the \
notice BACKGROUND_ENDED."""

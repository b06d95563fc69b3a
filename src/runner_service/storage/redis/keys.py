"""The names of keys in Redis.

The part in braces is a hash tag: what one script touches has the same one. `rs1` is in all of them; the version of the
layout is the value of `DeploymentKeys.layout`.
"""

from typing import NamedTuple

_PREFIX = "rs1"


class ExecutionKeys:
    """The keys of one execution."""

    def __init__(self, execution_id: str) -> None:
        self._base = f"{_PREFIX}:{{{execution_id}}}"
        self.record = f"{self._base}:x"
        """A hash: `token`, `owner`, `n` (entries of this owner other than events), `last` (sequence, as of the newest
        script that appended), `record`, `state`, `fingerprint`, `request`, `cancel`, `policy`, `sealed`; `floor`, the
        lowest token of the next claim; `owners`: for each, `<token>:<sequence after which it began>` and a space
        between two."""
        self.events = f"{self._base}:e"
        """A stream with ids `<token>-<last sequence>`: `n` (count), `f` (frames), and for output where its data is.
        Each owner begins with an entry of no events."""
        self.journal = f"{self._base}:j"
        self.values = f"{self._base}:v"
        self.calls = f"{self._base}:c"
        """A hash with a field for each tool call that has started."""
        self.channel = f"{self._base}:n"
        """Where commits are announced, as `<last sequence>:<1 if finished>:<token>`."""
        self.changes = f"{self._base}:d"
        """A list of change sets, as `<sequence>:<data>`."""
        self.contents = f"{self._base}:f"
        """A hash of contents of files by their SHA-256."""
        self.callers = f"{self._base}:p"
        """Exists while a replica that does not own the execution has callers of it."""

        self.decisions = f"{self._base}:a"
        """A list of SubmitApprovalRequests that the owner has not seen yet."""

    def output(self, tool_call_id: str, stream: str) -> str:
        """The string with what a call wrote to a stream."""
        return f"{self._base}:o:{tool_call_id}:{stream}"

    @property
    def fixed(self) -> list[str]:
        """All but those of outputs."""
        hot = [self.record, self.events, self.journal, self.values, self.calls]
        return [*hot, self.changes, self.contents, self.callers, self.decisions]


class ThreadKeys:
    """The keys of a thread's checkpoints and files."""

    def __init__(self, thread_id: str) -> None:
        base = f"{_PREFIX}:{{t:{thread_id}}}"
        self.token = f"{base}:t"
        """The highest owner token that has written."""
        self.checkpoints = f"{base}:c"
        self.writes = f"{base}:w"
        self.files = f"{base}:f"


class DeploymentKeys(NamedTuple):
    """The keys that all replicas share."""

    layout: str
    fingerprint_key: str
    counter: str
    executions: str
    """A sorted set of all executions, in the order of acceptance."""
    open: str
    """The same of those that have not ended. Like all indexes a superset: the record decides."""
    ended: str
    """A sorted set of those that have ended, by when."""
    threads: str
    leases: str
    """A sorted set: by when each replica has to renew its lease, in ms."""
    orphans: str
    """A set of executions that a replica has handed over."""
    activities: str
    announced: str
    contents: str
    """A sorted set of executions with contents, by when the first was stored."""
    content_sizes: str
    """A hash of how many bytes those take."""
    reports: str
    """A hash: what each replica says of itself, for the operator."""

    def session(self, session_id: str) -> str:
        """The executions of a session, as `executions`."""
        return f"{self.counter}:session:{session_id}"

    @property
    def queue(self) -> str:
        """A hash of the executions that are queued, running or parked. Other keys of `queue.lua` begin with it."""
        return f"{self.counter}:queue"

    def turns(self, session_id: str) -> str:
        """A list of executions of a session that run or wait for their turn."""
        return f"{self.counter}:turns:{session_id}"

    def value(self, name: str) -> str:
        """The executions with a value of that name."""
        return f"{self.counter}:value:{name}"

    @property
    def audit(self) -> str:
        """A sorted set of audit entries, in the order of their numbers."""
        return f"{self.counter}:audit"

    @property
    def audit_count(self) -> str:
        """The number of the newest audit entry."""
        return f"{self.counter}:auditcount"

    def usage(self, tenant: str, day: str) -> str:
        """How many tokens a tenant has used on a day."""
        return f"{self.counter}:usage:{tenant}:{day}"

    def starts(self, tenant: str) -> str:
        """A sorted set of the starts of a tenant in the last minute, by when, in ms."""
        return f"{self.counter}:starts:{tenant}"

    def calls(self, tenant: str) -> str:
        """A hash of how many calls of a tenant are open in each replica, if it may have only so many."""
        return f"{self.counter}:calls:{tenant}"

    def owned(self, replica: str) -> str:
        """The executions that a replica may own."""
        return f"{self.counter}:own:{replica}"


def deployment_keys(deployment: str) -> DeploymentKeys:
    """Returns the keys of a deployment."""
    base = f"{_PREFIX}:{{d:{deployment}}}"
    names = (
        "layout",
        "key",
        "count",
        "all",
        "open",
        "ended",
        "threads",
        "leases",
        "orphans",
        "activities",
        "announced",
        "contents",
        "contentsizes",
        "reports",
    )
    return DeploymentKeys(*(f"{base}:{name}" for name in names))

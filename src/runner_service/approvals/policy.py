"""Decides about tool calls by the policies of the request and the operator: the strictest verdict counts."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner_service.approvals import shell
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

ALLOW, ASK, DENY = (
    policy_pb2.APPROVAL_VERDICT_ALLOW,
    policy_pb2.APPROVAL_VERDICT_ASK,
    policy_pb2.APPROVAL_VERDICT_DENY,
)

MAX_TIMEOUT_SECONDS = 30 * 24 * 3600.0

_WITHOUT_EFFECTS = frozenset({"ls", "read_file", "glob", "grep", "write_todos", "task"})
_FILE_TOOLS = frozenset({"write_file", "edit_file"})
_TWO_WORD_PROGRAMS = frozenset({"git", "npm", "cargo", "go", "docker", "kubectl", "pip", "uv", "make"})


class McpTool(NamedTuple):
    """Where a tool of an MCP server comes from, and what the server says of it."""

    server: str
    tool: str
    read_only: bool = False
    destructive: bool = False
    open_world: bool = False


@dataclass(frozen=True)
class Call:
    """A tool call to decide about. `path` is relative to the root, for the file tools."""

    name: str
    arguments: Mapping[str, Any]
    sub_agent: str = ""
    mcp: McpTool | None = None
    path: str = ""

    @property
    def has_effects(self) -> bool:
        """True unless the call is known to change nothing."""
        return self.name not in _WITHOUT_EFFECTS

    @property
    def command(self) -> str | None:
        """The command text of `execute`."""
        return str(self.arguments.get("command", "")) if self.name == "execute" else None


class Verdict(NamedTuple):
    """What a policy says of a call, why, and whose policy it is."""

    verdict: "policy_pb2.ApprovalVerdict.ValueType"
    reason: str = ""
    source: "event_pb2.ApprovalSource.ValueType" = event_pb2.APPROVAL_SOURCE_UNSPECIFIED
    by_mode: bool = False
    """True if the mode decided, so that an ALLOW rule could change it."""
    skip: bool = False
    """True if nobody is there to ask: the call is skipped instead."""


ALLOWED = Verdict(ALLOW)


@dataclass
class Approver:
    """The policies that hold for one execution, and the rules that decisions have added."""

    request: policy_pb2.ApprovalPolicy | None = None
    service: policy_pb2.ApprovalPolicy | None = None
    granted: list[policy_pb2.ApprovalRule] = field(default_factory=list)
    _parsed: tuple[str, shell.ShellText] | None = None

    @property
    def is_active(self) -> bool:
        """True if any call can be asked about or refused."""
        return self.request is not None or self.service is not None

    @property
    def can_ask(self) -> bool:
        """True if a call may be asked about rather than allowed, refused or skipped."""
        modes = {policy_pb2.APPROVAL_MODE_ASK_EFFECTS, policy_pb2.APPROVAL_MODE_ASK_COMMANDS}
        asks = any(each.mode in modes or any(rule.verdict == ASK for rule in each.rules) for each in self._policies())
        return asks and not self.is_unattended

    @property
    def is_unattended(self) -> bool:
        """True if one of the policies says that nobody is there to ask."""
        return any(each.unattended for each in self._policies())

    @property
    def timeout_seconds(self) -> float:
        """How long a call waits: the shorter of both policies'."""
        timeouts = [each.timeout.ToTimedelta().total_seconds() for each in self._policies() if each.HasField("timeout")]
        return min([MAX_TIMEOUT_SECONDS, *timeouts])

    def decide(self, call: Call) -> Verdict:
        """Returns the strictest verdict."""
        verdicts = [
            self._decide(call, policy, source)
            for policy, source in (
                (self.request, event_pb2.APPROVAL_SOURCE_REQUEST),
                (self.service, event_pb2.APPROVAL_SOURCE_SERVICE),
            )
            if policy is not None
        ]
        return max(verdicts, key=lambda each: each.verdict, default=ALLOWED)

    def suggested_rules(self, call: Call, verdict: Verdict) -> list[policy_pb2.ApprovalRule]:
        """Returns the ALLOW rules that would let equal calls pass; none if a rule asks, which no grant loosens."""
        if not verdict.by_mode:
            return []
        rules = [policy_pb2.ApprovalRule(verdict=ALLOW, sub_agent=call.sub_agent, **each) for each in _subjects(call)]
        trial = Approver(self.request, self.service, [*self.granted, *rules])
        return rules if trial.decide(call).verdict == ALLOW else []

    def _policies(self) -> Iterator[policy_pb2.ApprovalPolicy]:
        yield from (each for each in (self.request, self.service) if each is not None)

    def _decide(
        self, call: Call, policy: policy_pb2.ApprovalPolicy, source: "event_pb2.ApprovalSource.ValueType"
    ) -> Verdict:
        for wanted in (DENY, ASK):
            for rule in policy.rules:
                if rule.verdict == wanted and self._matches(rule, call):
                    return Verdict(
                        wanted,
                        rule.reason or f"a rule for {_subject_text(rule)}",
                        source,
                        skip=wanted == ASK and self.is_unattended,
                    )
        if self._is_allowed([*policy.rules, *self.granted], call):
            return ALLOWED
        verdict, reason = _by_mode(policy.mode, call)
        return Verdict(verdict, reason, source, by_mode=True, skip=verdict == ASK and self.is_unattended)

    def _is_allowed(self, rules: Iterable[policy_pb2.ApprovalRule], call: Call) -> bool:
        allowing = [each for each in rules if each.verdict == ALLOW and each.sub_agent in ("", call.sub_agent)]
        if call.command is not None:
            words = [tuple(each.command.words) for each in allowing if each.HasField("command")]
            if self._shell(call.command).matches_all(words):
                return True
        return any(_matches_subject(each, call) for each in allowing if not each.HasField("command"))

    def _matches(self, rule: policy_pb2.ApprovalRule, call: Call) -> bool:
        if rule.sub_agent not in ("", call.sub_agent):
            return False
        if rule.HasField("command"):
            return call.command is not None and self._shell(call.command).mentions(tuple(rule.command.words))
        return _matches_subject(rule, call)

    def _shell(self, text: str) -> shell.ShellText:
        if self._parsed is None or self._parsed[0] != text:
            self._parsed = text, shell.parse(text)
        return self._parsed[1]


def normalised_path(path: str, root: str) -> str:
    """Returns a path of a file tool as rules see it: relative to the root, without `.` and `..`."""
    if path == root or path.startswith(root.rstrip("/") + "/"):
        path = path[len(root) :]
    return posixpath.normpath("/" + path).lstrip("/")


def _by_mode(
    mode: "policy_pb2.ApprovalMode.ValueType", call: Call
) -> tuple["policy_pb2.ApprovalVerdict.ValueType", str]:
    match mode:
        case policy_pb2.APPROVAL_MODE_ALLOW if call.mcp and call.mcp.destructive:
            return ASK, f"the MCP server {call.mcp.server} calls this tool destructive"
        case policy_pb2.APPROVAL_MODE_ASK_EFFECTS if call.has_effects:
            return ASK, "calls with effects are asked about"
        case policy_pb2.APPROVAL_MODE_ASK_COMMANDS if call.command is not None:
            return ASK, "commands are asked about"
        case policy_pb2.APPROVAL_MODE_DENY_EFFECTS if call.has_effects:
            return DENY, "calls with effects are refused"
    return ALLOW, ""


def _matches_subject(rule: policy_pb2.ApprovalRule, call: Call) -> bool:
    match rule.WhichOneof("subject"):
        case "tool":
            return rule.tool == call.name
        case "path":
            return call.name in _FILE_TOOLS and _path_matches(rule.path, call.path)
        case "mcp":
            return call.mcp is not None and _mcp_matches(rule, call.mcp)
    return False


def _mcp_matches(rule: policy_pb2.ApprovalRule, tool: McpTool) -> bool:
    wanted = rule.mcp
    if wanted.server not in ("", tool.server) or wanted.tool not in ("", tool.tool):
        return False
    match wanted.hint:
        case policy_pb2.MCP_HINT_READ_ONLY:
            return tool.read_only and not (rule.verdict == ALLOW and not wanted.server)
        case policy_pb2.MCP_HINT_DESTRUCTIVE:
            return tool.destructive
        case policy_pb2.MCP_HINT_OPEN_WORLD:
            return tool.open_world
    return True


def _path_matches(glob: str, path: str) -> bool:
    import re2  # noqa: PLC0415  # only needed with rules for paths

    pattern = "".join(_glob_part(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", glob.lstrip("/")))
    return re2.fullmatch(pattern, path) is not None


def _glob_part(part: str) -> str:
    parts = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return parts[part] if part in parts else re.escape(part)


def _subjects(call: Call) -> Sequence[dict[str, Any]]:
    if call.command is not None:
        commands = shell.parse(call.command).commands or ()
        words = dict.fromkeys(each[:2] if each[0] in _TWO_WORD_PROGRAMS else each for each in commands)
        return [{"command": policy_pb2.CommandPrefix(words=each)} for each in words if len(each) <= MAX_WORDS]
    if call.name in _FILE_TOOLS:
        directory = posixpath.dirname(call.path)
        return [{"path": f"{directory}/**" if directory else "*"}]
    if call.mcp:
        return [{"mcp": policy_pb2.McpTools(server=call.mcp.server, tool=call.mcp.tool)}]
    return [{"tool": call.name}]


MAX_WORDS = 16
"""How many words a rule for commands may have."""


def _subject_text(rule: policy_pb2.ApprovalRule) -> str:
    match rule.WhichOneof("subject"):
        case "tool":
            return f"the tool {rule.tool}"
        case "command":
            return f"commands that begin with `{' '.join(rule.command.words)}`"
        case "path":
            return f"files that match {rule.path}"
        case _:
            return f"MCP tools of {rule.mcp.server or 'every server'}"

"""What an approval policy may contain; the same for requests and for APPROVAL_POLICY_FILE."""

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError

from runner_service.approvals.policy import MAX_TIMEOUT_SECONDS, MAX_WORDS
from runner_service.errors import FieldViolation
from runner_service.v1 import approval_policy_pb2 as policy_pb2

_MAX_RULES = 256
_MAX_REASON_CHARACTERS = 1024
_MAX_TEXT_CHARACTERS = 1024
_MAX_STARS = 8
_MAX_FILE_BYTES = 256 * 1024


class PolicyFileError(Exception):
    """APPROVAL_POLICY_FILE cannot be used; the text says why."""


def policy_violations(field: str, policy: policy_pb2.ApprovalPolicy) -> Iterator[FieldViolation]:
    """Yields what is invalid in a policy; `field` is its path in the request."""
    if policy.mode not in policy_pb2.ApprovalMode.values():
        yield FieldViolation(f"{field}.mode", "must be a known mode")
    if len(policy.rules) > _MAX_RULES:
        yield FieldViolation(f"{field}.rules", f"must have at most {_MAX_RULES} rules, not {len(policy.rules)}")
    if policy.HasField("timeout") and not 0 < policy.timeout.ToNanoseconds() / 1e9 <= MAX_TIMEOUT_SECONDS:
        yield FieldViolation(f"{field}.timeout", "must be positive, and at most 30 days")
    for index, rule in enumerate(policy.rules[:_MAX_RULES]):
        yield from rule_violations(f"{field}.rules[{index}]", rule)


def rule_violations(field: str, rule: policy_pb2.ApprovalRule) -> Iterator[FieldViolation]:
    """Yields what is invalid in a rule."""
    if rule.verdict not in policy_pb2.ApprovalVerdict.values() or not rule.verdict:
        yield FieldViolation(f"{field}.verdict", "must be ALLOW, ASK or DENY")
    if len(rule.reason) > _MAX_REASON_CHARACTERS:
        yield FieldViolation(f"{field}.reason", f"must have at most {_MAX_REASON_CHARACTERS} characters")
    match rule.WhichOneof("subject"):
        case None:
            yield FieldViolation(field, "must have one of tool, command, path and mcp")
        case "command":
            words = rule.command.words
            if not 0 < len(words) <= MAX_WORDS or not all(0 < len(word) <= _MAX_TEXT_CHARACTERS for word in words):
                yield FieldViolation(f"{field}.command.words", f"must be 1 to {MAX_WORDS} words that are not empty")
        case "path" if len(rule.path) > _MAX_TEXT_CHARACTERS or rule.path.count("*") > _MAX_STARS:
            yield FieldViolation(f"{field}.path", f"must have at most {_MAX_TEXT_CHARACTERS} characters, 8 of them `*`")
        case "mcp" if rule.mcp.hint == policy_pb2.MCP_HINT_READ_ONLY and not rule.mcp.server:
            if rule.verdict == policy_pb2.APPROVAL_VERDICT_ALLOW:
                yield FieldViolation(f"{field}.mcp.server", "must be set in an ALLOW rule with the hint READ_ONLY")


def read_policy_file(path: Path) -> policy_pb2.ApprovalPolicy:
    """Reads a policy in YAML, with the names of the proto. Blocks on the file system.

    Raises:
        PolicyFileError: it cannot be read, or is not a valid policy.
    """
    import yaml  # noqa: PLC0415  # only needed with a file

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyFileError(f"APPROVAL_POLICY_FILE {path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise PolicyFileError(f"APPROVAL_POLICY_FILE {path} is larger than {_MAX_FILE_BYTES:,} bytes")
    try:
        policy = ParseDict(yaml.safe_load(data) or {}, policy_pb2.ApprovalPolicy())
    except (yaml.YAMLError, ParseError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise PolicyFileError(f"APPROVAL_POLICY_FILE {path} is not an approval policy: {error}") from error
    if violations := list(policy_violations("policy", policy)):
        text = "; ".join(f"{each.field}: {each.description}" for each in violations)
        raise PolicyFileError(f"APPROVAL_POLICY_FILE {path} is not a valid approval policy: {text}")
    return policy

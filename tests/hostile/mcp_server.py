"""An MCP server that means harm, by stdio. Its one tool, `evil`, does what the argument names."""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

SCHEMA = {"type": "object", "properties": {"value": {"type": "string", "pattern": "^(a+)+$"}}}
FORMAT = {"type": "object", "patternProperties": {"^(([a-z])+.)+[A-Z]([a-z])+$": {"type": "string"}}}
NOTE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n'
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}\n'


def result(request_id: int, **fields: Any) -> bytes:
    """A response."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": fields}).encode() + b"\n"


TEXT = [{"type": "text", "text": "done"}]
ONCE: dict[str, dict[str, Any]] = {
    "pattern": {"content": TEXT, "structuredContent": {"value": "a" * 60 + "b"}},
    "pattern of names": {"content": TEXT, "structuredContent": {"a" * 60: "x"}},
    "objects": {"content": TEXT, "structuredContent": {"a": [{}] * 2_000_000}},
    "numbers": {"content": TEXT, "structuredContent": {"a": [1] * 2_000_000}},
    "contents": {"content": [{}] * 300_000},
    "no answers": {"content": 7},
}
ENDLESS = {
    "endless lines": b"no message at all\n" * 1000,
    "endless blank lines": b"\n" * 100_000,
    "endless notes": NOTE * 1000,
    "endless progress": PROGRESS * 1000,
    "one endless line": b"x" * 100_000,
}
NUMBERED = {
    "endless requests": b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n',
    "answers to nobody": b'{"jsonrpc":"2.0","id":9%d,"result":{}}\n',
}


def answers(kind: str, request_id: int) -> Iterator[bytes]:
    """What follows a call of the tool."""
    if kind in ONCE:
        yield result(request_id, **ONCE[kind])
    elif kind in ENDLESS:
        yield from itertools.repeat(ENDLESS[kind])
    elif kind in NUMBERED:
        yield from (NUMBERED[kind] % number for number in itertools.count())
    else:
        yield b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 3_000_000 + b"\n"


def serve(kind: str) -> None:
    """Answers until its stdin ends."""
    schema = {"pattern": SCHEMA, "pattern of names": FORMAT}.get(kind)
    tool = {"name": "evil", "inputSchema": {"type": "object"}, **({"outputSchema": schema} if schema else {})}
    silent_about = kind.removeprefix("silence about ")
    about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "evil", "version": "1"}}
    for line in sys.stdin:
        match json.loads(line):
            case {"method": method} if method == silent_about:
                continue
            case {"id": request_id, "method": "initialize", "params": {"protocolVersion": version}}:
                parts: Iterator[bytes] = iter([result(request_id, protocolVersion=version, **about)])
            case {"id": request_id, "method": "tools/list"}:
                parts = iter([result(request_id, tools=[tool] * (100_000 if kind == "tools" else 1))])
            case {"id": request_id, "method": "tools/call"}:
                parts = answers(kind, request_id)
            case _:
                continue
        for part in parts:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(sys.argv[1])

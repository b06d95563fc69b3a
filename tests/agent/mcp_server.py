"""A small MCP server over stdio, whose tools behave well and badly. Run it as a program; it needs no library."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TOOLS: dict[str, tuple[str, ...]] = {
    "add": ("a", "b"),
    "variable": ("name",),
    "where": (),
    "fail": (),
    "hang": (),
    "die": (),
    "execute": ("command",),
    "structured": ("name",),
    "deaf": (),
    "flood": (),
    "length": ("text", "more"),
    "image": ("size",),
    "raw": ("result",),
    "echo": ("config", "run_manager", "self", "callbacks", "arguments"),
}
TOOLS_OF_A_FILE: list[dict[str, Any]] = []


def call(name: str, arguments: dict[str, Any]) -> str:
    """Does what a tool does."""
    match name:
        case "add":
            return f"the sum is {arguments['a'] + arguments['b']}"
        case "variable":
            return f"{arguments['name']}={os.environ.get(arguments['name'], '')}"
        case "where":
            return f"{os.getpid()} {Path.cwd()}"
        case "length":
            return f"{len(arguments['text'] + arguments['more'])} characters"
        case "echo":
            return json.dumps(arguments)
        case "execute":
            return f"not run: {arguments['command']}"
    misbehave(name)
    raise ValueError("this went wrong")


def misbehave(name: str) -> None:
    """Does what no tool should."""
    match name:
        case "hang":
            time.sleep(3600)
        case "die":
            print("farewell", file=sys.stderr, flush=True)
            os._exit(3)
        case "deaf":
            os.close(0)
            time.sleep(3600)
        case "flood":
            while True:
                sys.stdout.write("x" * 100_000)


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Answers a request."""
    if method == "initialize":
        about = {"name": "test", "version": "1"}
        version = os.environ.get("MCP_TEST_VERSION") or params["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        own = [{"name": name, "inputSchema": schema(names)} for name, names in TOOLS.items()]
        return {"tools": TOOLS_OF_A_FILE or own}
    return result_of(params["name"], params["arguments"])


def result_of(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result of a call."""
    match name:
        case "raw":
            result: dict[str, Any] = json.loads(arguments["result"])
            return result
        case "image":
            return {"content": [{"type": "image", "data": "A" * int(arguments["size"]), "mimeType": "image/png"}]}
        case "structured":
            variable = os.environ.get(arguments["name"], "")
            return {"content": [{"type": "text", "text": "see the rest"}], "structuredContent": {"value": variable}}
    try:
        return {"content": [{"type": "text", "text": call(name, arguments)}]}
    except ValueError as error:
        return {"content": [{"type": "text", "text": str(error)}], "isError": True}


def schema(names: tuple[str, ...]) -> dict[str, Any]:
    """What a tool takes."""
    kinds = {name: {"type": "integer" if len(name) == 1 else "string"} for name in names}
    return {"type": "object", "properties": kinds, "required": list(names)}


def serve() -> None:
    """Answers until its stdin ends."""
    print("a stray line that is no message", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params", {}))
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["refuses"]:
            sys.exit("no licence for s3cret-value")
        case ["complains"]:
            sys.exit(os.environ["KEY"])
        case ["silent"]:
            time.sleep(3600)
        case ["lists", file]:
            TOOLS_OF_A_FILE.extend(json.loads(Path(file).read_text(encoding="utf-8")))
            serve()
        case _:
            serve()

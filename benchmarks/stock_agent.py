"""The same work by the libraries alone, as their documentation shows it: deepagents on LangChain's models, streamed.

Serves runs over a pipe: reads lines of JSON, `{"agents": N, "message": TEXT}`, from standard input, runs so many agents
at once, and writes `{"cpu": SECONDS, "elapsed": SECONDS, "pieces": N}` for each.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from deepagents import create_deep_agent
from deepagents.backends import FilesystemBackend
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver


async def _run(graph: Any, message: str) -> int:
    """Runs an agent to its end, as if somebody watched; returns how many pieces of text came."""
    config = {"configurable": {"thread_id": uuid.uuid4().hex}, "recursion_limit": 10_000}
    pieces = 0
    async for piece, _ in graph.astream(
        {"messages": [{"role": "user", "content": message}]}, config, stream_mode="messages", durability="sync"
    ):
        pieces += bool(piece.text)
    return pieces


def _model(provider: str, url: str) -> BaseChatModel:
    match provider:
        case "anthropic":
            return ChatAnthropic(model="claude-measured", base_url=url, api_key="none")  # type: ignore[call-arg, arg-type]
        case "ollama":
            return ChatOllama(model="measured", base_url=url)
        case _:
            return ChatOpenAI(model="measured", base_url=url, api_key="none", stream_usage=True)  # type: ignore[arg-type]


async def _serve(provider: str, url: str, base: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(base / "checkpoints.db")) as saver:
        graph = create_deep_agent(
            _model(provider, url),
            system_prompt="Answer.",
            backend=FilesystemBackend(root_dir=str(base), virtual_mode=True),
            checkpointer=saver,
        )
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            cpu, began = time.process_time(), time.monotonic()
            pieces = await asyncio.gather(*(_run(graph, asked["message"]) for _ in range(asked["agents"])))
            spent = {"cpu": time.process_time() - cpu, "elapsed": time.monotonic() - began, "pieces": sum(pieces)}
            print(json.dumps(spent), flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    parser.add_argument("--url", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as base:
        asyncio.run(_serve(arguments.provider, arguments.url, Path(base)))


if __name__ == "__main__":
    _main()

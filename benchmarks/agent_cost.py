"""What an agent costs, from the provider's wire to the caller's: a token, and a step of model call and tool."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from benchmarks.callers import calling
from benchmarks.processes import ROOT, Running, plain_environment, running, stop
from benchmarks.service import running_service
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_LIMITS = runner_pb2.ExecutionLimits(max_model_calls=1000, max_tool_calls=1000)


class Spent(NamedTuple):
    """CPU and real seconds of a run."""

    cpu: float
    elapsed: float


class Runner(Protocol):
    """Runs so many agents at once, each with this message."""

    def run(self, agents: int, message: str) -> Spent:
        """Returns what it took."""


class Service:
    """The service, called by gRPC."""

    def __init__(self, service: Running) -> None:
        self._service = service

    def run(self, agents: int, message: str) -> Spent:
        """As of `Runner`."""
        return asyncio.run(self._run(agents, message))

    async def _run(self, agents: int, message: str) -> Spent:
        async with calling(self._service.address, calls=agents) as caller:
            cpu, began = self._service.cpu(), time.monotonic()
            calls = [caller.start(message, number=number, limits=_LIMITS) for number in range(agents)]
            await asyncio.gather(*(caller.finish(call) for call in calls))
            return Spent(self._service.cpu() - cpu, time.monotonic() - began)


class Stock:
    """deepagents, langgraph and ChatOpenAI as they come."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, agents: int, message: str) -> Spent:
        """As of `Runner`."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"agents": agents, "message": message}) + "\n")
        self._process.stdin.flush()
        spent = json.loads(self._process.stdout.readline())
        return Spent(spent["cpu"], spent["elapsed"])


@contextmanager
def runners(kind: str = "openai") -> Iterator[dict[str, Runner]]:
    """Opens both, against one provider: openai, anthropic or ollama."""
    with running(["-m", "benchmarks.provider"]) as provider:
        url = f"{provider.address}/v1" if kind == "openai" else provider.address
        variables = {
            "STIGMER_LLM_PROVIDER": kind,
            "STIGMER_LLM_BASE_URL": url,
            "STIGMER_LLM_MODEL": "claude-measured" if kind == "anthropic" else "measured",
            "STIGMER_LLM_API_KEY": "none",
        }
        with running_service(variables) as service, _running_stock(kind, url) as stock:
            yield {"runner-service": Service(service), "deepagents alone": stock}


@contextmanager
def _running_stock(kind: str, url: str) -> Iterator[Stock]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stock_agent", "--provider", kind, "--url", url],
        cwd=ROOT,
        env=plain_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Stock(process)
    finally:
        stop(process)


def token_cost(runner: Runner, *, agents: int, gap: float, few: int = 50, many: int = 450) -> float:
    """CPU microseconds per token: what more tokens add to the same runs."""
    less, more = (runner.run(agents, _message(tokens=count, gap=gap)) for count in (few, many))
    return (more.cpu - less.cpu) / (agents * (many - few)) * 1e6


def step_cost(runner: Runner, *, agents: int = 1, few: int = 2, many: int = 22) -> tuple[float, float]:
    """CPU and real milliseconds per step: what more steps add to the same runs."""
    less, more = (runner.run(agents, _message(tokens=1, steps=count)) for count in (few, many))
    steps = agents * (many - few)
    return (more.cpu - less.cpu) / steps * 1e3, (more.elapsed - less.elapsed) / (many - few) * 1e3


def execution_cost(runner: Runner, *, few: int = 20, many: int = 220) -> float:
    """CPU milliseconds of an execution of one token: what more of them add that run at once."""
    less, more = (runner.run(count, _message(tokens=1)) for count in (few, many))
    return (more.cpu - less.cpu) / (many - few) * 1e3


def growth(runner: Runner, counts: Sequence[int]) -> list[float]:
    """CPU milliseconds per step between one count of steps and the next, for one agent."""
    spent = [runner.run(1, _message(tokens=1, steps=count)).cpu for count in counts]
    pairs = zip(counts, counts[1:], spent, spent[1:], strict=False)
    return [(later - earlier) / (many - few) * 1e3 for few, many, earlier, later in pairs]


def _message(*, tokens: int, gap: float = 0.0, steps: int = 0) -> str:
    return json.dumps({"tokens": tokens, "gap": gap, "steps": steps})

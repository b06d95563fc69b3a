"""What tracking changes costs: scans of directories of three sizes, and an execution of twenty calls with and without.

python -m benchmarks.changes scan [FILES...]
python -m benchmarks.changes execution [CALLS]
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

import grpc
import yaml

from runner_service.app import running_service
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import SandboxSpec
from runner_service.executors.tracking import FoundChange, TrackingError
from runner_service.settings import load_settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

SIZES = (1_000, 50_000, 200_000)
FILE_BYTES = 5_000
DIRECTORY_FILES = 50
MODEL_SECONDS = 1.0


def make_repository(root: Path, files: int) -> None:
    """Makes a repository with one commit."""
    text = "x" * 49 + "\n"
    for number in range(files):
        path = root / f"d{number // DIRECTORY_FILES}" / f"f{number}"
        if number % DIRECTORY_FILES == 0:
            path.parent.mkdir(parents=True)
        path.write_text(f"{number}\n" + text * (FILE_BYTES // 50))
    identity = ("-c", "user.name=b", "-c", "user.email=b@example.org", "-c", "core.bigFileThreshold=1")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *identity, *command], cwd=root, check=True)


async def timed(work: Awaitable[object]) -> str:
    """Runs it and returns how long that took."""
    begun = time.perf_counter()
    try:
        await work
    except TrackingError as error:
        return f"refused after {time.perf_counter() - begun:.2f} s: {error}"
    return f"{time.perf_counter() - begun:.2f} s"


async def measure_scans(files: int) -> None:
    """Measures the look at the beginning, a scan that finds nothing, and one that finds three files."""

    async def ignore(_: FoundChange) -> None: ...

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        await asyncio.to_thread(make_repository, root, files)
        state_dir = Path(directory) / "state"
        async with (
            local_executor(root=root, state_dir=state_dir) as executor,
            executor.open(SandboxSpec("e")) as sandbox,
        ):
            tracking = sandbox.tracking
            assert tracking
            print(f"{files:,} files: begin {await timed(tracking.begin())}", end="", flush=True)
            print(f", nothing changed {await timed(tracking.scan(ignore))}", end="", flush=True)
            for name in ("d0/f0", "d1/f51", "new"):
                (root / name).write_text("changed\n")
            print(f", three changed {await timed(tracking.scan(ignore))}", flush=True)


async def measure_execution(calls: int) -> None:
    """Measures an execution with a model that takes a second before each call, with tracking and without, in turn."""
    turns = [
        {"delay": MODEL_SECONDS, "tool_calls": [{"name": "execute", "args": {"command": f"echo {number} > d0/f0"}}]}
        for number in range(calls)
    ]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        await asyncio.to_thread(make_repository, root, SIZES[0])
        script = Path(directory) / "script.yaml"
        script.write_text(yaml.safe_dump({"turns": [*turns, {"text": "done"}]}))
        for mode in ("off", "auto"):
            variables = {
                "MODE": "local",
                "LISTEN_ADDRESS": "127.0.0.1:0",
                "STATE_DIR": f"{directory}/state-{mode}",
                "SANDBOX_ROOT_DIR": str(root),
                "SANDBOX_TRACK_CHANGES": mode,
                "STIGMER_LLM_PROVIDER": "scripted",
                "STIGMER_LLM_SCRIPT": str(script),
                "HOME": directory,
            }
            async with running_service(load_settings(variables)) as service:
                print(f"SANDBOX_TRACK_CHANGES={mode}: {await elapsed(service.address):.2f} s", flush=True)


async def elapsed(address: str) -> float:
    """Returns how long an execution took."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: runner_grpc.AgentRunnerServiceAsyncStub = runner_grpc.AgentRunnerServiceStub(channel)
        agent = runner_pb2.Agent(name="b", instructions="Do it.")
        seconds = 0.0
        async for response in stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(agent=agent, message="go")):
            for event in response.events:
                if event.HasField("finished"):
                    seconds = event.finished.elapsed.ToNanoseconds() / 1e9
        return seconds


def main(arguments: Sequence[str]) -> None:
    """Runs one of the two."""
    match arguments:
        case ["scan", *sizes]:
            for size in map(int, sizes) if sizes else SIZES:
                asyncio.run(measure_scans(size))
        case ["execution", *calls]:
            asyncio.run(measure_execution(int(calls[0]) if calls else 20))
        case _:
            print(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

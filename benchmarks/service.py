"""The service as the command line starts it, with a probe that notes when its event loop was late."""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks.processes import Running, running

PROBE_EVERY = 0.005
_LATE = 0.002


@contextmanager
def running_service(variables: Mapping[str, str], *, directory: Path | None = None) -> Iterator[Running]:
    """Runs the service with the scripted model unless `variables` say otherwise. Files are below `directory`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        base = directory or Path(temporary)
        with running(["-m", "benchmarks.service"], environment=service_environment(base, variables)) as service:
            yield service


def service_environment(base: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a service that keeps everything below `base`."""
    return {
        "MODE": "local",
        "LISTEN_ADDRESS": "127.0.0.1:0",
        "STATE_DIR": str(base / "state"),
        "SANDBOX_ROOT_DIR": str(base / "workspace"),
        "STIGMER_LLM_PROVIDER": "scripted",
        "MAX_REPEATED_CALLS": "1000000",
        "MAX_CONCURRENT_EXECUTIONS": "2000",
        "LATENESS_FILE": str(base / "lateness.json"),
        **variables,
    }


def lateness_between(path: Path, began: float, ended: float) -> list[float]:
    """How late the loop was, in seconds, each time it was late at all; `began` and `ended` are of `time.monotonic`."""
    return [late for at, late in json.loads(path.read_text()) if began <= at <= ended]


async def _probe(noted: list[tuple[float, float]]) -> None:
    while True:
        due = time.monotonic() + PROBE_EVERY
        await asyncio.sleep(PROBE_EVERY)
        late = time.monotonic() - due
        if late > _LATE:
            noted.append((due, late))


async def _serve(ready_fd: int) -> None:
    from runner_service.serving import ServeOptions, serve
    from runner_service.settings import load_settings

    noted: list[tuple[float, float]] = []
    probe = asyncio.create_task(_probe(noted))
    try:
        await serve(load_settings(dict(os.environ)), ServeOptions(ready_fd=ready_fd))
    finally:
        probe.cancel()
        await asyncio.to_thread(Path(os.environ["LATENESS_FILE"]).write_text, json.dumps(noted))


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    from runner_service.settings import load_settings
    from runner_service.telemetry import telemetry

    with telemetry(load_settings(dict(os.environ))), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args().ready_fd))


if __name__ == "__main__":
    _main()

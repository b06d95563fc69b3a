"""Serves the emulator by hand: `python -m tests.emulator [--port 3986] [--start-seconds 2] [--error-rate 0.05]`."""

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from tests.emulator import API_KEY, Faults, running_emulator


async def serve(port: int, faults: Faults) -> None:
    with tempfile.TemporaryDirectory(prefix="daytona-") as directory:
        async with running_emulator(Path(directory), port=port, faults=faults) as cloud:
            print(f"export DAYTONA_API_URL={cloud.api_url} DAYTONA_API_KEY={API_KEY}", flush=True)
            await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=3986)
    parser.add_argument("--start-seconds", type=float, default=0.0, help="how long a sandbox takes to start")
    parser.add_argument("--error-rate", type=float, default=0.0, help="how many requests fail, 0 to 1")
    arguments = parser.parse_args()
    faults = Faults(start_seconds=arguments.start_seconds, error_rate=arguments.error_rate)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.port, faults))


if __name__ == "__main__":
    main()

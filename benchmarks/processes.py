"""Programs under measurement, each in a process of its own, and what the kernel knows of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_WITHIN = 15.0


@dataclass(frozen=True)
class Running:
    """A program that said where it listens. `seconds_to_ready` is from before its exec."""

    pid: int
    address: str
    seconds_to_ready: float

    def cpu(self) -> float:
        """CPU seconds of all its threads so far, user and system, in steps of 10 ms."""
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        """Resident bytes now."""
        return _status_bytes(self.pid, "VmRSS")

    def peak_memory(self) -> int:
        """The most resident bytes since its start, or since `reset_peak`."""
        return _status_bytes(self.pid, "VmHWM")

    def reset_peak(self) -> None:
        """Begins a new peak."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def running(
    program: Sequence[str], *, environment: Mapping[str, str] | None = None, python: str = sys.executable
) -> Iterator[Running]:
    """Runs `python program… --ready-fd N` until the block ends. It writes a line of JSON with its `address`."""
    reader, writer = os.pipe()
    words = tempfile.TemporaryFile()  # noqa: SIM115  # closed at the end of the block
    began = time.monotonic()
    process = subprocess.Popen(
        [python, *program, "--ready-fd", str(writer)],
        pass_fds=[writer],
        cwd=ROOT,
        env={**plain_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stderr=words,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            line = ready.readline()
        if not line:
            words.seek(0)
            raise RuntimeError(f"{' '.join(program)} did not start: {words.read().decode(errors='replace')[-2000:]}")
        yield Running(process.pid, json.loads(line)["address"], time.monotonic() - began)
    finally:
        stop(process)
        words.close()


def stop(process: "subprocess.Popen[Any]") -> None:
    """Ends a process, politely first."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_WITHIN)
        return
    process.kill()
    process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident bytes of a process."""
    return _status_bytes(pid, "VmRSS")


def say_ready(descriptor: int, address: str) -> None:
    """Tells whoever started this program where it listens."""
    with os.fdopen(descriptor, "w") as ready:
        ready.write(json.dumps({"address": address}) + "\n")


def plain_environment() -> dict[str, str]:
    """The environment of this process without what would change how a program under measurement works."""
    changing = ("OTEL_", "STIGMER_", "LANG", "PYTHONDONTWRITEBYTECODE")  # without bytecode, a start is a compilation
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return {**kept, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "LANG": os.environ.get("LANG", "C.UTF-8")}


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0

"""Measures what it costs to run a command, ours and others side by side in one run, and prints tables for the docs.

Usage: python -m benchmarks.executor [--rounds N]. Peers are installed once into environments of their own below the
cache directory; what cannot be installed is left out, with a word.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

SUBJECTS_FILE = Path(__file__).with_name("executor_subjects.py")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "runner-service-benchmarks"
PEERS = {"deepagents": "deepagents", "pydantic-ai": "pydantic-ai-slim", "swe-rex": "swe-rex"}
OWN = ("posix_spawn", "asyncio", "uvloop", "runner-service", "posix_spawn, sh", "runner-service, sh")

FLOOR = "posix_spawn"

COMMANDS = {"true": "true", "echo": "echo hi", "10 MB": "cat ten-megabytes", "100,000 lines": "seq 100000"}
PER_ROUND = {"true": 20, "echo": 20, "10 MB": 5, "100,000 lines": 5}
AT_ONCE = 64


class Subject:
    """A process that runs commands in one way, and waits while others do."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._answer()

    def ask(self, **question: object) -> object:
        """Has it do something; returns its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> object:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("it ended")
        return json.loads(line)


@contextmanager
def subject(name: str, python: str, directory: Path) -> Iterator[Subject]:
    """Runs a subject until the block ends."""
    arguments = [python, str(SUBJECTS_FILE), name, str(directory)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield Subject(process)
        finally:
            assert process.stdin
            process.stdin.close()


def python_of_peer(package: str) -> str:
    """Returns the Python of the environment that has the package, installing it at the first time."""
    environment = CACHE / package
    python = environment / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))  # of `make .venv/.dev`: there need be none on the PATH
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", str(environment)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), package], check=True, timeout=600)
    return str(python)


def start_all(stack: ExitStack, directory: Path) -> dict[str, Subject]:
    """Starts every subject that can be had."""
    subjects = {name: stack.enter_context(subject(name, sys.executable, directory)) for name in OWN}
    for name, package in PEERS.items():
        try:
            subjects[name] = stack.enter_context(subject(name, python_of_peer(package), directory))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return subjects


def timings(subjects: Mapping[str, Subject], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns seconds by command and subject; the subjects take turns, so that a busy machine is unfair to none."""
    found: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in subjects} for kind in COMMANDS}
    for number in range(rounds + 1):
        for kind, text in COMMANDS.items():
            for name, each in subjects.items():
                seconds = each.ask(text=text, count=PER_ROUND[kind])
                assert isinstance(seconds, list)
                # The first round warms up.
                found[kind][name] += seconds if number else []
    return found


def crowds(subjects: Mapping[str, Subject], rounds: int) -> dict[str, list[Mapping[str, float]]]:
    """Returns by subject what became of many commands at once."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in subjects if not name.startswith("posix_spawn")}
    for _ in range(max(3, rounds // 3)):
        for name, results in found.items():
            result = subjects[name].ask(at_once="true", count=AT_ONCE)
            assert isinstance(result, dict)
            results.append(result)
    return found


def report(found: Mapping[str, Mapping[str, list[float]]], crowd: Mapping[str, list[Mapping[str, float]]]) -> str:
    """Returns the tables."""
    return "\n".join([*_timing_table(found), "", *_crowd_table(crowd)])


def _timing_table(found: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    yield f"| ms, median (5 % – 95 %), **× {FLOOR}** | " + " | ".join(found) + " |"
    yield "| --- |" + " --- |" * len(found)
    for name in found["true"]:
        yield f"| {name} | " + " | ".join(_cell(found[kind][name], found[kind][FLOOR]) for kind in found) + " |"


def _cell(seconds: list[float], floor: list[float]) -> str:
    median, *_ = statistics.quantiles(seconds, n=2)
    twentieths = statistics.quantiles(seconds, n=20)
    ratio = median / statistics.median(floor)
    return f"{median * 1e3:.2f} ({twentieths[0] * 1e3:.2f} – {twentieths[-1] * 1e3:.2f}) **{ratio:.2f}**"


def _crowd_table(crowd: Mapping[str, list[Mapping[str, float]]]) -> Iterator[str]:
    yield f"| {AT_ONCE} × `true` at once | all done, ms | longest stall of the loop, ms | bad exits |"
    yield "| --- | --- | --- | --- |"
    for name, results in crowd.items():
        seconds = statistics.median(each["seconds"] for each in results)
        stall = statistics.median(each["stall"] for each in results)
        bad = sum(int(each["bad"]) for each in results)
        yield f"| {name} | {seconds * 1e3:.0f} | {stall * 1e3:.1f} | {bad} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-executor-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        (directory / "ten-megabytes").write_bytes((b"x" * 79 + b"\n") * 125_000)
        subjects = start_all(stack, directory)
        print(report(timings(subjects, rounds), crowds(subjects, rounds)))


if __name__ == "__main__":
    main()

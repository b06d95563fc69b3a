"""Measures, prints the tables and what has become worse, and with --write updates docs/performance.md and its files.

All figures are measured when none is named, each in at most five minutes. `executor` is measured by
`python -m benchmarks.executor`.
"""

import argparse
import time
from importlib.util import find_spec

from benchmarks.figures import FIGURES
from benchmarks.kept import keep, worse
from benchmarks.report import machine, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--write", action="store_true", help="update docs/performance.md and its plots")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - FIGURES.keys():
        parser.error(f"there is no figure {', '.join(sorted(unknown))}")
    if arguments.write and not find_spec("matplotlib"):
        parser.error("--write draws plots: install the extra `bench`")
    for name in arguments.names or FIGURES:
        began = time.monotonic()
        figure = FIGURES[name](arguments.rounds)
        print(f"\n{figure.title}\n\n{figure.markdown()}\n\n({time.monotonic() - began:.0f} s)", flush=True)
        for line in worse(figure):
            print(line, flush=True)
        if arguments.write:
            write(figure)
            keep(figure)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()

"""``python -m tests.benchmarks [names]``: measures, and prints one table for each benchmark.

Loopback only, real processes, every figure beside a floor that was taken in the same run.
``--tiny`` shows in seconds that everything works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.benchmarks import delivery, dispatch, first_token, idle_readers, replaying
from tests.benchmarks.engine import comparing, greedy
from tests.benchmarks.report import heading, table

BENCHMARKS = {
    "dispatch": dispatch,
    "first-token": first_token,
    "delivery": delivery,
    "idle-readers": idle_readers,
    "replay": replaying,
    "engine": comparing,
    "greedy": greedy,
}


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--tiny", action="store_true", help="a few of each, to see that it runs")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    print(heading(), flush=True)
    for name in asked.names or BENCHMARKS:
        module = BENCHMARKS[name]
        began_s = time.monotonic()
        rows = list(module.measure(module.TINY if asked.tiny else module.Sizes()))
        print(f"\n## {name} ({time.monotonic() - began_s:.0f} s)\n\n{table(rows)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

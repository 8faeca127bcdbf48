"""`python -m tests.fuzz --requests 1000 --seed 1`: a cluster of its own; which requests broke it.

`--only 137` sends one of them alone, and shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
from pathlib import Path

from .requests import request_of
from .run import real_cluster, run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    made.add_argument("--requests", type=int, default=1000, help="how many")
    made.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all of them")
    made.add_argument("--only", type=int, help="the number of one")
    return made


def main() -> int:
    """1 where something broke."""
    asked = parser().parse_args()
    numbers = range(asked.requests) if asked.only is None else [asked.only]
    if asked.only is not None:
        print(json.dumps(request_of(asked.seed, asked.only).body, indent=2))
    with tempfile.TemporaryDirectory() as folder, real_cluster(Path(folder)) as cluster:
        began = cluster.pids
        findings = asyncio.run(run(cluster.nodes, asked.seed, numbers))
        died = sorted(name for name, pid in cluster.pids.items() if began[name] != pid)
    print(f"seed {asked.seed}: {dict(findings.statuses)}, {len(findings.broken)} broken")
    for number, problem in findings.broken:
        print(f"--only {number}: {request_of(asked.seed, number).path} {problem}")
    if died:
        print(f"died: {', '.join(died)}")
    return bool(findings.broken or died)


if __name__ == "__main__":
    sys.exit(main())

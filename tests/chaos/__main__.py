"""`python -m tests.chaos --seeds 1-1000 --minutes 30`: a table, and the seeds that broke it."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .plan import Plan, plan_of
from .run import Verdict, run

ROW = "{:>6}  {:<44} {:>8} {:>7} {:>9} {:>9} {:>7} {:>6}  {}"
HEAD = ("seed", "faults", "sessions", "readers", "bytes", "takeovers", "refused", "s", "result")


def seeds_of(text: str) -> Iterator[int]:
    """``1-1000``, ``7``, ``3,5,9``."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def faults_of(plan: Plan) -> str:
    """The faults in short."""
    counted = Counter(f"{one.kind} {one.target.translate(_DIGITS)}" for one in plan.faults)
    return ", ".join(f"{what} x{n}" if n > 1 else what for what, n in sorted(counted.items()))


_DIGITS = str.maketrans("", "", "-0123456789")


def row_of(verdict: Verdict) -> str:
    """One line of the table."""
    result = "BROKEN" if verdict.broken else "ok"
    if verdict.skipped:
        result = f"skipped: {verdict.skipped}"
    return ROW.format(
        verdict.plan.seed,
        faults_of(verdict.plan)[:44],
        verdict.sessions,
        verdict.readers,
        verdict.bytes_checked,
        verdict.takeovers,
        verdict.refused,
        f"{verdict.took_s:.1f}",
        result,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    made.add_argument("--seeds", default="1-20", help="as 1-1000 or 3,5,9")
    made.add_argument("--minutes", type=float, default=60.0, help="no seed is begun after these")
    made.add_argument("--engine", choices=("scripted", "llama"), default="scripted")
    made.add_argument("--jobs", type=int, default=1, help="how many seeds at once")
    made.add_argument("--verbose", action="store_true", help="print every plan")
    made.add_argument("--plan", action="store_true", help="print the plans and run nothing")
    made.add_argument("--keep", type=Path, help="where the files of broken seeds are kept")
    return made


async def run_kept(plan: Plan, keep: Path, *, is_told: bool) -> Verdict:
    """Runs one plan; its files stay where it broke something."""
    folder = keep / f"{plan.engine}-{plan.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        verdict = await run(plan, folder)
    except Exception as error:  # the root of one seed: the others are run all the same
        verdict = Verdict(plan, [f"the machine itself failed: {error!r}"])
    words = [row_of(verdict)]
    if verdict.broken:
        words += [*([] if is_told else plan.lines()), *verdict.broken, f"files: {folder}"]
    else:
        shutil.rmtree(folder)
    print("\n".join(words), flush=True)
    return verdict


async def run_all(asked: argparse.Namespace) -> list[Verdict]:
    """The seeds in their order, as many at once as was asked for, as long as there is time."""
    task = asyncio.current_task()
    assert task is not None
    # Else whoever ends this machine would leave its processes behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    keep = asked.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    last_s = time.monotonic() + 60 * asked.minutes
    seeds = seeds_of(asked.seeds)
    verdicts: list[Verdict] = []

    async def run_some() -> None:
        for seed in seeds:
            if time.monotonic() > last_s:
                return
            plan = plan_of(seed, asked.engine)
            if asked.verbose:
                print("\n".join(plan.lines()), flush=True)
            verdicts.append(await run_kept(plan, keep, is_told=asked.verbose))

    async with asyncio.TaskGroup() as group:
        for _ in range(asked.jobs):
            group.create_task(run_some())
    return verdicts


def summary_of(verdicts: Sequence[Verdict]) -> str:
    """The last lines: how much was checked, and the seeds that broke something."""
    ran = [verdict for verdict in verdicts if not verdict.skipped]
    broken = sorted(verdict.plan.seed for verdict in ran if verdict.broken)
    return (
        f"{len(ran)} seeds ran, {len(verdicts) - len(ran)} were skipped: "
        f"{sum(one.sessions for one in ran)} sessions, {sum(one.readers for one in ran)} readers, "
        f"{sum(one.bytes_checked for one in ran):,} bytes, "
        f"{sum(one.takeovers for one in ran)} takeovers\n"
        f"broken: {', '.join(map(str, broken)) or 'none'}"
    )


def main() -> int:
    """Runs the seeds; 1 where one broke something."""
    asked = parser().parse_args()
    if asked.plan:
        for seed in seeds_of(asked.seeds):
            print("\n".join(plan_of(seed, asked.engine).lines()))
        return 0
    print(ROW.format(*HEAD), flush=True)
    verdicts = asyncio.run(run_all(asked))
    print(summary_of(verdicts))
    return 1 if any(verdict.broken for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Tokens a second, first tokens and stalls, in turns with llama-server.

Every prompt is new to both, so that no cache answers. The bare engine has no HTTP to speak, and
llama-server has; the cluster of two nodes has more of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from statistics import mean

from tests.benchmarks.engine.answers import Answer, tokens_per_s
from tests.benchmarks.engine.sides import Ask, Asked, Bare, bare, cluster, llama_server
from tests.benchmarks.peer import PACKAGE, described
from tests.benchmarks.report import Row

FILLER = "He was a man of many parts, and the harbour knew him by every one of them. "
RUNNING = 4
"""Answers that run while a long prompt enters."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked; lengths in tokens."""

    rounds: int = 5
    widths: tuple[int, ...] = (1, 4, 8, 16)
    short_answer: int = 48
    long_prompt: int = 1500
    long_answer: int = 16
    likely_at_once: int = 8
    n_probs: int = 20
    with_cluster: bool = True


TINY = Sizes(
    rounds=1,
    widths=(1, 2),
    short_answer=8,
    long_prompt=200,
    likely_at_once=2,
    with_cluster=False,
)

SLOTS = max(Sizes().widths)


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    if find_spec(PACKAGE) is None:
        return [Row("llama-server", [], "", note="left out: only `make bench` installs it")]
    with ExitStack() as stack:
        engine = stack.enter_context(bare(SLOTS))
        sides: dict[str, Ask] = {"engine": engine.ask}
        sides["theirs"] = stack.enter_context(llama_server(SLOTS))
        if sizes.with_cluster:
            sides["cluster"] = stack.enter_context(cluster(SLOTS))
        prompts = _prompts(engine)
        rows = []
        for width in sizes.widths:
            short = _short(prompts, width, sizes.short_answer)
            rows += _width(f"{width} x 30 tokens", sides, short, sizes.rounds)
            long = [(next(prompts)[: sizes.long_prompt], sizes.long_answer) for _ in range(width)]
            rows += _width(f"{width} x {sizes.long_prompt} tokens", sides, long, sizes.rounds)
        return [*rows, *_likely(sides, prompts, sizes), *_stalls(sides, prompts, sizes)]


def _prompts(engine: Bare) -> Iterator[list[int]]:
    """Endless ones, each another from its first word on."""
    filler: list[int] = engine.companion.ask("tokens", text=FILLER * 150)
    for number in count(1000):
        yield [*engine.companion.ask("tokens", text=f"{number} apples fell. "), *filler]


def _short(prompts: Iterator[list[int]], width: int, max_tokens: int) -> Asked:
    return [(next(prompts)[:30], max_tokens) for _ in range(width)]


def _likely(sides: Mapping[str, Ask], prompts: Iterator[list[int]], sizes: Sizes) -> list[Row]:
    """The same, where each token is told with its likeliest rivals."""
    short = _short(prompts, sizes.likely_at_once, sizes.short_answer)
    what = f"{sizes.likely_at_once} x 30 tokens, n_probs {sizes.n_probs}"
    return _width(what, sides, short, sizes.rounds, n_probs=sizes.n_probs)


def _width(
    what: str, sides: Mapping[str, Ask], asked: Asked, rounds: int, *, n_probs: int = 0
) -> list[Row]:
    """Each side in turns, so many rounds; the first one, which is not counted, warms them up."""
    told = [
        {name: ask(asked, n_probs=n_probs) for name, ask in sides.items()}
        for _ in range(rounds + 1)
    ][1:]
    rows = [Row(f"{what}, engine", [tokens_per_s(one["engine"]) for one in told], "tokens/s")]
    rows.append(Row(f"{what}, first token", [_first_s(one["engine"]) for one in told], "s"))
    for name in sides.keys() - {"theirs"}:
        speeds = [tokens_per_s(one[name]) / tokens_per_s(one["theirs"]) for one in told]
        rows.append(Row(f"{what}: {name}'s tokens/s over llama-server's", speeds, "times"))
        firsts = [_first_s(one["theirs"]) / _first_s(one[name]) for one in told]
        rows.append(Row(f"{what}: llama-server's first token over {name}'s", firsts, "times"))
    return rows


def _stalls(sides: Mapping[str, Ask], prompts: Iterator[list[int]], sizes: Sizes) -> list[Row]:
    """The longest silence of running answers while a long prompt comes."""
    stalls: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(sizes.rounds):
        running = _short(prompts, RUNNING, 4 * sizes.short_answer)
        late = (next(prompts)[: sizes.long_prompt], sizes.long_answer)
        for name, ask in sides.items():
            stalls[name].append(mean(one.stall_s for one in ask([*running, late], late=1)[:-1]))
    what = f"longest silence of {RUNNING} answers while {sizes.long_prompt} tokens come"
    named = {"engine": "the engine", "theirs": described(), "cluster": "the cluster"}
    return [Row(f"{what}, {named[name]}", took, "s") for name, took in stalls.items()]


def _first_s(answers: list[Answer]) -> float:
    return mean(one.first_s for one in answers)

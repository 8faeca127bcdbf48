"""Tokens a second, first tokens and stalls, in turns with llama-server.

Every prompt is new to all, so that no cache answers. The bare engine has no HTTP to speak, and
llama-server has; the cluster of two nodes has more of it. Long prompts are for the two engines
alone: what a cluster adds to an answer does not grow with its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import mean

from tests.benchmarks.engine.answers import Answer, tokens_per_s
from tests.benchmarks.engine.sides import (
    FLASH_ATTENTION_OFF,
    Ask,
    Asked,
    Bare,
    bare,
    cluster,
    llama_server,
)
from tests.benchmarks.llama_server import is_installed
from tests.benchmarks.report import Row

ENGINE, CLUSTER = "the engine", "the cluster"
THEIRS, PLAIN = "llama-server", "llama-server without flash attention"

FILLER = "He was a man of many parts, and the harbour knew him by every one of them. "
RUNNING = 4
"""Answers that run while a long prompt enters."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked; lengths in tokens."""

    rounds: int = 5
    widths: tuple[int, ...] = (1, 4, 8, 16)
    long_widths: tuple[int, ...] = (1, 4, 8, 16)
    short_answer: int = 48
    long_prompt: int = 1500
    long_answer: int = 16
    likely_at_once: int = 8
    n_probs: int = 20
    with_cluster: bool = True


TINY = Sizes(
    rounds=1,
    widths=(1, 2),
    long_widths=(1, 2),
    short_answer=8,
    long_prompt=200,
    likely_at_once=2,
    with_cluster=False,
)

GPU = Sizes(rounds=3, widths=(1, 8, 32, 64), long_widths=(1, 8))


def measure(sizes: Sizes) -> Iterator[Row]:
    """The rows of this benchmark, each as soon as it is measured."""
    if not is_installed():
        yield Row("llama-server", [], "", note="left out: only `make bench` installs it")
        return
    slots = max(*sizes.widths, RUNNING + 1)
    with ExitStack() as stack:
        engine = stack.enter_context(bare(slots))
        pair: dict[str, Ask] = {ENGINE: engine.ask}
        pair[THEIRS] = stack.enter_context(llama_server(slots))
        sides = {**pair, PLAIN: stack.enter_context(llama_server(slots, FLASH_ATTENTION_OFF))}
        if sizes.with_cluster:
            sides[CLUSTER] = stack.enter_context(cluster(slots))
        prompts = _prompts(engine)
        for width in sizes.widths:
            short = _short(prompts, width, sizes.short_answer)
            _told(sides, short, 1)  # warms them up
            yield from _compared(f"{width} x 30 tokens", _told(sides, short, sizes.rounds))
        short = _short(prompts, sizes.likely_at_once, sizes.short_answer)
        what = f"{sizes.likely_at_once} x 30 tokens, n_probs {sizes.n_probs}"
        yield from _compared(what, _told(pair, short, sizes.rounds, n_probs=sizes.n_probs))
        yield from _stalls(sides, prompts, sizes)
        for width in sizes.long_widths:
            long = [(next(prompts)[: sizes.long_prompt], sizes.long_answer) for _ in range(width)]
            what = f"{width} x {sizes.long_prompt} tokens"
            yield from _compared(what, _told(pair, long, sizes.rounds))


def _prompts(engine: Bare) -> Iterator[list[int]]:
    """Endless ones, each another from its first word on."""
    filler: list[int] = engine.companion.ask("tokens", text=FILLER * 150)
    for number in count(1000):
        yield [*engine.companion.ask("tokens", text=f"{number} apples fell. "), *filler]


def _short(prompts: Iterator[list[int]], width: int, max_tokens: int) -> Asked:
    return [(next(prompts)[:30], max_tokens) for _ in range(width)]


def _told(
    sides: Mapping[str, Ask], asked: Asked, rounds: int, *, n_probs: int = 0
) -> list[dict[str, list[Answer]]]:
    """What each side answered, in turns."""
    return [
        {name: ask(asked, n_probs=n_probs) for name, ask in sides.items()} for _ in range(rounds)
    ]


def _compared(what: str, told: Sequence[Mapping[str, list[Answer]]]) -> Iterator[Row]:
    """Each side beside llama-server, round by round."""
    yield Row(f"{what}: {THEIRS}", [tokens_per_s(one[THEIRS]) for one in told], "tokens/s")
    yield Row(f"{what}: {THEIRS}, first token", [_first_ms(one[THEIRS]) for one in told], "ms")
    for name in [name for name in told[0] if name != THEIRS]:
        speeds = [tokens_per_s(one[name]) / tokens_per_s(one[THEIRS]) for one in told]
        yield Row(f"{what}: {name} over it", speeds, "times")
        later = [_first_ms(one[name]) - _first_ms(one[THEIRS]) for one in told]
        yield Row(f"{what}: {name}, first token later by", later, "ms")


def _stalls(sides: Mapping[str, Ask], prompts: Iterator[list[int]], sizes: Sizes) -> Iterator[Row]:
    """The longest silence of running answers while a long prompt comes."""
    stalls: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(sizes.rounds):
        running = _short(prompts, RUNNING, 4 * sizes.short_answer)
        late = (next(prompts)[: sizes.long_prompt], sizes.long_answer)
        for name, ask in sides.items():
            stalls[name].append(mean(one.stall_s for one in ask([*running, late], late=1)[:-1]))
    what = f"longest silence of {RUNNING} answers while {sizes.long_prompt} tokens come"
    for name, took in stalls.items():
        yield Row(f"{what}: {name}", took, "s")


def _first_ms(answers: list[Answer]) -> float:
    return 1000 * mean(one.first_s for one in answers)

"""Greedy answers beside llama-server's, token for token, and how near each other the two likeliest
tokens were where they part.

``python -m tests.benchmarks.engine.greedy`` prints every difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.companion import Companion
from tests.benchmarks.engine.answers import whole
from tests.benchmarks.engine.sides import arguments, bare
from tests.benchmarks.llama_server import is_installed
from tests.benchmarks.peer import described
from tests.benchmarks.report import Row

TOPICS = (
    *("a lighthouse", "the number seven", "rain", "a bicycle", "Paris", "the moon", "bread"),
    *("a river", "winter", "a clock", "music", "the sea", "an old house", "coffee", "trains"),
    *("a garden", "mathematics", "a dog", "glass", "the desert", "a letter", "salt", "birds"),
    *("a bridge", "sleep"),
)
FORMS = ("Write a short story about {}.", "Explain to a child what is special about {}.")
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many prompts, and how many tokens of each answer."""

    prompts: int = 50
    tokens: int = 64


TINY = Sizes(prompts=2, tokens=8)


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers part: at which token, what each said there, and how much likelier the one
    was than the other by our engine (a difference of natural logarithms)."""

    prompt: str
    index: int
    ours: int
    theirs: int
    margin: float


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    if not is_installed():
        return [Row("llama-server", [], "", note="left out: only `make bench` installs it")]
    found = list(partings(sizes))
    parted = [one for one in found if one is not None]
    same = f"of {len(found)} answers of {sizes.tokens} tokens, beside {described()}"
    return [
        Row("answers that are the same", [len(found) - len(parted)], "answers", note=same),
        Row("where the others part", [one.index for one in parted], "tokens"),
        Row("how much likelier our token was there", [one.margin for one in parted], "nats"),
    ]


def partings(sizes: Sizes) -> Iterator[Parting | None]:
    """For each prompt where the answers part; None where they are the same."""
    with bare(SLOTS) as engine, Companion("llama_server", *arguments(SLOTS)) as server:
        url = server.ask("url")
        texts = [form.format(topic) for form in FORMS for topic in TOPICS][: sizes.prompts]
        for text in texts:
            framed = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
            prompt = engine.companion.ask("tokens", text=framed)
            (ours,) = engine.companion.ask("run", asked=[(prompt, sizes.tokens)], n_probs=20)
            yield _parting(text, ours, whole(url, prompt, sizes.tokens))


def _parting(prompt: str, ours: dict[str, Any], theirs: list[int]) -> Parting | None:
    pairs = zip(ours["tokens"], theirs, ours["likely"], strict=True)
    for index, (our, their, likely) in enumerate(pairs):
        if our != their:
            margin = likely[str(our)] - likely.get(str(their), float("-inf"))
            return Parting(prompt, index, our, their, margin)
    return None


if __name__ == "__main__":
    for one in partings(Sizes()):
        if one is not None:
            print(one)

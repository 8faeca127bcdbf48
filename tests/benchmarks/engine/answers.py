"""An answer as a client sees it come, and what several at once say of who made them. Pure, but for
``streamed`` and ``whole``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.benchmarks.http_socket import Exchange, HttpSocket

LINE_S = 300.0
"""How long a prompt may wait for those before it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Its tokens, and when each came: seconds on the clock that all processes share."""

    asked_s: float
    tokens: tuple[int, ...]
    came_s: tuple[float, ...]

    @property
    def first_s(self) -> float:
        """From the question to the first token."""
        return self.came_s[0] - self.asked_s

    @property
    def stall_s(self) -> float:
        """The longest silence between two tokens."""
        return max(later - sooner for sooner, later in pairwise(self.came_s))


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """Of all together, from the first question to the last token."""
    took_s = max(one.came_s[-1] for one in answers) - min(one.asked_s for one in answers)
    return sum(len(one.tokens) for one in answers) / took_s


def whole(url: str, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """All tokens of an answer: a stream leaves out those that end inside of a code point."""
    exchange = _asked(url, prompt, max_tokens, stream=False)
    body = json.loads(exchange.raw.partition(b"\r\n\r\n")[2])
    tokens: list[int] = body["tokens"]
    return tokens


def streamed(url: str, prompt: Sequence[int], max_tokens: int, n_probs: int = 0) -> Answer:
    """An answer as it comes."""
    exchange = _asked(url, prompt, max_tokens, n_probs=n_probs, stream=True)
    tokens: list[int] = []
    came_s: list[float] = []
    seen = b""
    for at, data in exchange.came:
        *lines, seen = (seen + data).split(b"\n")
        for line in lines:
            told = json.loads(line[6:]) if line.startswith(b"data: {") else {}
            if told and not told["stop"]:
                tokens += told["tokens"]
                came_s += [at] * len(told["tokens"])
    return Answer(exchange.sent_s, tuple(tokens), tuple(came_s))


def _asked(
    url: str, prompt: Sequence[int], max_tokens: int, *, n_probs: int = 0, stream: bool
) -> Exchange:
    """llama.cpp's own route, by token ids, greedy."""
    body = {
        "prompt": list(prompt),
        "n_predict": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "return_tokens": True,
        "n_probs": n_probs,
        "stream": stream,
    }
    http = HttpSocket(url, timeout_s=LINE_S)
    try:
        return http.post("/completion", body, {})
    finally:
        http.close()

"""The engine without a cluster, with many answers at once. A companion.

    python -m tests.benchmarks.engine.ours <path of a GGUF> <slots> <context tokens> <threads>

Hardware and chunks are what the environment says, as for a worker.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

from inference_worker.config import WorkerSettings
from inference_worker.engine import SequenceSpec, Step
from inference_worker.llama_engine import LlamaSettings, open_llama_engine
from replay.request import SamplingParams
from tests.benchmarks.companion import serve


class Ours:
    """An engine; ``steps`` are all that it told, each with its time."""

    def __init__(self, settings: LlamaSettings) -> None:
        self._engine = open_llama_engine(settings)
        self._loop = asyncio.get_running_loop()
        self._names = count()
        self._steps: list[tuple[float, Step]] = []
        self._changed = asyncio.Event()
        self._engine.start(self._take)

    def _take(self, steps: Sequence[Step]) -> None:
        """On the engine's thread."""
        at = time.monotonic()
        self._steps += [(at, step) for step in steps]
        if any(step.tokens or step.finish for step in steps):
            self._loop.call_soon_threadsafe(self._changed.set)

    async def tokens(self, text: str) -> list[int]:
        """A text's tokens, the names of special ones among them."""
        return self._engine.tokenize(text, add_special=True, parse_special=True)

    async def run(
        self, asked: list[tuple[list[int], int]], late: int = 0, n_probs: int = 0
    ) -> list[dict[str, Any]]:
        """The answers to prompts of token ids, each with its length. The last ``late`` are asked
        when all others answer."""
        self._steps.clear()
        begun: dict[str, float] = {}
        for place, (prompt, max_tokens) in enumerate(asked):
            if place == len(asked) - late:
                await self._until(lambda: all(map(self._told, begun)))
            begun[self._submit(prompt, max_tokens, n_probs)] = time.monotonic()
        await self._until(lambda: sum(bool(step.finish) for _, step in self._steps) == len(asked))
        return [self._answer(name, at) for name, at in begun.items()]

    def _submit(self, prompt: list[int], max_tokens: int, n_probs: int) -> str:
        name = str(next(self._names))
        sampling = SamplingParams(
            seed=1, temperature=0, ignore_eos=True, logprobs=n_probs > 0, n_probs=n_probs
        )
        self._engine.submit(
            SequenceSpec(name, tuple(prompt), sampling, max_tokens=max_tokens, cache_prompt=False)
        )
        return name

    def _told(self, name: str) -> bool:
        return any(step.tokens for _, step in self._steps if step.sequence_id == name)

    async def _until(self, condition: Any) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _answer(self, name: str, asked_s: float) -> dict[str, Any]:
        told = [(at, step) for at, step in self._steps if step.sequence_id == name]
        likely = [one for _, step in told for one in step.logprobs]
        return {
            "asked_s": asked_s,
            "tokens": [token for _, step in told for token in step.tokens],
            "came_s": [at for at, step in told for _ in step.tokens],
            "likely": [{c.token: c.likelihood for c in one.top} for one in likely],
        }

    async def serve(self) -> None:
        """Answers until nobody asks any more."""
        try:
            await serve({"tokens": self.tokens, "run": self.run})
        finally:
            self._engine.close()


async def run(path: str, slots: str, context_tokens: str, threads: str) -> None:
    """Loads the model, then answers."""
    worker = WorkerSettings()
    await Ours(
        LlamaSettings(
            Path(path),
            "ours",
            slots=int(slots),
            context_tokens=int(context_tokens),
            threads=int(threads),
            prefill_chunk_tokens=worker.prefill_chunk_tokens,
            hardware=worker.hardware(),
        )
    ).serve()


if __name__ == "__main__":
    uvloop.run(run(*sys.argv[1:]))

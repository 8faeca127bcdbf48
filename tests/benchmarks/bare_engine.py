"""The engine without a cluster around it: the floor of the first token. A companion.

    python -m tests.benchmarks.bare_engine <path of a GGUF>

Loaded with a worker's own settings, by the worker's own function.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from inference_worker.config import WorkerSettings
from inference_worker.engine import SequenceSpec, Step
from inference_worker.models import open_engine
from replay.request import SamplingParams
from tests.benchmarks.companion import serve


class BareEngine:
    """One prompt at a time."""

    def __init__(self, path: Path) -> None:
        self._engine = open_engine(WorkerSettings(), "bare", path, lambda name, progress: None)
        self._loop = asyncio.get_running_loop()
        self._first_s = 0.0
        self._finished = asyncio.Event()
        self._engine.start(self._take)

    def _take(self, steps: Sequence[Step]) -> None:
        """On the engine's thread."""
        if not self._first_s and any(step.text for step in steps):
            self._first_s = time.perf_counter()
        if any(step.finish for step in steps):
            self._loop.call_soon_threadsafe(self._finished.set)

    async def first_token(self, text: str, max_tokens: int) -> dict[str, float]:
        """Seconds from the message to its first text: template, tokens, prefill, first sample."""
        self._first_s = 0.0
        self._finished.clear()
        began_s = time.perf_counter()
        prompt = tuple(self._engine.prompt_tokens([{"role": "user", "content": text}]))
        sampling = SamplingParams(seed=1, temperature=0.0)
        self._engine.submit(
            SequenceSpec(id=text, prompt=prompt, sampling=sampling, max_tokens=max_tokens)
        )
        await self._finished.wait()
        return {"took_s": self._first_s - began_s, "prompt_tokens": len(prompt)}

    async def serve(self) -> None:
        """Answers until nobody asks any more."""
        try:
            await serve({"first_token": self.first_token})
        finally:
            self._engine.close()


async def run(path: Path) -> None:
    """Loads the model, then answers."""
    await BareEngine(path).serve()


if __name__ == "__main__":
    uvloop.run(run(Path(sys.argv[1])))

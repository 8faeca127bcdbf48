"""How far a prompt is computed, as a client may want to be told before the answer begins."""

from __future__ import annotations

import time

from inference_worker.engine import Step, Timings
from inference_worker.rendering import Renderer
from inference_worker.rendering.parts import Progress


class PromptProgress:
    """Tells each stage of one choice's prompt once: what a cache held, then after each chunk."""

    def __init__(self, renderer: Renderer, *, with_timings: bool = False) -> None:
        self._renderer = renderer
        self._with_timings = with_timings
        self._told_tokens = -1
        self._begun_s = time.monotonic()

    def told(self, step: Step) -> bytes:
        """The frames of what a step has computed; b"" where that is nothing new."""
        is_first = self._told_tokens < 0
        stages = ([step.prompt_tokens_cached] if is_first else []) + [step.prompt_tokens_done]
        return b"".join(self._stage(step, done) for done in stages)

    def _stage(self, step: Step, done: int) -> bytes:
        if not self._told_tokens < done <= step.prompt_tokens_total:
            return b""
        self._told_tokens = done
        cached = step.prompt_tokens_cached
        spent_ms = (time.monotonic() - self._begun_s) * 1000 if done > cached else 0.0
        timings = Timings(done - cached, spent_ms, 0, 0.0, cached) if self._with_timings else None
        return self._renderer.progress(
            Progress(step.prompt_tokens_total, cached, done, round(spent_ms), timings)
        )

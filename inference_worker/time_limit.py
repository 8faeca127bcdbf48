"""A limit on the time of an answer, as llama.cpp's ``t_max_predict_ms`` has it.

It is no function of the tokens, so nobody can decide it twice the same: the worker that produces
the answer ends it, and that the answer ends is in the log. Who takes it over counts anew.
"""

from __future__ import annotations

from inference_worker.engine import Step


class TimeLimit:
    """How long one choice may go on after its first token, once it has shown a whole line."""

    def __init__(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self._has_line = False

    def is_over(self, step: Step) -> bool:
        """Whether the answer is to end with this step."""
        self._has_line = self._has_line or "\n" in step.text
        spent_ms = step.timings.predicted_ms if step.timings else 0.0
        return self._has_line and spent_ms > self._limit_ms

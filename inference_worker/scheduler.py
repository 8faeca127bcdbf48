"""What the next step feeds: one token of every running answer, or one chunk of one prompt.

Pure. It must not know models, threads or clocks. Prompt chunks and answers never share a step:
llama.cpp would split a mixed batch by what else is in it, and a prompt's keys and values would
depend on its neighbours. Taking turns also bounds the stall of running answers to one chunk.
Where numbers depend on neighbours anyway, as on a GPU, several short prompts make up one chunk.

A decode has one set of adapters, so answers with others are fed in another step. With any, each is
fed alone, but where numbers depend on neighbours anyway: llama.cpp multiplies with an adapter's
matrices, which are not quantized, in another way for one token than for several. For most types of
a model's own weights there is such a bound too.
"""

from __future__ import annotations

from collections.abc import Iterator

from inference_worker.sequence import Sequence, State
from replay.adapters import Applied

PASSED_OVER_MAX = 4
"""So many chunks in a row may go past the prompt that came first: it has a fifth of them at least,
so every prompt comes to its end, whatever comes after it."""


class Scheduler:
    """Holds every sequence that has not finished, and whose turn it is.

    Owned by the batch loop's thread.
    """

    def __init__(self, shared_tokens: int = 0, answers_max: int = 0) -> None:
        """Prompts share a step of up to ``shared_tokens``; with 0 each has its own, and so has each
        answer with adapters. Up to ``answers_max`` answers share one; with 0 all do."""
        self._shared_tokens = shared_tokens
        self._answers_max = answers_max
        self._prompts: list[Sequence] = []
        """In the order in which they came."""
        self._answers: dict[int, Sequence] = {}
        """By slot, in their order: llama.cpp can compute neighbouring slots in one micro-batch."""
        self._applied: Applied = ()
        """The adapters of the last step."""
        self._passed_over = 0
        self._steps = self._rounds()

    def __len__(self) -> int:
        return len(self._prompts) + len(self._answers)

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence, whose prompt is to be fed."""
        self._prompts.append(sequence)

    def next_step(self) -> tuple[Sequence, ...]:
        """The sequences of the next step: answers that may share it, or the prompts whose turn it
        is, all with the same adapters.

        All answers have one step between any two of prompts. Empty when nothing runs.
        """
        step = next(self._steps)
        if step:
            self._applied = step[0].spec.adapters
        return step

    def settle(self, sequence: Sequence) -> None:
        """Files a sequence where its state now belongs: with the answers, or nowhere."""
        if sequence.state is State.FINISHED:
            if sequence in self._prompts:
                self._prompts.remove(sequence)
            else:
                self._answers.pop(sequence.slot, None)
        elif sequence.state in (State.REPLAY, State.DECODE) and sequence.slot not in self._answers:
            self._prompts.remove(sequence)
            self._answers = dict(sorted({**self._answers, sequence.slot: sequence}.items()))

    def _rounds(self) -> Iterator[tuple[Sequence, ...]]:
        """Without an end: a step of prompts, then one of each answer."""
        while True:
            if self._prompts:
                yield tuple(self._next_prompts())
            for company in self._companies():
                if step := tuple(answer for answer in company if answer.finish is None):
                    yield step
            if not self:
                yield ()

    def _companies(self) -> list[list[Sequence]]:
        """The answers by who may share a step; those first that need no change of adapters."""
        found: dict[tuple[bool, Applied, int], list[Sequence]] = {}
        for slot, answer in self._answers.items():
            adapters = answer.spec.adapters
            alone = slot if adapters and not self._shared_tokens else -1
            company = (adapters != self._applied, adapters, alone)
            found.setdefault(company, []).append(answer)
        size = self._answers_max or max(1, len(self._answers))
        return [
            found[company][first : first + size]
            for company in sorted(found)
            for first in range(0, len(found[company]), size)
        ]

    def _next_prompts(self) -> list[Sequence]:
        """The one with the fewest tokens left, the first of equals: that has the most of them
        answer soonest; behind others what could not be fed when it had its turn. Then the next
        ones, as far as they fit beside it."""
        oldest = self._prompts[0]
        waiting = sorted(
            self._prompts, key=lambda prompt: (prompt.fruitless_turns, prompt.prompt_tokens_left)
        )
        if self._passed_over == PASSED_OVER_MAX:
            waiting.sort(key=lambda prompt: prompt is not oldest)
        chosen: list[Sequence] = []
        room = self._shared_tokens
        for prompt in waiting:
            if prompt.spec.adapters != waiting[0].spec.adapters:
                continue
            room -= len(prompt.next_feed())
            if chosen and room < 0:
                break
            chosen.append(prompt)
            prompt.fruitless_turns += 1
        self._passed_over = 0 if oldest in chosen else self._passed_over + 1
        return chosen

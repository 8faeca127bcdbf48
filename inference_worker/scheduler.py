"""What the next step feeds: one token of every running answer, or one chunk of one prompt.

Pure. It must not know models, threads or clocks. Prompt chunks and answers never share a step:
llama.cpp would split a mixed batch by what else is in it, and a prompt's keys and values would
depend on its neighbours. Taking turns also bounds the stall of running answers to one chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from inference_worker.sequence import Sequence, State


class Scheduler:
    """Holds every sequence that has not finished, and whose turn it is.

    Owned by the batch loop's thread.
    """

    def __init__(self) -> None:
        self._prompts: deque[Sequence] = deque()
        self._answers: list[Sequence] = []
        self._answers_turn = False

    def __len__(self) -> int:
        return len(self._prompts) + len(self._answers)

    def sequences(self) -> Iterable[Sequence]:
        """Everything that runs, prompts in the order of their turns, then answers by slot."""
        return (*self._prompts, *self._answers)

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence's prompt behind the others."""
        self._prompts.append(sequence)

    def next_step(self) -> tuple[Sequence, ...]:
        """The sequences of the next step: all answers, or the one prompt whose turn it is.

        Answers and prompts alternate while there are both, prompts take turns among themselves.
        Empty when nothing runs.
        """
        if self._answers and (self._answers_turn or not self._prompts):
            self._answers_turn = False
            return tuple(self._answers)
        self._answers_turn = True
        if not self._prompts:
            return ()
        self._prompts.rotate(-1)
        return (self._prompts[-1],)

    def settle(self, sequence: Sequence) -> None:
        """Files a sequence where its state now belongs: with the answers, or nowhere."""
        if sequence.state is State.FINISHED:
            self._drop(sequence)
        elif sequence.state in (State.REPLAY, State.DECODE) and sequence not in self._answers:
            self._drop(sequence)
            # By slot: neighbouring slots are what llama.cpp can compute in one micro-batch.
            self._answers.append(sequence)
            self._answers.sort(key=lambda answer: answer.slot)

    def _drop(self, sequence: Sequence) -> None:
        for group in (self._prompts, self._answers):
            if sequence in group:
                group.remove(sequence)

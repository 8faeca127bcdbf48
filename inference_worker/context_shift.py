"""What leaves a context that is full, so that the answer goes on. Pure.

It follows from the prompt's length, the answer's length and the record alone, so another worker
that feeds the same tokens one by one forgets the same ones at the same places.
"""

from __future__ import annotations

from dataclasses import dataclass

from replay.request import ContextOptions

KEPT_TOKENS_MIN = 1
"""Models lean on their first token: without it they fall into gibberish."""

FREE_TOKENS_MIN = 4
"""What is kept leaves room for so many tokens at least."""

ANSWER_CONTEXTS_MAX = 8
"""An answer without a limit ends when it is as long as so many contexts: every session ends."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens that leave a KV cache: so many, from the position ``first`` on."""

    first: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Shift:
    """How a session's context shifts, in llama.cpp's terms.

    ``keep`` tokens stay at the beginning, -1 for the whole prompt; of the others the first
    ``discard`` leave, or half of them where it is 0.
    """

    context_tokens: int
    keep: int = 0
    discard: int = 0

    @classmethod
    def of(cls, context: ContextOptions) -> Shift | None:
        """As a session's record has it; None where the context does not shift."""
        if not context.shift_at:
            return None
        return cls(context.shift_at, context.n_keep, context.n_discard)

    def gap(self, *, prompt_tokens: int, held: int) -> Gap | None:
        """What must leave before the next token is fed; ``held`` tokens are in the cache."""
        if held + 1 < self.context_tokens:
            return None
        wanted = prompt_tokens if self.keep < 0 else max(self.keep, KEPT_TOKENS_MIN)
        first = min(wanted, self.context_tokens - FREE_TOKENS_MIN)
        rest = held - first
        return Gap(first, min(self.discard or rest // 2, rest))

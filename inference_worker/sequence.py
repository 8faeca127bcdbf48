"""The life of one sequence inside the engine's batch.

Pure bookkeeping: which tokens are fed next, what a sampled token shows, when it is over. It must
not know models, threads or clocks; the batch loop's thread is its only owner.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from enum import StrEnum

from inference_worker.context_shift import ANSWER_CONTEXTS_MAX, Gap
from inference_worker.engine import (
    Finish,
    FinishReason,
    SequenceSpec,
    Step,
    Timings,
    TokenLogprobs,
)
from inference_worker.text import TextAssembler
from inference_worker.thought_limit import ThoughtWatch


class State(StrEnum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    PREFILL = "prefill"
    REPLAY = "replay"
    DECODE = "decode"
    FINISHED = "finished"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.PREFILL, State.REPLAY, State.DECODE, State.FINISHED}),
    State.PREFILL: frozenset({State.PREFILL, State.REPLAY, State.DECODE, State.FINISHED}),
    State.REPLAY: frozenset({State.REPLAY, State.DECODE, State.FINISHED}),
    State.DECODE: frozenset({State.DECODE, State.FINISHED}),
    State.FINISHED: frozenset(),
}
"""From each state, the states that may follow: of PREFILL and REPLAY either may have no step."""


class Sequence:
    """One session in its slot: the tokens it has, how many of them the KV cache holds."""

    def __init__(
        self, spec: SequenceSpec, *, slot: int, context_tokens: int, chunk_tokens: int
    ) -> None:
        self.spec = spec
        self.slot = slot
        self.sampled: list[int] = []
        """Of all attempts."""
        self.fed_tokens = 0
        """How many of prompt + sampled were put into the KV cache."""
        self.forgotten_tokens = 0
        """How many of them it has forgotten since, to make room."""
        self.cached_tokens = 0
        """How many of the prompt it held before anything was fed."""
        self.fruitless_turns = 0
        """How often in a row it had its turn, and nothing of it was fed."""
        self.state = State.WAITING
        self.finish: Finish | None = None
        self.first_draw = len(spec.sampled)
        """The index of the first token that is drawn; before it, no logits are needed."""
        self.is_forced = False
        """Whether the token that it took last was not sampled."""
        self._context_tokens = context_tokens
        self._chunk_tokens = chunk_tokens
        self._text = TextAssembler(spec.stop, indent=spec.indent)
        self._logprobs = _UnshownLogprobs() if spec.sampling.logprobs else None
        self._thought = ThoughtWatch(spec.thought) if spec.thought else None

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.spec.id} slot {self.slot} {self.state}: "
            f"{self.fed_tokens} fed of {self.prefill_tokens}, {len(self.sampled)} sampled>"
        )

    @property
    def prefill_tokens(self) -> int:
        """Tokens to feed before the first new one: the prompt, then the earlier attempt's."""
        return len(self.spec.prompt) + len(self.spec.sampled)

    @property
    def prompt_tokens_left(self) -> int:
        """How many of the prompt are still to be fed."""
        return max(0, len(self.spec.prompt) - self.fed_tokens)

    @property
    def new_tokens(self) -> int:
        """Tokens that this attempt sampled."""
        return max(0, len(self.sampled) - len(self.spec.sampled))

    def whole_chunks(self, size: int) -> tuple[int, ...]:
        """The prompt's chunks of that size which the KV cache holds: what another prompt may begin
        with; none where it was fed in others."""
        if self.forgotten_tokens or size != self._chunk_tokens:
            return ()
        held = min(self.fed_tokens, len(self.spec.prompt))
        return self.spec.prompt[: held // size * size]

    @property
    def position(self) -> int:
        """Where the next token is fed."""
        return self.fed_tokens - self.forgotten_tokens

    @property
    def draws(self) -> bool:
        """Whether what was fed last gave the logits of a token."""
        return self.fed_tokens >= len(self.spec.prompt) + self.first_draw

    def begin(self, cached_tokens: int) -> None:
        """Notes how much of the prompt, in whole chunks, is in the slot's KV cache already."""
        self.cached_tokens = self.fed_tokens = cached_tokens

    def next_gap(self) -> Gap | None:
        """What the KV cache must forget before the next feed."""
        if self.spec.shift is None:
            return None
        return self.spec.shift.gap(prompt_tokens=len(self.spec.prompt), held=self.position)

    def shifted(self, gap: Gap) -> None:
        """Notes that the KV cache has forgotten it."""
        self.forgotten_tokens += gap.tokens

    def next_feed(self) -> tuple[int, ...]:
        """The tokens to feed next, at ``position``.

        What is fed with what must depend on prompt and answer alone, never on neighbours or on
        attempts: other shapes meet other kernels, which round differently, and a greedy answer
        then goes on in another way. So prompt chunks end at multiples of a fixed size, and what
        an earlier attempt sampled is fed one token at a time, as it was when it was sampled.
        """
        start, prompt = self.fed_tokens, self.spec.prompt
        if start < len(prompt):
            return prompt[start : (start // self._chunk_tokens + 1) * self._chunk_tokens]
        return (self.sampled[start - len(prompt)],)

    def fed(self, tokens: int) -> None:
        """Notes that the KV cache holds so many more."""
        self.fruitless_turns = 0
        self.fed_tokens += tokens
        if self.fed_tokens < len(self.spec.prompt):
            self._enter(State.PREFILL)
        elif self.fed_tokens < self.prefill_tokens:
            self._enter(State.REPLAY)
        else:
            self._enter(State.DECODE)

    @property
    def next_forced(self) -> int | None:
        """The token that it must take next, to end its thought; None where it may sample."""
        return self._thought.next_forced if self._thought else None

    def end_thought(self) -> None:
        """Lets its thought end."""
        if self._thought:
            self._thought.is_ordered = True

    def accept(
        self, token: int, piece: bytes, *, ends: bool, logprobs: TokenLogprobs | None = None
    ) -> str:
        """Takes a token, sampled or ``next_forced``, and returns the text that it lets show.

        ``ends`` says that it is an end-of-generation token. Afterwards ``finish`` may be set; what
        is still held back then comes from ``flush``.
        """
        if self._logprobs is not None and not ends:
            self._logprobs.add(len(self.sampled), piece, logprobs)
        self.is_forced = self._forces(len(self.sampled))
        if self._thought:
            self._thought.accept(piece, is_forced=self.is_forced)
        self.sampled.append(token)
        shown = "" if ends else self._show(self._text.feed(piece))
        finish = self._finish_after(ends=ends)
        if finish:
            self.end(finish)
        return shown

    def replay(self, piece: Callable[[int], bytes], ends: Callable[[int], bool]) -> None:
        """Accepts what an earlier attempt sampled; afterwards ``finish`` may be set.

        Some of it is drawn once more: all where the samplers have a state that no token tells, else
        the tokens whose probabilities are still to be shown.
        """
        if self.spec.max_tokens == 0:
            self.end(Finish(FinishReason.LENGTH))
        for token in self.spec.sampled:
            if self.finish is None:
                self.accept(token, piece(token), ends=ends(token))
        self.take_logprobs()
        if self.spec.sampling.is_stateful:
            self.first_draw = 0
        elif self._logprobs is not None:
            self.first_draw -= len(self._logprobs)

    def flush(self) -> str:
        """The text held back until the end; call it once, after ``finish`` is set."""
        return self._show(self._text.finish())

    def redrawn(self, index: int, logprobs: TokenLogprobs | None) -> None:
        """Notes the probabilities of a token that an earlier attempt sampled."""
        if self._logprobs is not None:
            self._logprobs.fill(index, logprobs)

    def take_logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Those of the tokens that began to show since they were last taken."""
        return self._logprobs.take() if self._logprobs else ()

    def step(self, tokens: tuple[int, ...], text: str, timings: Timings | None) -> Step:
        """What is to be told of it: these new tokens, this text, and how far it is."""
        return Step(
            self.spec.id,
            tokens=tokens,
            text=text,
            logprobs=self.take_logprobs(),
            is_forced=bool(tokens) and self.is_forced,
            finish=self.finish,
            prompt_tokens_done=min(self.fed_tokens, len(self.spec.prompt)),
            prompt_tokens_total=len(self.spec.prompt),
            prompt_tokens_cached=self.cached_tokens,
            timings=timings,
        )

    def _show(self, text: str) -> str:
        if self._logprobs is not None:
            self._logprobs.show(len(text))
        return text

    def end(self, finish: Finish) -> None:
        """Finishes the sequence, from any state but FINISHED."""
        self._enter(State.FINISHED)
        self.finish = finish

    def _forces(self, index: int) -> bool:
        """Whether the token at this index is not sampled; an earlier attempt's says it itself."""
        if index < len(self.spec.sampled):
            return index in self.spec.forced
        return self.next_forced is not None

    def _finish_after(self, *, ends: bool) -> Finish | None:
        spec = self.spec
        used = len(spec.prompt) + len(self.sampled)
        shifted = spec.shift is not None and used > spec.shift.context_tokens
        if ends:
            return Finish(FinishReason.STOP, shifted=shifted)
        if self._text.stopping_word:
            word = self._text.stopping_word
            return Finish(FinishReason.STOP, stopping_word=word, shifted=shifted)
        if self._text.is_dedented or 0 <= spec.max_tokens <= len(self.sampled):
            return Finish(FinishReason.LENGTH, shifted=shifted)
        if spec.shift is None and used >= self._context_tokens:
            return Finish(FinishReason.LENGTH, context_full=True)
        if spec.shift and len(self.sampled) >= ANSWER_CONTEXTS_MAX * spec.shift.context_tokens:
            return Finish(FinishReason.LENGTH, context_full=True, shifted=True)
        return None

    def _enter(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"{self!r} cannot become {state}"
        self.state = state


class _UnshownLogprobs:
    """The probabilities of tokens of which nothing is shown yet.

    What is held back for half a code point or a stop string holds its probabilities back too, and
    a token that is never shown never tells them. It is a function of the tokens alone, so that
    another attempt knows which are still to be told.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[int, TokenLogprobs | None]] = {}
        """By a token's index: which character it begins or ends, and its probabilities."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._fed_characters = 0
        self._shown_characters = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, index: int, piece: bytes, logprobs: TokenLogprobs | None) -> None:
        self._waiting[index] = (self._fed_characters, logprobs)
        self._fed_characters += len(self._decoder.decode(piece))

    def fill(self, index: int, logprobs: TokenLogprobs | None) -> None:
        if index in self._waiting:
            self._waiting[index] = (self._waiting[index][0], logprobs)

    def show(self, characters: int) -> None:
        self._shown_characters += characters

    def take(self) -> tuple[TokenLogprobs, ...]:
        shown = [
            index for index, (start, _) in self._waiting.items() if start < self._shown_characters
        ]
        told = [self._waiting.pop(index)[1] for index in shown]
        return tuple(logprobs for logprobs in told if logprobs is not None)

"""The answers of one session: for each a sequence that makes it and a renderer that tells it.

They share the session's log, where each token says whose it is. A takeover brings all of them to
where the log ends, in the order in which it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from inference_worker.context_shift import Shift
from inference_worker.engine import (
    Engine,
    Finish,
    FinishReason,
    SequenceSpec,
    Step,
    ThoughtLimit,
)
from inference_worker.progress import PromptProgress
from inference_worker.rendering import Renderer, renderers_of
from inference_worker.rendering.parts import PROGRESS_KEY, Progress
from inference_worker.text import TextAssembler
from inference_worker.time_limit import TimeLimit
from replay.records import TOKEN_CUT, TOKEN_FORCED, TOKEN_LAST, Chunk, SessionRecord, Token
from replay.request import SEED_MAX, GenerationRequest


class Stage(StrEnum):
    """How far a choice is."""

    WAITING = "waiting"
    """It has no slot yet."""
    RUNNING = "running"
    OVER = "over"


@dataclass(slots=True, eq=False)
class Choice:
    """One answer; ``tokens`` is how many it has, of all attempts. ``slot`` is where it runs or ran.
    ``progress`` tells of its prompt, where somebody wants that, and no earlier attempt has;
    ``is_late``: its time was over.

    One that ``has_ended`` is complete; one that is over without that was stopped.
    """

    index: int
    renderer: Renderer
    spec: SequenceSpec
    tokens: int = 0
    prompt_tokens_done: int = 0
    prompt_tokens_cached: int = 0
    stage: Stage = Stage.WAITING
    slot: int = -1
    has_ended: bool = False
    is_cut: bool = False
    progress: PromptProgress | None = None
    time_limit: TimeLimit | None = None
    is_late: bool = False

    def think_no_more(self) -> None:
        """Its thought is to end with its first token, where it thinks."""
        if (thought := self.spec.thought) is not None:
            self.spec = replace(self.spec, thought=replace(thought, is_over=True))

    def progressed(self, step: Step) -> None:
        """Notes how far its sequence is."""
        self.tokens += len(step.tokens)
        self.prompt_tokens_done = step.prompt_tokens_done
        self.prompt_tokens_cached = step.prompt_tokens_cached

    def has_become_late(self, step: Step) -> bool:
        """Whether its time is over now, so that its sequence is to be stopped."""
        if self.time_limit is None or self.is_late or step.finish:
            return False
        self.is_late = self.time_limit.is_over(step)
        return self.is_late

    def finish_of(self, step: Step) -> Finish | None:
        """How a step ends it: one that was stopped for its time has used up its length."""
        if step.finish and step.finish.reason is FinishReason.STOPPED and self.is_late:
            return Finish(FinishReason.LENGTH)
        return step.finish

    def ended(self, flags: int) -> None:
        """Its last token had these flags."""
        self.stage, self.has_ended = Stage.OVER, True
        self.is_cut = bool(flags & TOKEN_CUT)


def last_flags(finish: Finish) -> int:
    """What the log says of the token with which a choice ended."""
    return TOKEN_LAST | (TOKEN_CUT if finish.reason is FinishReason.LENGTH else 0)


def choices_of(
    engine: Engine,
    record: SessionRecord,
    request: GenerationRequest,
    tokens: Sequence[Token],
    body: Sequence[Chunk] = (),
) -> list[Choice]:
    """All answers, as far as the log's ``tokens`` and ``body`` are."""
    choices = [
        Choice(index, renderer, _spec(record, request, index, tokens))
        for index, renderer in enumerate(renderers_of(record, request))
    ]
    if request.render.return_progress and record.attempt <= 1:
        for choice in choices:
            choice.progress = PromptProgress(
                choice.renderer, with_timings=request.render.timings_per_token
            )
    elif any(PROGRESS_KEY in chunk.data for chunk in body):
        for choice in choices:  # what it tells before an answer's beginning may be a part of that
            choice.renderer.progress(Progress(total=0, cache=0, processed=0, time_ms=0))
    if request.max_predict_ms >= 0:
        for choice in choices:
            choice.time_limit = TimeLimit(request.max_predict_ms)
    texts = [TextAssembler(request.stop, indent=request.indent) for _ in choices]
    shown = frozenset(request.format.shown_tokens)
    for token in tokens:
        piece = engine.spelling(token.id) if token.id in shown else engine.piece(token.id)
        _replay(choices[token.choice], texts[token.choice], token, piece)
    return choices


def _replay(choice: Choice, text: TextAssembler, token: Token, piece: bytes) -> None:
    """Brings the renderer past a token; what it renders stands in the log already."""
    choice.tokens += 1
    is_last = bool(token.flags & TOKEN_LAST)
    shown = text.feed(piece) + (text.finish() if is_last else "")
    choice.renderer.step(shown, tokens=choice.tokens, timings=None, ids=(token.id,))
    if is_last:
        choice.ended(token.flags)
        reason = FinishReason.LENGTH if choice.is_cut else FinishReason.STOP
        choice.renderer.finish(Finish(reason), tokens=choice.tokens, timings=None)


def _spec(
    record: SessionRecord, request: GenerationRequest, index: int, tokens: Sequence[Token]
) -> SequenceSpec:
    path, own = record.ref.path(), [token for token in tokens if token.choice == index]
    prompt, number = divmod(index, request.n)
    # The first answer to each prompt is the one that the prompt alone would get.
    sampling = replace(request.sampling, seed=(request.sampling.seed + number) % (SEED_MAX + 1))
    return SequenceSpec(
        id=f"{path} {index}" if index else path,
        prompt=request.prompt_of(record.prompt, prompt),
        sampling=sampling,
        sampled=tuple(token.id for token in own),
        stop=request.stop,
        max_tokens=request.max_tokens,
        prefill_chunk_tokens=record.prefill_chunk_tokens,
        cache_prompt=request.context.cache_prompt,
        shift=Shift.of(request.context),
        indent=request.indent,
        adapters=request.adapters,
        forced=frozenset(i for i, token in enumerate(own) if token.flags & TOKEN_FORCED),
        thought=_thought_limit(record, request),
        shown_tokens=frozenset(request.format.shown_tokens),
    )


def _thought_limit(record: SessionRecord, request: GenerationRequest) -> ThoughtLimit | None:
    form, wanted = request.format, request.reasoning
    if not form.thought_closing or not wanted.is_limited:
        return None
    return ThoughtLimit(
        form.thought_begin,
        form.thought_end,
        form.thought_closing,
        is_open=form.is_thought_open,
        budget_tokens=wanted.budget_tokens,
        is_over=bool(record.reasoning_end),
    )

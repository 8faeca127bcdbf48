"""What each request's answer must be, known before anything is broken.

A script tells its answer; a real model is asked once, without faults, and at temperature 0 says
the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from inference_worker.batch_loop import BatchEngine
from inference_worker.scripted_engine import open_scripted_engine, scripted_tokens
from replay.request import GenerationRequest

from .oracle import Answer, Evidence
from .plan import Ask
from .readers import Lines, ask
from .told import parse_log

AnswerOf = Callable[[GenerationRequest], Answer]


@cache
def _engine() -> BatchEngine:
    return open_scripted_engine()


def scripted(request: GenerationRequest) -> Answer:
    """The scripted engine's answer to a request with one message and at most one stop string."""
    engine = _engine()
    prompt = engine.prompt_tokens([dict(one) for one in request.messages])
    stop = request.stop[0] if request.stop else ""
    shown = b""
    sampled: list[int] = []
    reason = "length"
    for token in scripted_tokens(prompt, request.sampling):
        if len(sampled) == request.max_tokens:
            break
        sampled.append(token)
        shown += engine.piece(token)
        if stop and stop.encode() in shown:
            shown, reason = shown.partition(stop.encode())[0], "stop"
            break
    else:
        reason = "stop"
    return Answer(shown.decode("utf-8", "replace"), len(sampled), reason, tuple(sampled))


async def rehearsed(asks: Sequence[Ask], lines: Lines) -> AnswerOf:
    """Asks all of it once, and remembers the answers."""
    known: dict[tuple[str, int], Answer] = {}
    for words, max_tokens in {(one.words, one.max_tokens) for one in asks}:
        evidence = Evidence()
        name = f"rehearsal-{len(known)}"
        asked = Ask(name=name, words=words, at_s=0.0, node=0, max_tokens=max_tokens)
        await ask(asked, name, lines, evidence)
        told = parse_log(b"".join(segment.data for segment in evidence.segments))
        [reason], [usage] = told.finishes, told.usage
        known[words, max_tokens] = Answer(told.text, usage["completion_tokens"], reason)
    return lambda request: known[request.messages[0]["content"], request.max_tokens]

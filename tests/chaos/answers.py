"""What each request's answer must be, known before it was asked."""

from __future__ import annotations

from functools import cache

from inference_worker.batch_loop import BatchEngine
from inference_worker.scripted_engine import open_scripted_engine, scripted_tokens
from replay.request import GenerationRequest

from .oracle import Answer


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
    for token in scripted_tokens(prompt, request.sampling):
        if len(sampled) == request.max_tokens:
            return Answer(shown.decode("utf-8", "replace"), tuple(sampled), "length")
        sampled.append(token)
        shown += engine.piece(token)
        if stop and stop.encode() in shown:
            return Answer(shown.decode().partition(stop)[0], tuple(sampled), "stop")
    return Answer(shown.decode(), tuple(sampled), "stop")

"""A session's frames as a worker renders them, with prose in them: that of our own documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice

from deploy.bootstrap import ROOT
from inference_worker.answer import PlainParser
from inference_worker.rendering.openai_chat import ChatRenderer
from replay.records import SessionRecord
from replay.request import GenerationRequest, SamplingParams

DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "PROTOCOL.md", "README.md", "deploy/RUNBOOK.md")
TOKEN = re.compile(r"\s?[^\s]{1,6}|\s")
"""Pieces of 4 to 5 characters, as a tokenizer's are on English."""


@cache
def _tokens() -> tuple[str, ...]:
    text = "\n".join((ROOT / name).read_text("utf-8") for name in DOCUMENTS)
    return tuple(TOKEN.findall(text))


def frames(record: SessionRecord, count: int) -> Iterator[bytes]:
    """The bytes of so many tokens, one piece a token."""
    request = GenerationRequest("openai.chat", "m", (), SamplingParams(seed=0))
    renderer = ChatRenderer(record, request, PlainParser())
    for number, text in enumerate(islice(cycle(_tokens()), count), 1):
        yield renderer.step(text, tokens=number, timings=None)

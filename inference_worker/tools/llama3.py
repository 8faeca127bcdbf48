"""Llama 3: an answer that is one JSON object, or what follows ``<|python_tag|>``. Pure."""

from __future__ import annotations

from inference_worker.tools.reading import (
    Output,
    Reading,
    call,
    content_until,
    refused,
    visible,
)

TAG = "<|python_tag|>"


def read(output: Output) -> Reading[None]:
    """Calls at the beginning or after the tag; several may stand after one another."""
    yield from _calls(output)
    while True:
        yield from content_until(output, TAG)
        yield from _calls(output)


def _calls(output: Output) -> Reading[None]:
    character = yield from visible()
    while (yield from call(output, character)):
        output.end()
        character = yield from visible()
        if character == ";":
            character = yield from visible()
    refused(output)

"""Hermes, Qwen and others: ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``. Pure."""

from __future__ import annotations

from inference_worker.tools.reading import (
    Output,
    Reading,
    call,
    closed,
    content_until,
    refused,
    visible,
)

BEGIN, END = "<tool_call>", "</tool_call>"


def read(output: Output) -> Reading[None]:
    """Content and calls, in any order."""
    while True:
        yield from content_until(output, BEGIN)
        character = yield from visible()
        if (yield from call(output, character)):
            yield from closed(output, END)
        else:
            refused(output)

"""An answer whose beginning the client gave: what is told of it, and of what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_worker.answer import ContentDelta, Delta, ToolArguments, ToolCallBegun
from inference_worker.parsers import parser_of
from replay.request import (
    AnswerFormat,
    ChatOptions,
    GenerationRequest,
    RenderOptions,
    SamplingParams,
)

SCHEMA = {"properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
REQUEST = GenerationRequest(
    "openai.chat", "m", (), SamplingParams(seed=0), chat=ChatOptions(tools=(ADD,))
)
CALL = '{"name": "add", "arguments": {"a": 2}}'
WHOLE = {
    "hermes": f"<tool_call>{CALL}</tool_call>",
    "llama3": CALL,
    "mistral": f"[TOOL_CALLS][{CALL}]",
    "mistral-named": '[TOOL_CALLS]add[ARGS]{"a": 2}',
    "generic": f'{{"tool_calls": [{CALL}]}}',
    "glm": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    "qwen-coder": "<tool_call><function=add><parameter=a>\n2\n</parameter></function></tool_call>",
}


def told(name: str, begun: str, text: str, *, is_shown: bool) -> list[Delta]:
    """The deltas of what follows the beginning, a character at a time; is that shown again?"""
    request = replace(
        REQUEST,
        format=AnswerFormat(tools=name, begun=begun),
        render=RenderOptions(prefill=begun if is_shown else ""),
    )
    parser = parser_of(request, id_seed="seed")
    return [*(delta for one in text for delta in parser.feed(one)), *parser.finish()]


def content_of(deltas: list[Delta]) -> str:
    return "".join(one.text for one in deltas if isinstance(one, ContentDelta))


@pytest.mark.parametrize("is_shown", [True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_a_call_that_was_begun_is_told_whole_wherever_it_was_cut(name: str, is_shown: bool) -> None:
    text = WHOLE[name]
    for cut in range(1, len(text) + 1):
        deltas = told(name, text[:cut], text[cut:], is_shown=is_shown)
        begun, *rest = deltas
        assert isinstance(begun, ToolCallBegun) and begun.name == "add"
        arguments = "".join(one.text for one in rest if isinstance(one, ToolArguments))
        assert (arguments, content_of(deltas)) == ('{"a": 2}', "")


@pytest.mark.parametrize(
    ("name", "begun", "text", "content"),
    [
        ("generic", '{"response": "On', 'e \\n"}', "e \n"),
        ("hermes", "<tool_call>[", "a]", "a]"),
        ("hermes", "<tool_call>{} ", "<tool_call>{}", "<tool_call>{}"),
        ("hermes", "<tool_call>", "", ""),
        ("hermes", "<tool_call>{", "", ""),
    ],
)
def test_content_is_not_told_again_to_who_does_not_want_it(
    name: str, begun: str, text: str, content: str
) -> None:
    assert content_of(told(name, begun, text, is_shown=False)) == content
    shown = content_of(told(name, begun, text, is_shown=True))
    assert shown.endswith(content) and len(shown) > len(content)

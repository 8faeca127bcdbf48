"""A real model, never taught any syntax of calls, calls tools in each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_recorder import Recorder, recording

from inference_worker.answer import ToolArguments, ToolCallBegun
from inference_worker.engine import SequenceSpec
from inference_worker.tools import GENERIC, SYNTAXES, Syntax, call_grammar, parser_of_calls
from replay.request import AnswerFormat, ChatOptions, SamplingParams

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
}
CITIES = {
    **PARAMETERS,
    "properties": {**PARAMETERS["properties"], "city": {"enum": ["Paris", "Oslo"]}},
}


def options(syntax: Syntax) -> ChatOptions:
    """Two tools. In tags a text has no end that this model would ever find."""
    parameters = CITIES if syntax.name == "qwen-coder" else PARAMETERS
    weather = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    now = {"type": "function", "function": {"name": "now"}}
    return ChatOptions(tools=(weather, now), tool_choice="required", parallel_tool_calls=False)


ALL = (*SYNTAXES, GENERIC)


@pytest.fixture(scope="module")
def recorder(model_file: Path) -> Iterator[Recorder]:
    settings = llama_engine.LlamaSettings(
        model_file, "m", slots=len(ALL), context_tokens=1024, threads=1
    )
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        yield recorder


def spec(recorder: Recorder, syntax: Syntax) -> SequenceSpec:
    asked = options(syntax)
    prompt = recorder.engine.prompt_tokens([{"role": "user", "content": "Weather?"}], asked)
    grammar = call_grammar(syntax, asked, AnswerFormat()).text
    sampling = SamplingParams(seed=5, temperature=1.2, grammar=grammar)
    return SequenceSpec(syntax.name, tuple(prompt), sampling, max_tokens=400)


def test_a_call_that_must_be_made_is_valid_in_every_syntax(recorder: Recorder) -> None:
    recorder.run(*(spec(recorder, syntax) for syntax in ALL))
    for syntax in ALL:
        text = recorder.text(syntax.name)
        parser = parser_of_calls(syntax.name, options(syntax).tools, id_seed="seed")
        begun, *deltas = [*parser.feed(text), *parser.finish()]
        assert isinstance(begun, ToolCallBegun), (syntax.name, text)
        arguments = json.loads(
            "".join(one.text for one in deltas if isinstance(one, ToolArguments))
        )
        check(begun.name, arguments)


def check(name: str, arguments: dict[str, Any]) -> None:
    if name == "now":
        assert arguments == {}
        return
    assert (name, list(arguments)) == ("weather", ["city", "days"])
    assert isinstance(arguments["city"], str)
    assert arguments["days"] in range(1, 10)

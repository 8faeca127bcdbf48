"""A real model, never taught any syntax of calls, calls tools in each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_recorder import Recorder, recording

from inference_worker.answer import ToolArguments, ToolCallBegun
from inference_worker.engine import SequenceSpec
from inference_worker.grammar import Remainders, checked
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
    parameters = CITIES if syntax.name in ("qwen-coder", "glm") else PARAMETERS
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
        check(*called(syntax, recorder.text(syntax.name)))


BEGUN = {
    "hermes": '<tool_call>{"name": "wea',
    "llama3": '{"name": "weather", "parameters": {"ci',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Os',
    "mistral-named": '[TOOL_CALLS]weather[ARGS]{"city": "',
    "generic": '{"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo", "da',
    "glm": "<tool_call>weather\n<arg_key>city</arg_key><arg_value>Os",
    "qwen-coder": "<tool_call>\n<function=weather>\n<parameter=city>\nOs",
}


def test_a_call_that_the_client_began_is_gone_on_with(recorder: Recorder) -> None:
    def going_on(syntax: Syntax) -> SequenceSpec:
        whole, begun = spec(recorder, syntax), BEGUN[syntax.name]
        rest = Remainders(whole.sampling.grammar).behind(begun)
        assert rest is not None
        tokens = recorder.engine.tokenize(begun, add_special=False, parse_special=True)
        sampling = replace(whole.sampling, grammar=checked(rest))
        id = f"{syntax.name} begun"
        return replace(whole, id=id, prompt=(*whole.prompt, *tokens), sampling=sampling)

    recorder.run(*map(going_on, ALL))
    for syntax in ALL:
        text = BEGUN[syntax.name] + recorder.text(f"{syntax.name} begun")
        name, arguments = called(syntax, text)
        assert name == "weather"
        check(name, arguments)


def called(syntax: Syntax, text: str) -> tuple[str, dict[str, Any]]:
    """The one call that a text makes: the tool's name and the arguments."""
    parser = parser_of_calls(syntax.name, options(syntax).tools, id_seed="seed")
    begun, *deltas = [*parser.feed(text), *parser.finish()]
    assert isinstance(begun, ToolCallBegun), (syntax.name, text)
    told = "".join(one.text for one in deltas if isinstance(one, ToolArguments))
    return begun.name, json.loads(told)


def check(name: str, arguments: dict[str, Any]) -> None:
    if name == "now":
        assert arguments == {}
        return
    assert (name, list(arguments)) == ("weather", ["city", "days"])
    assert isinstance(arguments["city"], str)
    assert arguments["days"] in range(1, 10)

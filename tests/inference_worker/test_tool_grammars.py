"""Grammars of calls: what they allow is read as a call whose arguments validate."""

from __future__ import annotations

import json
import random
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.answer import ContentDelta, ToolArguments, ToolCallBegun
from inference_worker.grammar import GrammarInvalid
from inference_worker.grammar.characters import Characters
from inference_worker.grammar.gbnf import read
from inference_worker.grammar.matcher import EMPTY, Matcher
from inference_worker.tools import GENERIC, SYNTAXES, Syntax, call_grammar, parser_of_calls
from replay.request import AnswerFormat, ChatOptions

from .grammar.written import text_of

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = (WEATHER, NOW)
ALL = (*SYNTAXES, GENERIC)
TAGGED = [one for one in ALL if one.name in ("qwen-coder", "glm")]
JSON_ONES = [one for one in ALL if one not in TAGGED]
ARGUMENTS = '{"city": "Łódź </tool_call>", "days": 3}'

WRITTEN = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": ARGUMENTS}\n</tool_call>',
    "llama3": '{"name": "weather", "parameters": ARGUMENTS}',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": ARGUMENTS}]',
    "mistral-named": "[TOOL_CALLS]weather[ARGS]ARGUMENTS",
    "generic": '{"tool_calls": [{"name": "weather", "arguments": ARGUMENTS}]}',
    "glm": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Łódź </tool_call></arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "qwen-coder": "<tool_call>\n<function=weather>\n<parameter=city>\nŁódź </tool_call>\n"
    "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
}


def grammar(syntax: Syntax, **options: Any) -> Any:
    asked = ChatOptions(**{"tools": TOOLS, "tool_choice": "required", **options})
    return call_grammar(syntax, asked, AnswerFormat())


def satisfies(text: str, constraint: Any) -> bool:
    """Whether the grammar allows the text, whole."""
    matcher = Matcher(read(constraint.text))
    stacks = matcher.start()
    for character in text:
        stacks = matcher.after(stacks, ord(character))
    return EMPTY in stacks


def heard(syntax: Syntax, text: str) -> tuple[str, list[tuple[str, str]]]:
    parser = parser_of_calls(syntax.name, TOOLS, id_seed="seed")
    content, calls = "", list[tuple[str, str]]()
    for delta in [*parser.feed(text), *parser.finish()]:
        match delta:
            case ContentDelta(more):
                content += more
            case ToolCallBegun(_, _, name):
                calls.append((name, ""))
            case ToolArguments(_, more):
                calls[-1] = (calls[-1][0], calls[-1][1] + more)
    return content, calls


@pytest.mark.parametrize("syntax", ALL, ids=lambda one: one.name)
def test_a_call_as_the_model_learned_it_is_allowed(syntax: Syntax) -> None:
    text = WRITTEN[syntax.name].replace("ARGUMENTS", ARGUMENTS)
    assert satisfies(text, grammar(syntax))
    content, [(name, arguments)] = heard(syntax, text)
    assert (content, name, json.loads(arguments)) == ("", "weather", json.loads(ARGUMENTS))


@pytest.mark.parametrize("syntax", ALL, ids=lambda one: one.name)
def test_what_is_no_such_call_is_not_allowed(syntax: Syntax) -> None:
    text = WRITTEN[syntax.name].replace("ARGUMENTS", ARGUMENTS)
    constraint = grammar(syntax)
    wrong = [text.replace("weather", "rm"), text.replace("3", '"3"'), text[:-1], f"Hm. {text}", ""]
    for one in [*wrong, text.replace("days", "years")]:
        assert not satisfies(one, constraint), one


def sampled(constraint: Any, seed: int) -> str:
    """A text that the grammar allows."""
    draw = random.Random(seed)
    grammar = read(constraint.text)
    text, symbols = "", [grammar.rules[grammar.root]]
    waiting: list[Any] = list(reversed(draw.choice(symbols[0])))
    while waiting:
        symbol = waiting.pop()
        if isinstance(symbol, Characters):
            text += chr(_drawn(draw, symbol))
        else:
            # Once it is long, the way with the fewest rules: it ends soonest.
            ways = grammar.rules[symbol]
            way = draw.choice(ways) if len(text) < 300 else min(ways, key=_rules_in)
            waiting += reversed(way)
    return text


def _rules_in(way: Any) -> int:
    return sum(isinstance(symbol, int) for symbol in way)


def _drawn(draw: random.Random, characters: Characters) -> int:
    low, high = draw.choice(characters.ranges)
    return draw.randint(low, min(high, low + 200))


def is_valid(name: str, arguments: Any) -> bool:
    """Whether the arguments are such as the tool's schema wants."""
    if name == "now":
        return bool(arguments == {})
    return (
        isinstance(arguments["city"], str)
        and arguments["days"] in range(1, 10)
        and arguments.get("unit", "C") in ("C", "F")
        and arguments.keys() <= {"city", "days", "unit"}
    )


@pytest.mark.parametrize("syntax", JSON_ONES, ids=lambda one: one.name)
@given(seed=st.integers(0, 2**32))
def test_what_is_allowed_is_a_call_whose_arguments_validate(syntax: Syntax, seed: int) -> None:
    text = sampled(grammar(syntax), seed)
    content, calls = heard(syntax, text)
    assert content.strip() == "" and 1 <= len(calls) <= 16
    assert all(is_valid(name, json.loads(arguments)) for name, arguments in calls)


@pytest.mark.parametrize("syntax", ALL, ids=lambda one: one.name)
def test_only_who_may_calls_twice(syntax: Syntax) -> None:
    once = WRITTEN[syntax.name].replace("ARGUMENTS", ARGUMENTS)
    twice = {
        "mistral": f"{once[:-1]}, {once[13:]}",
        "generic": f"{once[:-2]}, {once[16:]}",
        "llama3": f"{once}; {once}",
    }.get(syntax.name, once + once)
    assert satisfies(twice, grammar(syntax, parallel_tool_calls=True))
    assert not satisfies(twice, grammar(syntax, parallel_tool_calls=False))
    assert satisfies(twice, grammar(syntax)) == syntax.is_parallel
    assert len(heard(syntax, twice)[1]) == 2


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda one: one.name)
def test_who_may_call_is_constrained_from_where_a_call_begins(syntax: Syntax) -> None:
    constraint = grammar(syntax, tool_choice="auto")
    matcher = Matcher(read(constraint.text))
    assert constraint.triggers
    # llama.cpp aborts the process where a lazy grammar refuses the word that woke it.
    assert all(matcher.is_begun_by(one) for one in constraint.triggers)
    assert any(WRITTEN[syntax.name].startswith(one) for one in constraint.triggers)
    plain = 'Here: {"name": "Bob", "age": [3]}, <b>weather</b> [1]'
    assert not any(one in plain for one in constraint.triggers)
    assert not grammar(syntax).triggers


def test_who_was_told_how_to_call_answers_in_json_too() -> None:
    constraint = grammar(GENERIC, tool_choice="auto")
    assert not constraint.triggers
    assert satisfies('{"response": "hi \\n"}', constraint)
    assert satisfies(WRITTEN["generic"].replace("ARGUMENTS", ARGUMENTS), constraint)
    assert not satisfies("hi", constraint)
    assert not satisfies('{"response": "hi"}', grammar(GENERIC))


@pytest.mark.parametrize("syntax", ALL, ids=lambda one: one.name)
def test_who_need_not_call_answers_by_the_schema(syntax: Syntax) -> None:
    options = ChatOptions(tools=TOOLS)
    constraint = call_grammar(syntax, options, AnswerFormat(), {"type": "integer"})
    assert satisfies("42", constraint) and not constraint.triggers
    assert satisfies(WRITTEN[syntax.name].replace("ARGUMENTS", ARGUMENTS), constraint)
    assert not satisfies("forty", constraint)


def test_a_thought_comes_before_the_call() -> None:
    options = ChatOptions(tools=TOOLS, tool_choice="required")
    [hermes] = [one for one in SYNTAXES if one.name == "hermes"]
    call = WRITTEN["hermes"].replace("ARGUMENTS", ARGUMENTS)
    closed = call_grammar(hermes, options, AnswerFormat("<think>", "</think>"))
    for text in (call, f"<think>a </b> <</think>\n{call}"):
        assert satisfies(text, closed)
    assert not satisfies(f"a</think>{call}", closed)
    opened = call_grammar(
        hermes, options, AnswerFormat("<think>", "</think>", is_thought_open=True)
    )
    assert satisfies(f"a</think> {call}", opened) and not satisfies(call, opened)
    tagged = call_grammar(
        hermes, options, AnswerFormat("<think>", "</think>", content_begin="<final>")
    )
    assert satisfies(f"<final>{call}", tagged) and satisfies(f"<think>a</think>{call}", tagged)
    assert satisfies(call, tagged) and not satisfies(f"<think>a</think><final>{call}", tagged)


@pytest.mark.parametrize(
    ("parameter", "written", "meant", "wrong"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5, "five"),
        ({"$ref": "#/$defs/unit"}, "F", "F", "K"),
        ({"$ref": "#/$defs/days"}, "[1, 2]", [1, 2], "1"),
        ({"$ref": "#/properties/city"}, "Łódź", "Łódź", None),
        ({"allOf": [{"$ref": "#/$defs/unit"}]}, '"F"', "F", "F"),
        ({"enum": [1, 2]}, "2", 2, "3"),
        ({"properties": {}}, "{}", {}, "text"),
        ({"type": "string", "anyOf": [{"maxLength": 1}, {"const": "long"}]}, '"a"', "a", "ab"),
        ({"const": "F"}, "F", "F", "C"),
        ({"type": "string", "enum": ["F", None]}, "F", "F", "None"),
    ],
)
def test_parameters_between_tags_are_text_only_where_they_are_texts(
    parameter: Any, written: str, meant: Any, wrong: str | None
) -> None:
    [coder] = [one for one in SYNTAXES if one.name == "qwen-coder"]
    schema = {
        "properties": {"city": {"type": "string"}, "it": parameter},
        "required": ["it"],
        "$defs": {
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "array", "items": {"type": "integer"}},
        },
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    constraint = grammar(coder, tools=(tool,))

    def call(text: str) -> str:
        return f"<function=weather>\n<parameter=it>\n{text}\n</parameter>\n</function>"

    assert satisfies(call(written), constraint)
    assert wrong is None or not satisfies(call(wrong), constraint)
    parser = parser_of_calls(coder.name, (tool,), id_seed="seed")
    told = [*parser.feed(call(written)), *parser.finish()]
    arguments = "".join(delta.text for delta in told if isinstance(delta, ToolArguments))
    assert json.loads(arguments) == {"it": meant}


def in_tags(parameter: Any, **more: Any) -> tuple[Syntax, Any]:
    """Qwen3-Coder's syntax, and a tool of one parameter."""
    [coder] = [one for one in SYNTAXES if one.name == "qwen-coder"]
    schema = {"properties": {"it": parameter}, "required": ["it"], **more}
    return coder, {"type": "function", "function": {"name": "weather", "parameters": schema}}


@pytest.mark.parametrize(
    ("parameter", "pattern"),
    [
        ({"type": "string", "maxLength": 3}, "(?s).{0,3}"),
        ({"minLength": 2, "maxLength": 3}, "(?s).{2,3}"),
        ({"type": ["string"], "pattern": "^a[^b]+$"}, "(?s)a[^b]+"),
        ({"type": "string", "pattern": "[0-9]{2}", "minLength": 2}, "(?s).*[0-9]{2}.*"),
        ({"type": "string", "format": "time"}, r"\d\d:\d\d:\d\d.*"),
        ({"$ref": "#/$defs/short"}, "(?s).{0,3}"),
    ],
)
@given(seed=st.integers(0, 2**32))
def test_texts_between_tags_are_as_their_schema_says(
    parameter: Any, pattern: str, seed: int
) -> None:
    short = {"short": {"type": "string", "maxLength": 3}}
    coder, tool = in_tags(parameter, **{"$defs": short})
    constraint = grammar(coder, tools=(tool,), parallel_tool_calls=False)
    text = text_of(constraint.text, random.Random(seed))
    if text is None:
        return
    parser = parser_of_calls(coder.name, (tool,), id_seed="seed")
    told = [*parser.feed(text), *parser.finish()]
    arguments = "".join(delta.text for delta in told if isinstance(delta, ToolArguments))
    assert re.fullmatch(pattern, json.loads(arguments)["it"])
    assert not any(isinstance(delta, ContentDelta) and delta.text.strip() for delta in told)


def test_a_text_of_some_length_may_well_be_code() -> None:
    coder, tool = in_tags({"type": "string", "minLength": 1})
    constraint = grammar(coder, tools=(tool,))

    def call(text: str) -> str:
        return f"<function=weather>\n<parameter=it>\n{text}\n</parameter>\n</function>"

    assert satisfies(call("<!DOCTYPE html>\n<p></p>\n"), constraint)
    assert satisfies(call("if 1 < 2"), constraint)
    for empty in ("", "\n", "</p>"):
        assert not satisfies(call(empty), constraint)


@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "string", "pattern": "^<a>$"},
        {"type": "string", "not": {"const": "a"}},
        {"type": "string", "enum": ["a", "b"], "maxLength": 1},
        {"type": "string", "minLength": 2, "maxLength": 1},
        False,
    ],
)
def test_what_no_grammar_says_of_a_text_between_tags_is_refused(parameter: Any) -> None:
    coder, tool = in_tags(parameter)
    with pytest.raises(GrammarInvalid):
        grammar(coder, tools=(tool,))


@pytest.mark.parametrize("syntax", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": True}},
        {"properties": {"a": {"enum": 3}}},
        {"properties": ["a"]},
        {"properties": {"a": {"type": "string"}}, "required": True},
        {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"$ref": "#/$defs/b"}}},
    ],
)
def test_parameters_of_any_shape_are_compiled_or_refused(syntax: Syntax, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "odd", "parameters": parameters}}
    with suppress(GrammarInvalid):
        grammar(syntax, tools=(tool,))


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("syntax", ALL, ids=lambda one: one.name)
def test_as_many_tools_as_a_request_may_have_are_compiled(syntax: Syntax, choice: str) -> None:
    names = [f"weather{number or ''}" for number in range(128)]
    tools = tuple(
        {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in names
    )
    constraint = grammar(syntax, tools=tools, tool_choice=choice)
    for name in ("weather", "weather1", "weather12", "weather127"):
        call = WRITTEN[syntax.name].replace("ARGUMENTS", ARGUMENTS).replace("weather", name)
        assert satisfies(call, constraint)
        assert not satisfies(call.replace(name, f"{name}x"), constraint)


def test_parameters_that_cannot_be_compiled_name_their_tool() -> None:
    bad = {"type": "function", "function": {"name": "odd", "parameters": {"type": "hiccup"}}}
    with pytest.raises(GrammarInvalid, match="the parameters of 'odd'"):
        grammar(GENERIC, tools=(bad,))

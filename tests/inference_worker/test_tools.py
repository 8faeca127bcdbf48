"""Calls in each syntax: what a text means, however it is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.answer import ContentDelta, Delta, ToolArguments, ToolCallBegun
from inference_worker.tools import GENERIC, SYNTAXES, parser_of_calls, syntax_of

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "object"},
                "text": {"type": "string"},
            },
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = (ADD, NOW)
ARGUMENTS = '{"a": -2.5e3, "b": {"x": ["}", "\\"]", null]}, "text": "é </tool_call> \\\\"}'
NAMES = [syntax.name for syntax in (*SYNTAXES, GENERIC)]

Heard = tuple[str, list[tuple[str, str]]]
"""The content, and of each call the name and the arguments."""


def parsed(name: str, *pieces: str, is_cut: bool = False) -> list[Delta]:
    """All deltas, those of the same kind joined."""
    parser = parser_of_calls(name, TOOLS, id_seed="seed")
    found = [delta for piece in pieces for delta in parser.feed(piece)]
    found += parser.finish(is_cut=is_cut)
    joined: list[Delta] = []
    for delta in found:
        last = joined[-1] if joined else None
        match delta, last:
            case ContentDelta(text), ContentDelta(before):
                joined[-1] = ContentDelta(before + text)
            case ToolArguments(index, text), ToolArguments(same, before) if same == index:
                joined[-1] = ToolArguments(index, before + text)
            case _:
                joined.append(delta)
    return joined


def heard(name: str, *pieces: str, is_cut: bool = False) -> Heard:
    """What a client makes of it; every call's header comes before its arguments."""
    content, calls = "", list[tuple[str, str]]()
    for delta in parsed(name, *pieces, is_cut=is_cut):
        match delta:
            case ContentDelta(text):
                content += text
            case ToolCallBegun(index, _, called):
                assert index == len(calls)
                calls.append((called, ""))
            case ToolArguments(index, text):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + text)
    return content, calls


def one(arguments: str = ARGUMENTS) -> str:
    return f'{{"name": "add", "arguments": {arguments}}}'


DEEP = '{"name": ' + "[" * 3000 + "]" * 3000 + "}"
"""Deeper than Python reads JSON."""

SAID: list[tuple[str, str, Heard]] = [
    ("hermes", "Just words, <b>no</b> call.\n", ("Just words, <b>no</b> call.\n", [])),
    (
        "hermes",
        f"Let me see.\n<tool_call>\n{one()}\n</tool_call>\n",
        ("Let me see.", [("add", ARGUMENTS)]),
    ),
    (
        "hermes",
        f'<tool_call>{one()}</tool_call>\n<tool_call>{{"name":"now"}}</tool_call>',
        ("", [("add", ARGUMENTS), ("now", "{}")]),
    ),
    (
        "hermes",
        f'<tool_call>{{"arguments": {ARGUMENTS}, "id": 7, "name": "add"}}</tool_call> Done.',
        (" Done.", [("add", ARGUMENTS)]),
    ),
    (
        "hermes",
        f"<tool_call>\n{one()}\nWell <tool_call>\n{one('{}')}",
        ("\nWell", [("add", ARGUMENTS), ("add", "{}")]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
    ),
    ("hermes", "<tool_call>oh</tool_call>", ("<tool_call>oh</tool_call>", [])),
    ("hermes", '<tool_call>{"na', ('<tool_call>{"na', [])),
    ("hermes", f"<tool_call><tool_call>{one()}", ("<tool_call>", [("add", ARGUMENTS)])),
    ("hermes", f"<tool_call>{one()[:-9]}", ("", [("add", ARGUMENTS[:-8])])),
    ("hermes", "a <tool", ("a <tool", [])),
    (
        "qwen-coder",
        "Hm.\n<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>\n"
        '{"x": 1}\n</parameter>\n<parameter=text>\n</div> "é"\n</parameter>\n</function>\n'
        "</tool_call>",
        ("Hm.", [("add", '{"a": 2, "b": {"x": 1}, "text": "</div> \\"é\\""}')]),
    ),
    (
        "qwen-coder",
        "<function=now></function>\n<function=add><parameter=a>many</parameter></function>",
        ("", [("now", "{}"), ("add", '{"a": "many"}')]),
    ),
    (
        "qwen-coder",
        '<function=add><parameter=b>{"x": "</parameter>"}</parameter></function>',
        ("", [("add", '{"b": {"x": "</parameter>"}}')]),
    ),
    (
        "qwen-coder",
        "<function=add><parameter=text>\n\n</div>\n\n</parameter><parameter=a>\nNaN\n</parameter>"
        "</function>",
        ("", [("add", '{"text": "\\n</div>\\n", "a": "NaN"}')]),
    ),
    ("qwen-coder", "<tool_call>\n<function=rm>", ("<tool_call>\n<function=rm>", [])),
    (
        "glm",
        "Hm.\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n<arg_key>text</arg_key>"
        '\n<arg_value>\n</div> "é"\n</arg_value>\n</tool_call>\n<tool_call>now</tool_call>',
        ("Hm.", [("add", '{"a": 2, "text": "\\n</div> \\"é\\"\\n"}'), ("now", "{}")]),
    ),
    (
        "glm",
        '<tool_call>add<arg_key>b</arg_key><arg_value>{"x": "</arg_value>"}</arg_value>'
        "</tool_call> Ok",
        (" Ok", [("add", '{"b": {"x": "</arg_value>"}}')]),
    ),
    ("glm", "<tool_call>addx</tool_call>", ("<tool_call>addx</tool_call>", [])),
    ("glm", "<tool_call><b>", ("<tool_call><b>", [])),
    ("qwen-coder", "<tool_call> well", ("<tool_call> well", [])),
    (
        "llama3",
        f' {{"type": "function", "name": "add", "parameters": {ARGUMENTS}}}',
        ("", [("add", ARGUMENTS)]),
    ),
    (
        "llama3",
        f'<|python_tag|>{one()}; {{"name": "now", "parameters": {{}}}}\n',
        ("", [("add", ARGUMENTS), ("now", "{}")]),
    ),
    ("llama3", f"Well, <|python_tag|>{one()}", ("Well,", [("add", ARGUMENTS)])),
    ("llama3", '{"items": [1]} is JSON', ('{"items": [1]} is JSON', [])),
    ("llama3", '{"name": "Bob", "age": 3}', ('{"name": "Bob", "age": 3}', [])),
    ("llama3", f"As in {one()}", (f"As in {one()}", [])),
    ("llama3", "<|python_tag|>print(1)", ("<|python_tag|>print(1)", [])),
    (
        "mistral",
        f'Let me see.[TOOL_CALLS] [{one()}, {{"name": "now", "arguments": {{}}, "id": "x"}}]',
        ("Let me see.", [("add", ARGUMENTS), ("now", "{}")]),
    ),
    (
        "mistral",
        f"[TOOL_CALLS]add[CALL_ID]abc123def[ARGS]{ARGUMENTS}[TOOL_CALLS]now[ARGS]{{}}",
        ("", [("add", ARGUMENTS), ("now", "{}")]),
    ),
    ("mistral", f"[TOOL_CALLS]add{ARGUMENTS}", ("", [("add", ARGUMENTS)])),
    ("mistral", "[TOOL_CALLS]rm[ARGS]{}", ("[TOOL_CALLS]rm[ARGS]{}", [])),
    ("mistral", "[TOOL_CALLS][]", ("[TOOL_CALLS][]", [])),
    ("mistral", "array[TOOL]", ("array[TOOL]", [])),
    (
        "generic",
        f'{{"tool_calls": [{one()}, {{"name": "now", "arguments": {{}}}}]}}',
        ("", [("add", ARGUMENTS), ("now", "{}")]),
    ),
    (
        "generic",
        '{"response": "a \\"b\\"\\n\\u00e9\\ud83d\\udeb2 \\ud83d \\u00zz /\\/"}',
        ('a "b"\né🚲 \ufffd \ufffd //', []),
    ),
    ("generic", '{"response": "cut', ("cut", [])),
    ("generic", "no JSON", ("no JSON", [])),
    ("hermes", f"<tool_call>{DEEP}", (f"<tool_call>{DEEP}", [])),
    ("generic", DEEP, (DEEP, [])),
    ("generic", '{"x": 1} [', ('{"x": 1} [', [])),
    ("generic", '{"tool_calls": 3}', ('{"tool_calls": 3}', [])),
]


@pytest.mark.parametrize(("name", "text", "means"), SAID)
def test_what_a_text_means(name: str, text: str, means: Heard) -> None:
    assert heard(name, text) == means


@pytest.mark.parametrize(("name", "text", "means"), SAID)
def test_a_text_means_the_same_character_by_character(name: str, text: str, means: Heard) -> None:
    assert heard(name, *text) == means
    assert parsed(name, *text) == parsed(name, text)


CUT: list[tuple[str, str, Heard]] = [
    ("hermes", 'Well. <tool_call>{"name": "ad', ("Well.", [])),
    ("hermes", f"<tool_call>{one()[:-9]}", ("", [("add", ARGUMENTS[:-8])])),
    ("hermes", f"<tool_call>{one()}</tool", ("", [("add", ARGUMENTS)])),
    ("hermes", "a <tool", ("a <tool", [])),
    ("llama3", '{"name": "ad', ("", [])),
    ("llama3", '{"name": "add", "parameters": {"a', ("", [("add", '{"a')])),
    ("mistral", '[TOOL_CALLS][{"na', ("", [])),
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a": [1, ', ("", [("add", '{"a": [1, ')])),
    ("generic", '{"tool_ca', ("", [])),
    ("generic", '{"tool_calls": [{"name": "add", "arguments": {"a', ("", [("add", '{"a')])),
    ("qwen-coder", "<tool_call>\n<function=ad", ("", [])),
    (
        "qwen-coder",
        "<function=add><parameter=text>\na <b>\n</para",
        ("", [("add", '{"text": "a <b>')]),
    ),
    ("glm", "<tool_call>ad", ("", [])),
    ("glm", "<tool_call>add<arg_key>text</arg_key><arg_value>1</", ("", [("add", '{"text": "1')])),
    ("qwen-coder", '<function=add><parameter=b>{"x": [', ("", [("add", '{"b": {"x": [')])),
]
"""What a limit cut."""


@pytest.mark.parametrize(("name", "text", "means"), CUT)
def test_a_call_that_was_cut_has_the_arguments_that_came(
    name: str, text: str, means: Heard
) -> None:
    assert heard(name, *text, is_cut=True) == heard(name, text, is_cut=True) == means


BITS = st.sampled_from(
    [
        *'{}[]":,;\\ \n<a1',
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"),
        *("<function=", "<function=add>", "</function>", "<parameter=a>", "</parameter>"),
        *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        *('{"name": "add", "arguments": ', '{"a": 1}', '"name"', '"response"', "add", "now"),
        *('{"tool_calls": [', '{"response": "', "\\ud83d", "\\udeb2", "</", one()),
    ]
)


@given(
    st.sampled_from(NAMES),
    st.lists(BITS, max_size=12).map("".join),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_any_text_means_the_same_however_it_is_cut(name: str, text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert parsed(name, *pieces) == parsed(name, text)


@given(st.sampled_from(NAMES), st.text(alphabet='abc é{}"<[\n', max_size=40))
def test_a_text_without_a_call_is_all_content(name: str, text: str) -> None:
    assert heard(name, text) == (text, [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("hermes", "<tool_call>{}</tool_call>"),
        ("llama3", "{}"),
        ("mistral", "[TOOL_CALLS][{}]"),
        ("generic", '{{"tool_calls": [{}]}}'),
    ],
)
@given(arguments=st.dictionaries(st.text(), JSON, max_size=4), is_ascii=st.booleans())
def test_any_arguments_are_told_verbatim(
    name: str, form: str, arguments: dict[str, Any], is_ascii: bool
) -> None:
    spelled = json.dumps(arguments, ensure_ascii=is_ascii)
    assert heard(name, form.format(one(spelled))) == ("", [("add", spelled)])


def test_arguments_are_told_as_they_come() -> None:
    parser = parser_of_calls("hermes", TOOLS, id_seed="seed")
    assert parser.feed('<tool_call>{"name": "ad') == []
    begun, arguments = parser.feed('d", "arguments": {"a": ')
    assert isinstance(begun, ToolCallBegun) and begun.name == "add"
    assert arguments == ToolArguments(0, '{"a": ')
    assert parser.feed("2}}</tool_call> ") == [ToolArguments(0, "2}")]


def test_a_parameter_between_tags_is_told_as_it_comes() -> None:
    parser = parser_of_calls("qwen-coder", TOOLS, id_seed="seed")
    begun, key = parser.feed("<function=add><parameter=text>\nOn")
    assert isinstance(begun, ToolCallBegun) and key == ToolArguments(0, '{"text": "On')
    assert parser.feed('e "two"\n') == [ToolArguments(0, 'e \\"two\\"')]
    assert parser.feed("\n</param") == [ToolArguments(0, "\\n")]
    assert parser.feed("eter><parameter=b>[1, ") == [ToolArguments(0, '", "b": [1, ')]


def test_ids_follow_from_the_records_seed_alone() -> None:
    def ids(name: str, text: str, seed: str) -> list[str]:
        parser = parser_of_calls(name, TOOLS, id_seed=seed)
        return [one.id for one in parser.feed(text) if isinstance(one, ToolCallBegun)]

    twice = f"<tool_call>{one()}</tool_call><tool_call>{one()}</tool_call>"
    found = ids("hermes", twice, "a")
    assert ids("hermes", twice, "a") == found != ids("hermes", twice, "b")
    assert len(set(found)) == 2 and all(len(each) == 32 and each.isalnum() for each in found)
    [short] = ids("mistral", f"[TOOL_CALLS][{one()}]", "a")
    assert len(short) == 9


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ tools }}[TOOL_CALLS]", "mistral"),
        ("{{ tools }}<tool_call>", "hermes"),
        ("{{ tools }}<tool_call><function=x><parameter=y>", "qwen-coder"),
        ("{{ tools }}<tool_call>name<arg_key>", "glm"),
        ("{{ tools }}<tool_call><invoke name=", "generic"),
        ("{{ tools }}<|start_header_id|>ipython<|end_header_id|>", "llama3"),
        ("{{ tools }}<|start_header_id|>ipython<function=", "generic"),
        ("{{ tools }}<|start_header_id|>", "generic"),
        ("<tool_call>", "generic"),
        ("", "generic"),
    ],
)
def test_the_syntax_is_seen_in_the_template(template: str, name: str) -> None:
    assert syntax_of(template).name == name

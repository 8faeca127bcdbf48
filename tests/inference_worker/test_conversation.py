"""Each kind of template gets the messages that it can show; what it cannot is said otherwise."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from inference_worker.engine import NO_OPTIONS
from inference_worker.prompt import DEFAULT_TEMPLATE, ChatTemplate
from replay.request import ChatOptions

TURN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
NATIVE = (
    "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function.name }} {{ ARGUMENTS }}</tool_call>"
    "{% endfor %}\n{% endfor %}" + TURN
)
OBJECTS = NATIVE.replace("ARGUMENTS", "c.function.arguments | tojson")
STRINGS = NATIVE.replace("ARGUMENTS", "c.function.arguments")
EITHER = NATIVE.replace(
    "ARGUMENTS",
    "c.function.arguments if c.function.arguments is string else c.function.arguments | tojson",
)
TAGS = NATIVE.replace(
    "{{ ARGUMENTS }}",
    "{% for k, v in c.function.arguments | items %}"
    "<parameter={{ k }}>{{ v }}</parameter>{% endfor %}",
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}" + TURN
)
STRICT = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('no such role') }}{% endif %}<|{{ m.role }}|>{{ m.content }}\n"
    "{% endfor %}" + TURN
)
PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{{ p.text }}{% endfor %}\n"
    "{% endfor %}" + TURN
)

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
OPTIONS = ChatOptions(tools=(TOOL,))
SYSTEM = {"role": "system", "content": "be kind"}
USER = {"role": "user", "content": "2 + 2?"}
RESULT = {"role": "tool", "tool_call_id": "call00001", "content": "4"}


def calling(arguments: Any) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    calls = [{"id": "call00001", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def render(source: str, *messages: dict[str, Any], options: ChatOptions = NO_OPTIONS) -> str:
    return ChatTemplate(source).render(messages, options)


@pytest.mark.parametrize("source", [OBJECTS, STRINGS, EITHER])
def test_arguments_stand_in_the_history_as_json_once(source: str) -> None:
    text = render(source, USER, calling('{"a": 2}'), RESULT)
    assert '<tool_call>add {"a": 2}</tool_call>' in text
    assert "<|tool|>4" in text


def test_arguments_that_a_template_takes_apart_are_objects() -> None:
    text = render(TAGS, USER, calling('{"a": 2}'), RESULT)
    assert "<tool_call>add <parameter=a>2</parameter></tool_call>" in text


def test_arguments_that_are_no_object_are_told_as_what_was_said() -> None:
    assert "add {oh" in render(STRINGS, USER, calling("{oh"), RESULT)
    for source, bad in product((OBJECTS, DEFAULT_TEMPLATE), ("{oh", "7", "[" * 100_000)):
        assert json.dumps({"INVALID_JSON": bad}) in render(source, USER, calling(bad), RESULT)


def test_a_template_gets_the_tools_that_it_knows() -> None:
    text = render(OBJECTS, SYSTEM, USER, options=OPTIONS)
    assert text.startswith(f"TOOLS {json.dumps([TOOL])}\n<|system|>be kind")
    assert "TOOLS" not in render(OBJECTS, USER)


@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_to_other_templates_the_tools_are_told_in_the_system_message(before: list[Any]) -> None:
    text = render(DEFAULT_TEMPLATE, *before, USER, options=OPTIONS)
    system, rest = text.split("<|im_end|>", 1)
    assert system.startswith("<|im_start|>system\n" + "be kind\n\n" * len(before))
    assert '"name": "add"' in system and '{"tool_calls": [{"name"' in system
    assert rest.startswith("\n<|im_start|>user\n2 + 2?<|im_end|>")


def test_who_must_call_is_offered_no_other_answer() -> None:
    required = ChatOptions(tools=(TOOL,), tool_choice="required")
    assert '"response"' in render(DEFAULT_TEMPLATE, USER, options=OPTIONS)
    assert '"response"' not in render(DEFAULT_TEMPLATE, USER, options=required)


def test_calls_that_a_template_does_not_know_are_what_the_model_would_have_said() -> None:
    text = render(DEFAULT_TEMPLATE, USER, {**calling('{"a": 2}'), "content": "Let me see."}, RESULT)
    said = json.dumps({"tool_calls": [{"name": "add", "arguments": {"a": 2}}]})
    assert f"<|im_start|>assistant\nLet me see.\n{said}<|im_end|>" in text
    assert "<|im_start|>tool\n4<|im_end|>" in text


def test_a_result_is_the_users_message_where_there_is_no_such_role() -> None:
    text = render(STRICT, USER, calling({}), RESULT)
    result = {"tool_response": {"tool_call_id": "call00001", "content": "4"}}
    assert f"<|user|>{json.dumps(result)}\n<|assistant|>" in text


def test_a_system_message_stands_at_the_head_of_the_users_where_there_is_no_such_role() -> None:
    twice = [SYSTEM, {**SYSTEM, "content": "be brief"}, USER]
    assert render(NO_SYSTEM, *twice) == "<|user|>be kind\nbe brief\n2 + 2?\n<|assistant|>"
    assert render(NO_SYSTEM, SYSTEM) == "<|user|>be kind\n<|assistant|>"
    answered = [SYSTEM, {"role": "assistant", "content": "4"}, USER]
    assert render(NO_SYSTEM, *answered).startswith("<|user|>be kind\n<|assistant|>4\n<|user|>")


def test_the_developer_is_the_system_unless_the_template_knows_better() -> None:
    developer = {**SYSTEM, "role": "developer"}
    assert render(PARTS, developer).startswith("<|system|>")
    knowing = "{% if messages[0].role == 'developer' %}DEV{% endif %}"
    assert render(knowing, developer) == "DEV"


def test_content_is_in_parts_for_a_template_that_wants_it_so() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]}
    assert render(PARTS, SYSTEM, parts) == "<|system|>be kind<|user|>a\nb<|assistant|>"


def test_a_turn_may_stay_unopened() -> None:
    closed = ChatOptions(add_generation_prompt=False)
    assert render(DEFAULT_TEMPLATE, USER, options=closed).endswith("2 + 2?<|im_end|>\n")
    begun = {"role": "assistant", "content": "Well,"}
    assert render(DEFAULT_TEMPLATE, USER, begun, options=closed).endswith("assistant\nWell,")


def test_a_template_has_its_variables_but_nobody_replaces_the_messages() -> None:
    options = ChatOptions(template_kwargs={"mood": "merry", "messages": [], "range": 3})
    source = "{{ mood }} {{ messages | length }}{% for i in range(1) %}!{% endfor %}"
    assert render(source, USER, options=options) == "merry 1!"

"""What templates of the shapes that people run can do, found out by rendering them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inference_worker.engine import NO_OPTIONS, PromptInvalid
from inference_worker.prompt import DEFAULT_TEMPLATE, ChatTemplate
from inference_worker.scripted_engine import open_scripted_engine
from inference_worker.template_abilities import Abilities, probed
from inference_worker.template_sandbox import SandboxedTemplate
from inference_worker.tools import syntax_of
from replay.request import ChatOptions

QWEN = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- 'You have <tools>' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '</tools>. Write <tool_call></tool_call>.<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or message.role == 'assistant' and not message.tool_calls %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls %}
{%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
{{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' }}
{{- message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

LLAMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' }}
{%- if tools is not none %}
{{- 'Functions:' }}{%- for t in tools %}{{- t | tojson(indent=4) }}{%- endfor %}
{%- endif %}
{%- for message in messages %}
{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}
{%- if not message.tool_calls | length == 1 %}
{{- raise_exception('one call at a time') }}
{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", ' }}
{{- '"parameters": ' }}{{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
{%- if message.content is mapping or message.content is iterable %}
{{- message.content | tojson }}
{%- else %}{{- message.content }}{%- endif %}
{{- '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools is not none and message == users[-1] %}
{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.tool_calls is defined and message.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}
{{- raise_exception('ids have length 9') }}
{%- endif %}
{{- call.function | tojson }}{{- ', ' if not loop.last }}
{%- endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}
{{- message.content + eos_token }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
{%- else %}
{{- raise_exception('no such role') }}
{%- endif %}
{%- endfor %}
"""

GLM = """\
[gMASK]<sop>
{%- if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}{% endfor %}
Write <tool_call>{function-name}<arg_key>{arg-key}</arg_key>{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|observation|><tool_response>{{ m.content }}</tool_response>
{%- else %}<|{{ m.role }}|>
{{ m.content }}
{%- for call in m.tool_calls %}
{%- set tc = call.function %}
{{ '\\n<tool_call>' + tc.name }}
{% for k, v in tc.arguments.items() %}
<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}
</tool_call>{% endfor %}
{%- endif %}
{%- endfor %}
"""

HERMES = """\
{{- 'Write <tool_call> with <tools>' }}
{%- for tool in tools %}{{- tool.function | tojson }}{%- endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + message.content }}
{%- for call in message.tool_calls %}
{{- '<tool_call>{"arguments": ' + call.function.arguments | tojson + '}</tool_call>' }}
{%- endfor %}
{%- endfor %}
"""
"""It goes through the tools without asking whether there are any."""

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "2 + 2?"}
RESULT = {"role": "tool", "tool_call_id": "call00001", "content": "4"}


def calling(identity: str = "call00001") -> dict[str, Any]:
    function = {"name": "add", "arguments": '{"a": 2}'}
    calls = [{"id": identity, "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def abilities(source: str) -> Abilities:
    template = SandboxedTemplate(source)

    def render(messages: Any, *, tools: Any = ()) -> str:
        named = {"messages": list(messages), "tools": list(tools) or None}
        return template.render({**named, "bos_token": "", "eos_token": ""})

    return probed(source, render)


@pytest.mark.parametrize(
    ("source", "syntax", "able"),
    [
        (DEFAULT_TEMPLATE, "generic", Abilities()),
        (QWEN, "hermes", Abilities(tools=True, calls=True, wants_objects=True)),
        (LLAMA, "llama3", Abilities(tools=True, calls=True, wants_objects=True)),
        (GLM, "glm", Abilities(tools=True, calls=True, wants_objects=True)),
        (
            MISTRAL,
            "mistral",
            Abilities(system_role=False, tools=True, calls=True, wants_objects=True),
        ),
    ],
)
def test_a_template_is_known_by_what_it_shows(source: str, syntax: str, able: Abilities) -> None:
    assert abilities(source) == able
    assert syntax_of(source).name == syntax


@pytest.mark.parametrize(
    ("source", "call", "result"),
    [
        (
            QWEN,
            '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
            "<tool_response>\n4\n</tool_response>",
        ),
        (
            LLAMA,
            '{"name": "add", "parameters": {"a": 2}}<|eot_id|>',
            '<|start_header_id|>ipython<|end_header_id|>\n\n"4"<|eot_id|>',
        ),
        (
            GLM,
            "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
            "<tool_response>4</tool_response>",
        ),
        (
            MISTRAL,
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2}}]</s>',
            "[TOOL_RESULTS]4[/TOOL_RESULTS]",
        ),
    ],
)
def test_a_call_and_its_result_stand_as_the_model_learned_them(
    source: str, call: str, result: str
) -> None:
    template = ChatTemplate(source, bos_text="<s>", eos_text="</s>")
    text = template.render([USER, calling(), RESULT], ChatOptions(tools=(TOOL,)))
    assert call in text and result in text and '"name": "add"' in text.split(call)[0]


def test_a_template_that_asks_for_no_tools_gets_an_empty_list_of_them() -> None:
    template = ChatTemplate(HERMES)
    assert template.render([USER]).endswith("<|im_start|>user2 + 2?")
    text = template.render([USER, calling(), RESULT], ChatOptions(tools=(TOOL,)))
    assert '<tool_call>{"arguments": {"a": 2}}' in text and "tool_calls" not in text


def test_what_trainers_mark_is_shown_as_if_it_were_not_marked() -> None:
    template = ChatTemplate("a{% generation %}{{ messages[0].content }}{% endgeneration %}c")
    assert template.render([USER]) == "a2 + 2?c"


def test_what_a_template_refuses_is_the_clients_to_change() -> None:
    with pytest.raises(PromptInvalid, match="length 9"):
        ChatTemplate(MISTRAL).render([USER, calling("short"), RESULT])
    with pytest.raises(PromptInvalid, match="one call"):
        twice = {**calling(), "tool_calls": calling()["tool_calls"] * 2}
        ChatTemplate(LLAMA).render([USER, twice, RESULT])


def test_a_model_may_have_a_template_of_its_own_for_tools() -> None:
    engine = open_scripted_engine()
    try:
        model = replace(engine.model, chat_template=DEFAULT_TEMPLATE, tool_template=QWEN)
    finally:
        engine.close()
    options = ChatOptions(tools=(TOOL,))
    template = ChatTemplate.of(model)
    assert "You have <tools>" in template.render([USER], options)
    assert template.render([USER]) == ChatTemplate(DEFAULT_TEMPLATE).render([USER])
    assert (model.template_of(options), model.template_of(NO_OPTIONS)) == (QWEN, DEFAULT_TEMPLATE)
    assert replace(model, tool_template="").template_of(options) == DEFAULT_TEMPLATE

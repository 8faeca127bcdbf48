import pytest

from inference_worker.engine import EngineFailed, PromptInvalid
from inference_worker.prompt import DEFAULT_TEMPLATE, ChatTemplate
from replay.request import ChatOptions


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def test_messages_are_rendered_with_the_assistants_turn_opened() -> None:
    rendered = ChatTemplate(DEFAULT_TEMPLATE).render([user("hi")])
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_text_parts_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ChatTemplate("{{ messages[0].content }}").render([user(parts)]) == "a\nb"


def test_a_last_message_of_the_assistants_is_continued() -> None:
    begun = {"role": "assistant", "content": "Well,"}
    template = ChatTemplate(DEFAULT_TEMPLATE)
    assert template.render([user("hi"), begun]) == template.render([user("hi")]) + "Well,"
    assert template.render([begun, user("hi")]).count("<|im_start|>assistant") == 2


def test_content_that_is_null_is_empty_text() -> None:
    assert ChatTemplate("<{{ messages[0].content }}>").render([user(None)]) == "<>"


def test_a_part_that_is_no_text_is_refused() -> None:
    with pytest.raises(PromptInvalid, match="unsupported content"):
        ChatTemplate("x").render([user([{"type": "image_url", "image_url": {}}])])


def test_the_templates_own_refusal_reaches_the_caller_with_its_field() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(PromptInvalid, match="roles must alternate") as refused:
        template.render([user("hi")])
    assert refused.value.field == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].role.no.such.thing }}",
        "{{ messages + 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 10 ** 1000 ** 1000 }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_breaks_or_reaches_out_is_a_refusal(source: str) -> None:
    with pytest.raises(PromptInvalid):
        ChatTemplate(source).render([user("hi")])


@pytest.mark.parametrize("body", ["", "x"])
def test_a_template_that_would_loop_for_ever_ends(body: str) -> None:
    nested = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
    with pytest.raises(PromptInvalid):
        ChatTemplate(nested.replace("BODY", body)).render([user("hi")])


def test_json_in_a_template_is_plain_not_escaped_for_html() -> None:
    rendered = ChatTemplate("{{ messages[0] | tojson }}").render([user("<é>")])
    assert rendered == '{"role": "user", "content": "<é>"}'


def test_special_tokens_and_the_date_are_at_hand() -> None:
    template = ChatTemplate("{{ bos_token }}{{ strftime_now('%Y')[:2] }}", bos_text="<s>")
    assert template.render([]) == "<s>20"


def test_a_template_may_have_the_date_by_name() -> None:
    now = "{{ strftime_now('%d %b %Y|%b %d %Y') }}"
    template = ChatTemplate("{{ date_string }}|{{ datetime }}|" + now)
    # Midnight may come between two looks at the clock, but not twice.
    texts = [template.render([]) for _ in range(2)]
    assert any(text[:23] == text[24:] for text in texts)
    told = ChatOptions(template_kwargs={"date_string": "26 Jul 2024"})
    assert template.render([], told).startswith("26 Jul 2024|")


@pytest.mark.parametrize("absent", ["none", "missing", "messages[0].name"])
def test_what_is_absent_adds_nothing_to_a_text(absent: str) -> None:
    template = ChatTemplate(f"{{{{ 'a' + {absent} + 'b' }}}}{{{{ {absent} + 'c' }}}}")
    assert template.render([user("hi")]) == "abc"
    with pytest.raises(PromptInvalid):
        ChatTemplate(f"{{{{ {absent} + 1 }}}}").render([user("hi")])


def test_a_template_that_does_not_compile_is_the_operators_to_mend() -> None:
    with pytest.raises(EngineFailed, match="does not compile"):
        ChatTemplate("{% for %}")

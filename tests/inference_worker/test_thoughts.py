"""Thoughts in a model's text, however it is cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.answer import (
    AnswerParser,
    ContentDelta,
    Delta,
    PlainParser,
    ReasoningDelta,
)
from inference_worker.engine import PromptInvalid
from inference_worker.parsers import parser_of
from inference_worker.thoughts import (
    FAMILIES,
    Tags,
    ThoughtParser,
    begun,
    is_open,
    tags_of,
    thought_state,
)
from replay.request import AnswerFormat, GenerationRequest, ReasoningParams, SamplingParams

THINK = Tags("<think>", "</think>")
TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "</", "nk>", " ", "\n\n", "a", "漢", "<"]),
    max_size=12,
).map("".join)


def merged(deltas: Iterable[Delta]) -> list[tuple[type, str]]:
    """Deltas of one kind that follow each other, as one."""
    told = [(type(one), one.text) for one in deltas]  # type: ignore[union-attr]
    grouped = groupby(told, key=lambda one: one[0])
    return [(kind, "".join(text for _, text in group)) for kind, group in grouped]


def parsed(parser: AnswerParser, pieces: Iterable[str]) -> list[Delta]:
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return deltas + parser.finish()


def split(text: str, *, is_open: bool = False, is_begun: bool = False) -> tuple[str, str]:
    """The thought and the content of a text that comes a character at a time."""
    parser = ThoughtParser(THINK, PlainParser(), is_open=is_open, is_begun=is_begun)
    deltas = parsed(parser, text)
    thought = "".join(one.text for one in deltas if isinstance(one, ReasoningDelta))
    content = "".join(one.text for one in deltas if isinstance(one, ContentDelta))
    return thought, content


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<think>\nhm <b>\n\nso\n</think>\n\nHi <think>", ("hm <b>\n\nso", "Hi <think>")),
        (" \n<think>a</think>b", ("a", "b")),
        ("<think>\n\n</think>\n\nHi", ("", "Hi")),
        ("Hi </think> there", ("", "Hi </think> there")),
        ("  Hi", ("", "  Hi")),
        ("<thin", ("", "<thin")),
        ("<thinner", ("", "<thinner")),
        ("<think>a </thin", ("a </thin", "")),
        ("<think>a < b </thing> c", ("a < b </thing> c", "")),
        ("<think>a \n", ("a", "")),
        ("<think>a</think> \n", ("a", "")),
        ("", ("", "")),
    ],
)
def test_a_thought_at_the_beginning_is_split_off(text: str, told: tuple[str, str]) -> None:
    assert split(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\nhm</think>\nHi", ("hm", "Hi")),
        ("<think>hm</think>Hi", ("hm", "Hi")),
        ("</think>Hi", ("", "Hi")),
        ("hm", ("hm", "")),
        ("<thi", ("<thi", "")),
    ],
)
def test_an_open_thought_needs_no_beginning(text: str, told: tuple[str, str]) -> None:
    assert split(text, is_open=True) == told


def test_a_thought_that_goes_on_keeps_the_space_between_its_words() -> None:
    assert split(" that\n</think>\nHi", is_open=True, is_begun=True) == (" that", "Hi")


@given(TEXTS, st.lists(st.integers(0, 60), max_size=6), st.booleans(), st.booleans())
def test_how_a_text_is_cut_does_not_matter(
    text: str, cuts: list[int], is_open: bool, is_begun: bool
) -> None:
    def parser() -> ThoughtParser:
        return ThoughtParser(THINK, PlainParser(), is_open=is_open, is_begun=is_open and is_begun)

    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    deltas = parsed(parser(), pieces)
    assert merged(deltas) == merged(parsed(parser(), [text]))
    assert all(one.text for one in deltas)  # type: ignore[union-attr]


@pytest.mark.parametrize("tags", FAMILIES)
def test_each_family_is_known_by_its_template_and_split(tags: Tags) -> None:
    assert tags_of("{% if x %}" + tags.begin + "{% endif %}" + tags.end) == tags
    parser = ThoughtParser(tags, PlainParser())
    assert parsed(parser, f"{tags.begin}a{tags.end}b") == [ReasoningDelta("a"), ContentDelta("b")]


@pytest.mark.parametrize("tags", [tags for tags in FAMILIES if tags.content])
def test_content_may_have_a_tag_of_its_own(tags: Tags) -> None:
    for text, content in ((f"{tags.content}Hi", "Hi"), ("Hi", "Hi"), (tags.content[:12], None)):
        deltas = parsed(ThoughtParser(tags, PlainParser()), text)
        assert merged(deltas) == [(ContentDelta, content or tags.content[:12])]
    assert told("P", tags, content="Hi") == f"P{tags.content}Hi"
    assert told("P", tags) == "P"
    thought = told("P", tags, reasoning_content="hm", content="Hi")
    assert thought == f"P{tags.begin}hm{tags.end}Hi"


def test_a_template_may_name_the_end_alone_or_nothing() -> None:
    assert tags_of("content.split('</think>')[-1]") == THINK
    assert tags_of("{{ messages }}") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [("", False), ("a<think>\n", True), ("<think></think>", False), ("</think><think>", True)],
)
def test_whether_a_text_ends_inside_a_thought(text: str, told: bool) -> None:
    assert is_open(text, THINK) is told


@pytest.mark.parametrize(
    ("shown_as", "told"),
    [
        ("reasoning", [(ReasoningDelta, "a"), (ContentDelta, "b")]),
        ("content", [(ContentDelta, "<think>a</think>b")]),
        (
            "both",
            [(ContentDelta, "<think>"), (ReasoningDelta, "a"), (ContentDelta, "a</think>b")],
        ),
    ],
)
def test_a_thought_is_shown_as_the_request_says(shown_as: str, told: list[Delta]) -> None:
    request = GenerationRequest(
        "openai.chat",
        "m",
        (),
        SamplingParams(seed=0),
        format=AnswerFormat("<think>", "</think>"),
        reasoning=ReasoningParams(shown_as),  # type: ignore[arg-type]
    )
    assert merged(parsed(parser_of(request, id_seed=""), "<think>a</think>b")) == told


def test_a_model_that_does_not_think_says_content_only() -> None:
    request = GenerationRequest("openai.chat", "m", (), SamplingParams(seed=0))
    assert parsed(parser_of(request, id_seed=""), ["<think>a"]) == [ContentDelta("<think>a")]


def told(prompt: str, tags: Tags | None = THINK, *, thinks: bool = True, **message: str) -> str:
    return begun(prompt, message, tags, thinks=thinks)


@pytest.mark.parametrize("opened", ["P", "P<think>\n"])
def test_a_beginning_stands_where_its_parts_belong(opened: str) -> None:
    think = opened if opened != "P" else "P<think>"
    assert told(opened, reasoning_content="hm") == think + "hm"
    assert told(opened, reasoning_content="hm", content="Hi") == think + "hm</think>Hi"
    assert told(opened, reasoning_content="hm", content="") == think + "hm</think>"


def test_content_never_lands_in_a_thought_that_the_template_opens() -> None:
    assert told("P<think>\n", content="Hi") == "P<think>\n</think>Hi"
    assert told("P", content="Hi") == "PHi"


def test_a_model_that_is_not_to_think_does_not() -> None:
    assert told("P<think>\n", thinks=False) == "P<think>\n</think>"
    assert told("P<think>\n") == "P<think>\n"
    assert told("P", thinks=False) == "P"


def test_a_thought_goes_on_with_models_that_think_only() -> None:
    assert told("P", None, content="Hi", reasoning_content="hm") == "PHi"
    with pytest.raises(PromptInvalid) as refusal:
        told("P", None, reasoning_content="hm")
    assert refusal.value.field == "continue_final_message"


ASSISTANT = {"role": "assistant"}


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ({"role": "user", "content": "<think>"}, (True, False)),
        ({**ASSISTANT, "reasoning_content": "hm"}, (True, True)),
        ({**ASSISTANT, "reasoning_content": "hm", "content": "Hi"}, (False, False)),
        ({**ASSISTANT, "content": "<think>hm"}, (True, True)),
        ({**ASSISTANT, "content": "<think>hm</think>Hi"}, (False, False)),
    ],
)
def test_where_an_answer_begins_follows_from_prompt_and_beginning(
    last: dict[str, Any], state: tuple[bool, bool]
) -> None:
    assert thought_state("P<think>\n", [last], THINK) == state

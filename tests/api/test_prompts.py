"""``prompt`` in all of its forms."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.prompts import PROMPT_CHARACTERS_MAX, parse_prompts
from api.fields import Fields
from api.problems import RequestInvalid

LONG = "x" * PROMPT_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("text", ("text",)),
        ("", ("",)),
        ([1, 2], ((1, 2),)),
        ([1, "two", 3], ((1, "two", 3),)),
        (["one"], ("one",)),
        ([["a", 1]], (("a", 1),)),
        ({"prompt_string": "text"}, ("text",)),
        ({"prompt_string": "text", "multimodal_data": []}, ("text",)),
    ],
)
def test_a_prompt_is_a_text_or_tokens(value: Any, prompts: Any) -> None:
    assert parse_prompts(Fields({"prompt": value})) == prompts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "Field 'prompt': it is required"),
        ([], "Field 'prompt': it must not be empty"),
        (7, "Field 'prompt': expected a string"),
        (True, "Field 'prompt': expected a string"),
        ([True], "Field 'prompt[0]': expected a token or a string"),
        ([-1], "Field 'prompt[0]': Value must be between 0"),
        ([2**31], "Field 'prompt[0]': Value must be between 0"),
        ([1.5], "Field 'prompt[0]': expected a string"),
        ([[None]], "Field 'prompt[0][0]': expected a token or a string"),
        ({"prompt_string": "x", "multimodal_data": ["aGk="]}, "Field 'prompt.multimodal_data'"),
        ({}, "Field 'prompt.prompt_string': expected a string"),
        (LONG + "x", "Field 'prompt': longer than 16777216 characters"),
        ([[LONG, 1], ["x"]], "Field 'prompt': longer than 16777216 characters"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_prompt_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        parse_prompts(Fields({"prompt": value}))
    assert str(caught.value).startswith(message)

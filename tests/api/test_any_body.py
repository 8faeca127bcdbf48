"""Whatever JSON asks for a text, it is a request or a mistake that names its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dialects import Dialect
from api.dialects.completing import MAX_TOKENS, NOT_BUILT
from api.dialects.infill import INFILL
from api.dialects.llama_completion import NATIVE
from api.dialects.openai_completions import COMPLETIONS
from api.problems import RequestInvalid
from replay.request import GenerationRequest, SamplingParams

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *NOT_BUILT,
        *MAX_TOKENS,
        *SamplingParams.__slots__,
        *("prompt", "input_prefix", "input_suffix", "input_extra", "model", "n", "n_cmpl"),
        *("stream", "stream_options", "stop", "grammar", "json_schema", "response_format"),
        *("suffix", "echo", "best_of", "return_tokens", "response_fields", "cache_prompt"),
        *("n_keep", "n_discard", "t_max_predict_ms", "sse_ping_interval", "return_progress"),
        "lora",
    ]
)
NEEDED: dict[str, Any] = {"prompt": "Once", "input_prefix": "a", "input_suffix": "b"}


@pytest.mark.parametrize("dialect", [COMPLETIONS, NATIVE, INFILL], ids=["openai", "own", "infill"])
@given(given=st.dictionaries(FIELDS, JSON))
def test_any_object_is_a_request_or_a_named_mistake(dialect: Dialect, given: Any) -> None:
    body = {**NEEDED, **given}
    try:
        request = dialect.parse(body, random_seed=1)
    except RequestInvalid as error:
        assert any(name in str(error) for name in body), (str(error), json.dumps(given))
    else:
        assert GenerationRequest.from_json(request.to_json()) == request

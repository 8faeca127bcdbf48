"""The converter: any JSON is a generation request or a mistake that names its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dialects import Fold
from api.dialects.completing import CHOICES_MAX, NOT_BUILT
from api.dialects.openai_chat import CHAT, parse
from api.fields import FLOAT_MAX, INT_MAX
from api.problems import RequestInvalid
from api.sampling import (
    LAST_N_MAX,
    LOGIT_BIASES_MAX,
    N_PROBS,
    N_PROBS_MAX,
    SAMPLER_LETTERS,
    SAMPLERS_MAX,
)
from replay import frames
from replay.records import State
from replay.request import ChatOptions, GenerationRequest, RenderOptions, SamplingParams

HELLO = [{"role": "user", "content": "hello"}]
RANDOM = 12345


def calling(**function: Any) -> dict[str, Any]:
    called = {"name": "add", "arguments": "{}", **function}
    calls = [{"id": "c1", "type": "function", "function": called}]
    return {"role": "assistant", "tool_calls": calls}


CALLING = calling()


def parsed(**body: Any) -> GenerationRequest:
    return parse({"messages": HELLO, **body}, random_seed=RANDOM)


def folding() -> Fold:
    return CHAT.fold(parsed())


def mistake(**body: Any) -> str:
    with pytest.raises(RequestInvalid) as caught:
        parsed(**body)
    return str(caught.value)


def test_a_bare_request_gets_the_defaults() -> None:
    request = parsed()
    assert request.sampling == SamplingParams(seed=RANDOM)
    assert request.render == RenderOptions(stream=False, include_usage=True)
    assert (request.model, request.max_tokens, request.ping_interval_s) == ("", -1, 15)
    assert request.messages == tuple(HELLO)


BEGUN = [*HELLO, {"role": "assistant", "content": "Well,"}]
EXPLICIT = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"stream": False}, "Well,"),
        ({"stream": True}, "Well,"),
        ({"stream": True, "echo": False}, "Well,"),
        ({"stream": False, **EXPLICIT}, "Well,"),
        ({"stream": True, **EXPLICIT}, ""),
        ({"stream": True, **EXPLICIT, "continue_final_message": "content"}, ""),
        ({"stream": True, **EXPLICIT, "echo": True}, "Well,"),
    ],
)
def test_a_prefill_is_shown_unless_a_stream_continues_it_explicitly(
    body: dict[str, Any], shown: str
) -> None:
    request = parsed(messages=BEGUN, **body)
    assert (request.render.prefill, request.messages) == (shown, tuple(BEGUN))


def test_the_parts_of_a_prefill_are_joined_by_a_blank_line() -> None:
    parts = [{"type": "text", "text": text} for text in ("a", "b")]
    request = parsed(messages=[*HELLO, {"role": "assistant", "content": parts}])
    assert request.messages[-1]["content"] == request.render.prefill == "a\n\nb"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": [*BEGUN, BEGUN[-1]]}, "messages[2]"),
        ({"messages": BEGUN, "continue_final_message": True}, "Cannot set both"),
        ({"messages": BEGUN, **EXPLICIT, "add_generation_prompt": True}, "Cannot set both"),
        ({"messages": [*HELLO, {**CALLING, "content": "x"}]}, "contains tool calls"),
        ({"messages": [*HELLO, CALLING]}, "messages[1].tool_calls"),
        ({"messages": BEGUN, **EXPLICIT, "continue_final_message": 1}, "'continue_final_message'"),
        ({"messages": BEGUN, "echo": "yes"}, "'echo'"),
        ({"messages": HELLO, **EXPLICIT}, "'continue_final_message'"),
        ({"messages": [], **EXPLICIT}, "'continue_final_message'"),
    ],
)
def test_what_cannot_be_continued_is_refused(body: dict[str, Any], said: str) -> None:
    assert said in mistake(**body)


def test_null_counts_as_absent() -> None:
    names = [*NOT_BUILT, "model", "stream", "stream_options", "seed", "top_k", "temperature"]
    assert parsed(**dict.fromkeys(names)) == parsed()


@pytest.mark.clause("POST-15")
def test_a_cached_prompt_is_taken_unless_the_client_does_not_want_it() -> None:
    assert parsed().context.cache_prompt
    assert not parsed(cache_prompt=False).context.cache_prompt
    assert mistake(cache_prompt=1) == "Field 'cache_prompt': expected a boolean, but got a number"


@pytest.mark.clause("POST-15")
def test_hints_at_slots_and_caches_are_checked_and_change_nothing() -> None:
    assert parsed(id_slot=3, n_cache_reuse=256) == parsed(id_slot=-1, n_cache_reuse=None)
    assert "'id_slot'" in mistake(id_slot=-2)
    assert "'id_slot'" in mistake(id_slot="0")
    assert "'n_cache_reuse'" in mistake(n_cache_reuse=-1)


def test_unknown_fields_are_accepted() -> None:
    assert parsed(user="me", metadata={}, store=True) == parsed()


@pytest.mark.parametrize("alias", ["n_predict", "max_completion_tokens", "max_tokens"])
def test_the_aliases_of_max_tokens(alias: str) -> None:
    assert parsed(**{alias: 7}).max_tokens == 7
    assert mistake(**{alias: -2}) == (
        f"Field '{alias}': Value must be between -1 <= value <= {INT_MAX}, but got -2"
    )


def test_the_first_alias_wins() -> None:
    assert parsed(max_tokens=1, max_completion_tokens=2, n_predict=3).max_tokens == 3


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("temperature", -1, 0.0),
        ("temperature", 10**400, FLOAT_MAX),
        ("top_k", -5, 0),
        ("top_k", 40.0, 40),
        ("top_p", 2, 1.0),
        ("min_p", -0.1, 0.0),
        ("repeat_last_n", INT_MAX, LAST_N_MAX),
        ("repeat_penalty", 0, 0.001),
        ("dry_penalty_last_n", INT_MAX, LAST_N_MAX),
        ("dry_base", 0.5, 1.75),
        ("typical_p", 3, 1.0),
        ("top_n_sigma", -5, -1.0),
        ("xtc_probability", 2, 1.0),
        ("xtc_threshold", -1, 0.0),
        ("dynatemp_range", -1, 0.0),
        ("mirostat", 7, 2),
        ("adaptive_target", 2, 1.0),
    ],
)
def test_soft_limits_clamp(field: str, given: float, kept: float) -> None:
    assert getattr(parsed(**{field: given}).sampling, field) == kept


@pytest.mark.parametrize(
    "field",
    [
        "repeat_last_n",
        "sse_ping_interval",
        "dry_penalty_last_n",
        "dry_allowed_length",
        "min_keep",
        "adaptive_decay",
        "n_probs",
    ],
)
def test_hard_limits_refuse(field: str) -> None:
    assert f"Field '{field}': Value must be between" in mistake(**{field: -2})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", "yes"),
        ("stream", 1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", 1.5),
        ("top_k", False),
        ("seed", "x"),
        ("stream_options", []),
        ("model", 3),
        ("max_tokens", True),
        ("stop", 3),
        ("stop", ["a", 3]),
        ("ignore_eos", "no"),
        ("logprobs", 1),
        ("top_n_sigma", "x"),
        ("samplers", 3),
        ("samplers", [3]),
        ("dry_sequence_breakers", "x"),
        ("dry_sequence_breakers", []),
        ("dry_sequence_breakers", [3]),
        ("logit_bias", 3),
        ("logit_bias", {"5": True}),
        ("logit_bias", {"5": "much"}),
        ("logit_bias", [[1.5, 1]]),
        ("logit_bias", [[True, 1]]),
    ],
)
def test_a_wrong_type_names_its_field(field: str, value: Any) -> None:
    assert mistake(**{field: value}).startswith(f"Field '{field}': expected ")


def test_a_field_within_an_object_is_named_by_its_path() -> None:
    message = mistake(stream_options={"include_usage": 1})
    assert message.startswith("Field 'stream_options.include_usage'")


@pytest.mark.parametrize(
    ("seed", "kept"),
    [(None, RANDOM), (-1, RANDOM), (2**32 - 1, RANDOM), (7, 7), (2**40 + 3, 3), (-2, 2**32 - 2)],
)
def test_a_seed_is_always_concrete(seed: int | None, kept: int) -> None:
    assert parsed(seed=seed).sampling.seed == kept


def test_every_sampling_parameter_is_kept() -> None:
    told: dict[str, Any] = {
        "dynatemp_range": 0.5,
        "dynatemp_exponent": 2.0,
        "top_n_sigma": 1.5,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "typical_p": 0.9,
        "dry_multiplier": 0.8,
        "dry_base": 2.0,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 9,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.2,
        "adaptive_target": 0.5,
        "adaptive_decay": 0.5,
        "min_keep": 2,
        "post_sampling_probs": True,
    }
    request = parsed(**told, dry_sequence_breakers=["\n"], seed=3)
    assert request.sampling == SamplingParams(seed=3, dry_sequence_breakers=("\n",), **told)


def test_samplers_are_names_or_letters() -> None:
    assert parsed(samplers=["xtc", "top_k"]).sampling.samplers == ("xtc", "top_k")
    assert parsed(samplers="".join(SAMPLER_LETTERS)).sampling.samplers == tuple(
        SAMPLER_LETTERS.values()
    )
    assert parsed(samplers="edskypmxt") == parsed(samplers="") == parsed(samplers=[]) == parsed()
    assert "'warp' is not one of adaptive_p, dry" in mistake(samplers=["warp"])
    assert "'z' is not one of a, d" in mistake(samplers="kz")
    assert f"more than {SAMPLERS_MAX}" in mistake(samplers="k" * 33)


@pytest.mark.parametrize("given", [["a"] * 17, ["ab"] * 5, ["a" * 41], [""]])
def test_sequence_breakers_are_limited(given: list[str]) -> None:
    assert parsed(dry_sequence_breakers=["ab"] * 4 + ["c"] * 12)
    assert mistake(dry_sequence_breakers=given).startswith("Field 'dry_sequence_breakers': ")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([[15, 2], [15, 0.5]], ((15, 2.0), (15, 0.5))),
        ([["Hi", -1], [5, False]], (("Hi", -1.0), (5, None))),
        ({"15": 2, "Hi": False}, ((15, 2.0), ("Hi", None))),
        ([["15", 1]], (("15", 1.0),)),
        ({"5": 10**400, "6": -(10**400)}, ((5, FLOAT_MAX), (6, -FLOAT_MAX))),
        ([[-7, 1], [10**30, 1]], ((-1, 1.0), (INT_MAX, 1.0))),
        ([], ()),
    ],
)
def test_a_logit_bias_is_of_an_id_or_a_text(given: Any, kept: Any) -> None:
    assert parsed(logit_bias=given).sampling.logit_bias == kept


@pytest.mark.parametrize("given", [[3], [[1]], [[1, 2, 3]], {"": 1}, [["x" * 300, 1]]])
def test_a_logit_bias_of_neither_is_a_mistake(given: Any) -> None:
    assert mistake(logit_bias=given).startswith("Field 'logit_bias': ")


def test_logit_biases_are_limited() -> None:
    assert parsed(logit_bias=[[1, 1]] * LOGIT_BIASES_MAX)
    assert "more than" in mistake(logit_bias=[[1, 1]] * (LOGIT_BIASES_MAX + 1))


@pytest.mark.parametrize(
    ("fields", "wanted", "count"),
    [
        ({}, False, 0),
        ({"logprobs": False}, False, 0),
        ({"logprobs": True}, True, N_PROBS),
        ({"logprobs": True, "top_logprobs": 3}, True, 3),
        ({"logprobs": True, "top_logprobs": 0}, True, 0),
        ({"n_probs": 5}, True, 5),
        ({"logprobs": True, "top_logprobs": 2, "n_probs": 5}, True, 2),
    ],
)
def test_probabilities_are_told_where_somebody_asks(
    fields: dict[str, Any], wanted: bool, count: int
) -> None:
    sampling = parsed(**fields).sampling
    assert (sampling.logprobs, sampling.n_probs) == (wanted, count)


def test_top_logprobs_alone_are_a_mistake() -> None:
    assert mistake(top_logprobs=3) == "top_logprobs requires logprobs to be set to true"
    assert mistake(logprobs=True, top_logprobs=101) == (
        f"Field 'top_logprobs': Value must be between 0 <= value <= {N_PROBS_MAX}, but got 101"
    )


def test_stop_is_a_text_or_several() -> None:
    assert parsed(stop="a").stop == ("a",)
    assert parsed(stop=["a", "", "b"]).stop == ("a", "b")
    assert "more than" in mistake(stop=["x"] * 300)
    assert "longer than" in mistake(stop="x" * 5000)


def test_a_ping_without_a_pause_is_one_second() -> None:
    assert parsed(sse_ping_interval=0).ping_interval_s == 1
    assert parsed(sse_ping_interval=-1).ping_interval_s == -1


def test_n_is_how_many_answers_there_are_to_be() -> None:
    assert (parsed().n, parsed(n=3).n, parsed(n=3, n_cmpl=2).n, parsed(n=3).choices) == (1, 3, 2, 3)


@pytest.mark.parametrize("n", [0, -1, CHOICES_MAX + 1, "1", True, 1.5])
def test_so_many_answers_there_cannot_be(n: Any) -> None:
    assert mistake(n=n).startswith("Field 'n': ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{}]),
    ],
)
def test_what_is_not_built_is_refused_by_name(field: str, value: Any) -> None:
    assert mistake(**{field: value}) == f"Field '{field}': not supported yet"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", []),
        ("tool_choice", "none"),
        ("tool_choice", "auto"),
        ("response_format", {"type": "text"}),
        ("n", 1),
        ("typical_p", 1.0),
        ("top_n_sigma", -1),
        ("logprobs", False),
        ("logit_bias", {}),
    ],
)
def test_what_asks_for_nothing_is_accepted(field: str, value: Any) -> None:
    assert parsed(**{field: value}) == parsed()


REFUSAL = {"type": "refusal", "refusal": "No."}


def test_a_refusal_is_what_the_assistant_said() -> None:
    part = {"type": "text", "text": "Well,"}
    first = {"role": "assistant", "content": [part, REFUSAL]}
    second = {"role": "assistant", "content": None, "refusal": "No."}
    assert [
        one["content"] for one in parsed(messages=[first, *HELLO, second, *HELLO]).messages
    ] == [
        [part, {"type": "text", "text": "No."}],
        "hello",
        "No.",
        "hello",
    ]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "'messages' is required"),
        ({}, "Expected 'messages' to be an array"),
        (["x"], "Field 'messages[0]': expected an object, but got a string"),
        ([{}], "Field 'messages[0].role'"),
        ([{"role": "user"}], "All non-assistant messages must contain 'content'"),
        ([{"role": "assistant"}], "Assistant message must contain either 'content'"),
        ([{"role": "user", "content": 3}], "Expected 'content' to be a string or an array"),
        ([{"role": "user", "content": [{"type": "what"}]}], "unsupported content[].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'messages[0].content[0].text'"),
        ([{"role": "user", "content": [REFUSAL]}], "unsupported content[].type"),
        ([{"role": "assistant", "content": [{"type": "refusal"}]}], "content[0].refusal'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image input is not supported"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "audio input is not supported"),
        ([{"role": "tool"}], "All non-assistant messages must contain 'content'"),
        ([{**CALLING, "role": "user"}], "'messages[0].tool_calls'"),
        ([{**CALLING, "tool_calls": 3}], "'messages[0].tool_calls': expected an array"),
        ([{**CALLING, "tool_calls": [3]}], "'messages[0].tool_calls[0]': expected an object"),
        ([{**CALLING, "tool_calls": [{"type": "x"}]}], "'messages[0].tool_calls[0].type'"),
        ([{**CALLING, "tool_calls": [{}]}], "'messages[0].tool_calls[0].function'"),
        ([calling(name=3)], "'messages[0].tool_calls[0].function.name'"),
        ([calling(arguments=3)], "'messages[0].tool_calls[0].function.arguments'"),
    ],
)
def test_a_bad_message_is_named(messages: Any, message: str) -> None:
    assert message in mistake(messages=messages)


def test_calls_and_their_results_are_kept_verbatim() -> None:
    messages = [*HELLO, CALLING, {"role": "tool", "tool_call_id": "c1", "content": "4"}]
    assert parsed(messages=messages).messages == tuple(messages)


def test_the_template_gets_its_variables_and_may_leave_the_turn_unopened() -> None:
    chat = parsed(chat_template_kwargs={"mood": [1]}, add_generation_prompt=False).chat
    assert chat == ChatOptions(template_kwargs={"mood": [1]}, add_generation_prompt=False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "'chat_template_kwargs': expected an object"),
        ({"enable_thinking": "no"}, "'chat_template_kwargs.enable_thinking': expected a boolean"),
        ({"messages": []}, "'chat_template_kwargs.messages'"),
    ],
)
def test_bad_variables_of_the_template_are_named(value: Any, said: str) -> None:
    assert said in mistake(chat_template_kwargs=value)


def test_parts_of_text_are_kept_verbatim() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"}]
    assert parsed(messages=messages).messages == tuple(messages)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *NOT_BUILT,
        *SamplingParams.__slots__,
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "chat_template_kwargs",
        "add_generation_prompt",
        "continue_final_message",
        "model",
        "stream",
        "stream_options",
        "stop",
        "max_tokens",
        "n_predict",
        "sse_ping_interval",
        "timings_per_token",
        "top_logprobs",
    ]
)


@given(body=st.dictionaries(FIELDS, JSON))
def test_any_object_is_a_request_or_a_named_mistake(body: dict[str, Any]) -> None:
    try:
        request = parse({"messages": HELLO, **body}, random_seed=1)
    except RequestInvalid as error:
        assert any(name in str(error) for name in [*body, "content"])
    else:
        assert GenerationRequest.from_json(request.to_json()) == request


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"finish_reason": finish, "index": 0, "delta": delta}
    shared = {"created": 5, "id": "chatcmpl-x", "model": "m", "system_fingerprint": "b1"}
    return frames.data({"choices": [choice], **shared, "object": "chat.completion.chunk", **more})


USAGE = {"completion_tokens": 2, "prompt_tokens": 1, "total_tokens": 3}


def test_a_folded_stream_is_the_answer() -> None:
    fold = folding()
    for data in (
        frames.PING,
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "Hel"}) + chunk({"content": "lo"}),
        chunk({}, "length"),
        frames.data({"choices": [], "usage": USAGE, "timings": {"predicted_n": 2}}),
        b"data: [DONE]\n\n",
    ):
        fold.feed(data)
    answer = fold.answer()
    assert list(answer) == [
        "choices",
        "created",
        "model",
        "system_fingerprint",
        "object",
        "usage",
        "id",
        "timings",
    ]
    message = {"role": "assistant", "content": "Hello"}
    assert answer["choices"] == [{"finish_reason": "length", "index": 0, "message": message}]
    assert (answer["object"], answer["usage"]) == ("chat.completion", USAGE)
    assert fold.error is None


def test_a_fold_tells_all_probabilities() -> None:
    fold = folding()
    for number in range(3):
        choice = json.loads(chunk({"content": "x"}).removeprefix(b"data: "))
        choice["choices"][0]["logprobs"] = {"content": [number, number]}
        fold.feed(frames.data(choice))
    fold.feed(chunk({}, "stop"))
    [choice] = fold.answer()["choices"]
    assert list(choice) == ["finish_reason", "index", "message", "logprobs"]
    assert choice["logprobs"] == {"content": [0, 0, 1, 1, 2, 2]}


def test_a_fold_has_the_thought_and_the_calls() -> None:
    fold = folding()
    begun = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    for delta in (
        {"reasoning_content": "h"},
        {"reasoning_content": "m"},
        {"tool_calls": [{"index": 1, **begun}]},
        {"tool_calls": [{"index": 0, **begun}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": ":1}"}}]},
    ):
        fold.feed(chunk(delta))
    fold.feed(chunk({}, "tool_calls"))
    [choice] = fold.answer()["choices"]
    told = {**begun, "function": {"name": "f", "arguments": '{"x":1}'}}
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [begun, told],
    }


def test_a_fold_of_nothing_said_has_an_empty_content() -> None:
    fold = folding()
    fold.feed(chunk({"role": "assistant", "content": None}) + chunk({}, "stop"))
    assert fold.answer()["choices"][0]["message"]["content"] == ""


def test_a_fold_remembers_the_error() -> None:
    fold = folding()
    fold.feed(chunk({"content": "x"}))
    fold.feed(frames.closing("openai.chat", State.FAILED, "engine", "broken"))
    assert fold.error == "broken"


def test_text_may_look_like_frames() -> None:
    fold = folding()
    text = 'data: {"error":{}}\n\n: end\n\n'
    fold.feed(chunk({"content": text}))
    assert fold.answer()["choices"][0]["message"]["content"] == text
    assert json.dumps(fold.answer())

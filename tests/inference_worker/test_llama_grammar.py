"""Grammars on the real model: what comes out of it parses, validates, and survives its worker."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_recorder import Recorder, recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_worker.engine import FinishReason, SequenceSpec
from inference_worker.grammar import compiled
from inference_worker.grammar.gbnf import read
from inference_worker.grammar.matcher import EMPTY, Matcher
from replay.request import Constraint, SamplingParams
from tests.inference_worker.grammar.test_json_schema import CASES, Case, means

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")
llama_grammar = pytest.importorskip("inference_worker.llama_grammar", reason="no llama_cpp here")

TOKENS = 40
GREEDY = SamplingParams(seed=1, temperature=0)
DRAWN = SamplingParams(seed=7, temperature=1.5)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    "required": ["name", "age", "pets"],
}


@pytest.fixture(scope="module")
def recorder(model_file: Path) -> Iterator[Recorder]:
    made = llama_engine.LlamaSettings(model_file, "smollm2", slots=4, context_tokens=256, threads=1)
    with recording(llama_engine.open_llama_engine(made)) as recorder:
        yield recorder


def grammar_of(schema: Any) -> str:
    return compiled(Constraint("json_schema", "json_schema", json.dumps(schema)))


def spec(recorder: Recorder, name: str, sampling: SamplingParams, **more: Any) -> SequenceSpec:
    question = [{"role": "user", "content": "Describe Anna as JSON."}]
    prompt = tuple(recorder.engine.prompt_tokens(question))
    return SequenceSpec(name, prompt, sampling, **{"max_tokens": TOKENS, **more})


def ended(recorder: Recorder, name: str) -> FinishReason:
    finish = recorder.finish(name)
    assert finish is not None
    return finish.reason


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"temperature": 0},
        {"mirostat": 1},
        {"mirostat": 2},
        {"repeat_penalty": 1.5, "dry_multiplier": 2.0},
        {"xtc_probability": 1.0, "typical_p": 0.5},
        {"logprobs": True, "n_probs": 3},
        {"logprobs": True, "n_probs": 3, "post_sampling_probs": True},
    ],
    ids=str,
)
def test_an_answer_keeps_to_its_schema_however_it_is_drawn(
    recorder: Recorder, told: dict[str, Any]
) -> None:
    sampling = replace(DRAWN, grammar=grammar_of(PERSON), **told)
    [tokens] = recorder.run(spec(recorder, "p", sampling))
    person = json.loads(recorder.text("p"))
    assert ended(recorder, "p") is FinishReason.STOP
    assert 2 <= len(person["name"]) <= 12 and 1 <= person["age"] <= 120
    assert set(person["pets"]) <= {"cat", "dog"}
    if sampling.logprobs:
        told_of = [one for step in recorder.steps("p") for one in step.logprobs]
        assert [one.chosen.token for one in told_of] == list(tokens[:-1])


@pytest.mark.clause("FORM-1")
@settings(
    max_examples=8,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=CASES, seed=st.integers(0, 2**32 - 1))
def test_what_no_limit_cut_parses_and_validates(recorder: Recorder, case: Case, seed: int) -> None:
    grammar = grammar_of(case[0])
    recorder.run(spec(recorder, "g", replace(DRAWN, seed=seed, grammar=grammar)))
    text = recorder.text("g")
    if ended(recorder, "g") is FinishReason.STOP:
        assert means(case, json.loads(text)), text
    else:
        assert ended(recorder, "g") is FinishReason.LENGTH
        assert Matcher(read(grammar)).is_begun_by(text.rstrip("\ufffd"))


@pytest.mark.parametrize(
    "sampling", [GREEDY, DRAWN, replace(DRAWN, mirostat=2)], ids=["greedy", "drawn", "mirostat"]
)
def test_another_attempt_goes_on_within_the_grammar(
    recorder: Recorder, sampling: SamplingParams
) -> None:
    sampling = replace(sampling, grammar=grammar_of(PERSON))
    [whole] = recorder.run(spec(recorder, "w", sampling))
    for cut in (1, len(whole) - 1):
        [rest] = recorder.run(spec(recorder, "w", sampling, sampled=whole[:cut]))
        assert whole[:cut] + rest == whole


def test_neighbours_with_and_without_grammars_do_not_meet(recorder: Recorder) -> None:
    specs = [
        spec(recorder, "a", replace(GREEDY, grammar=grammar_of(PERSON))),
        spec(recorder, "b", GREEDY),
        spec(recorder, "c", replace(GREEDY, grammar='root ::= "yes" | "no"')),
    ]
    together = recorder.run(*specs)
    assert together == [recorder.run(one)[0] for one in specs]


@pytest.mark.clause("FORM-1")
def test_the_end_comes_only_where_the_grammar_allows_it_even_if_it_is_forbidden(
    recorder: Recorder,
) -> None:
    sampling = replace(GREEDY, grammar='root ::= "yes" | "no"', ignore_eos=True)
    recorder.run(spec(recorder, "e", sampling))
    assert recorder.text("e") in ("yes", "no")
    assert ended(recorder, "e") is FinishReason.STOP


def test_a_grammar_whose_tokens_are_banned_fails_that_sequence_alone(recorder: Recorder) -> None:
    everything = tuple((token, None) for token in range(recorder.engine.model.vocabulary_tokens))
    banned = replace(GREEDY, grammar='root ::= "yes"', logit_bias=everything)
    recorder.run(spec(recorder, "banned", banned), spec(recorder, "other", GREEDY))
    finish = recorder.finish("banned")
    assert finish is not None and "no token is left that the grammar allows" in finish.error
    assert ended(recorder, "other") is FinishReason.LENGTH


def test_a_grammar_that_takes_too_long_fails_that_sequence_alone(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_grammar, "LOOK_TIME_MAX_S", 0.0)
    slow = replace(GREEDY, grammar='root ::= "~"')
    recorder.run(spec(recorder, "slow", slow), spec(recorder, "other", GREEDY))
    finish = recorder.finish("slow")
    assert finish is not None and "in too many ways" in finish.error
    assert ended(recorder, "other") is FinishReason.LENGTH


def test_a_token_that_the_grammar_refuses_is_never_accepted(recorder: Recorder) -> None:
    yes = tuple(recorder.engine.tokenize("yes", add_special=False, parse_special=False))
    sampling = replace(GREEDY, grammar='root ::= "no"')
    recorder.run(spec(recorder, "y", sampling, sampled=yes))
    finish = recorder.finish("y")
    assert finish is not None and "the grammar refuses token" in finish.error


def test_a_stop_string_ends_what_the_grammar_would_go_on_with(recorder: Recorder) -> None:
    sampling = replace(GREEDY, grammar='root ::= "yes, " "very much"')
    recorder.run(spec(recorder, "s", sampling, stop=(" very",)))
    assert recorder.text("s") == "yes,"


def test_a_lazy_grammar_waits_for_its_word(recorder: Recorder) -> None:
    [plain] = recorder.run(spec(recorder, "l", GREEDY))
    text = recorder.text("l")
    word = text.split(" ")[3]
    before = text.index(word)
    grammar = f'root ::= "{word}" "~"{{3}}'
    lazy = replace(GREEDY, grammar=grammar, grammar_triggers=("never said", word))
    [tokens] = recorder.run(spec(recorder, "l", lazy))
    assert recorder.text("l") == text[:before] + word + "~~~"
    assert tokens != plain
    [rest] = recorder.run(spec(recorder, "l", lazy, sampled=tokens[:-2]))
    assert tokens[:-2] + rest == tokens


def test_a_word_that_goes_on_otherwise_wakes_nothing(recorder: Recorder) -> None:
    [plain] = recorder.run(spec(recorder, "l", GREEDY))
    text = recorder.text("l")
    word = text.split(" ")[3]
    # The token that completes the word's first letter has more letters than the grammar takes.
    grammar = f'root ::= "{word[0]}" "~"'
    lazy = replace(GREEDY, grammar=grammar, grammar_triggers=(f" {word[0]}",))
    assert recorder.run(spec(recorder, "l", lazy)) == [plain]


CRASHERS = [
    'root ::= "a"',
    "root ::= []",
    "root ::= ",
    'root ::= ("a" | "b"{2,3} [^c]*)+',
    r'root ::= "\x00"',
    r'root ::= "\U0010FFFF" [\uD800-\uE000]',
    "root ::= .{1,3}",
    'root ::= "é" [\u03b1-\u03c9]{0,1900} "𝄞"',
]


@pytest.mark.parametrize("grammar", CRASHERS)
def test_whatever_passes_prepare_is_whole_after_any_answer(
    recorder: Recorder, grammar: str
) -> None:
    compiled(Constraint("grammar", "grammar", grammar))
    recorder.run(spec(recorder, "x", replace(DRAWN, grammar=grammar), max_tokens=12))
    finish = recorder.finish("x")
    assert finish is not None
    if finish.reason is FinishReason.STOP and "\ufffd" not in recorder.text("x"):
        matcher = Matcher(read(grammar))
        stacks = matcher.start()
        for character in recorder.text("x"):
            stacks = matcher.after(stacks, ord(character))
        assert EMPTY in stacks
    elif finish.reason is FinishReason.FAILED:
        assert "no token is left" in finish.error


def test_a_token_alone_wakes_a_grammar() -> None:
    sampling = SamplingParams(seed=1, grammar='root ::= "x" "y"', grammar_triggers=(1,))
    vocabulary = SimpleNamespace(spellings=[b"a", b"x"])
    trigger = llama_grammar._Trigger(sampling, vocabulary)
    assert [trigger.after(token) for token in (0, 0, 1)] == [[], [], [1]]

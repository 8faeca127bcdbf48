import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_recorder import Recorder, recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_worker.engine import EngineFailed, SequenceSpec, TokenLogprobs
from inference_worker.likelihood import likeliest
from inference_worker.model import Feed
from replay.request import SAMPLERS, SamplingParams

llama_sampler = pytest.importorskip("inference_worker.llama_sampler", reason="no llama_cpp here")
llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

TOKENS = 8
DRAWN = SamplingParams(seed=7, temperature=1.5, min_p=0.0)
GREEDY = SamplingParams(seed=7, temperature=0)


def test_no_position_ever_gets_the_seed_that_means_random() -> None:
    position_seed = llama_sampler.position_seed
    seeds = [position_seed(seed, index) for seed in range(50) for index in range(50)]
    assert len(set(seeds)) > 2490
    assert max(seeds) < llama_sampler.RANDOM_SEED


@pytest.fixture(scope="module")
def recorder(model_file: Path) -> Iterator[Recorder]:
    settings = llama_engine.LlamaSettings(
        model_file, "smollm2", slots=4, context_tokens=256, threads=1
    )
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        yield recorder


def tokens_of(recorder: Recorder, text: str) -> list[int]:
    return recorder.engine.tokenize(text, add_special=False, parse_special=False)


def spec(recorder: Recorder, name: str, sampling: SamplingParams, **more: Any) -> SequenceSpec:
    prompt = tuple(tokens_of(recorder, "la la la. He said: la la la. She said:"))
    return SequenceSpec(name, prompt, sampling, **{"max_tokens": TOKENS, **more})


def runs(recorder: Recorder, *samplings: SamplingParams) -> list[tuple[int, ...]]:
    return recorder.run(*(spec(recorder, f"{n}", one) for n, one in enumerate(samplings)))


def told(recorder: Recorder, name: str) -> tuple[TokenLogprobs, ...]:
    return tuple(one for step in recorder.steps(name) for one in step.logprobs)


CHANGES = {
    "top_k": {"top_k": 1},
    "top_p": {"top_p": 0.01},
    "min_p": {"min_p": 1.0},
    "typical_p": {"typical_p": 0.01},
    "top_n_sigma": {"top_n_sigma": 0.01},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.01},
    "dynatemp": {"dynatemp_range": 1.5, "dynatemp_exponent": 4.0},
    "penalties": {"repeat_penalty": 2.0, "frequency_penalty": 1.0},
    "dry": {"dry_multiplier": 50.0, "dry_allowed_length": 1, "dry_sequence_breakers": ("\n",)},
    "mirostat": {"mirostat": 1, "mirostat_tau": 1.0, "mirostat_eta": 0.9},
    "mirostat_v2": {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.9},
    "adaptive_p": {"samplers": (*SAMPLERS, "adaptive_p"), "adaptive_target": 0.3},
    "samplers": {"samplers": ("temperature",)},
}


@pytest.mark.parametrize("told", CHANGES.values(), ids=CHANGES.keys())
def test_each_sampler_changes_the_answer_reproducibly(
    recorder: Recorder, told: dict[str, Any]
) -> None:
    changed = replace(DRAWN, **told)
    plain, one, two = runs(recorder, DRAWN, changed, changed)
    assert one == two != plain


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "top_n_sigma"])
def test_what_leaves_only_the_best_is_greedy(recorder: Recorder, name: str) -> None:
    greedy, narrow = runs(recorder, GREEDY, replace(DRAWN, **CHANGES[name]))
    assert narrow == greedy


def test_a_range_warms_up_a_temperature_of_0_but_not_mirostats(recorder: Recorder) -> None:
    ranged, mirostat = {"dynatemp_range": 3.0}, CHANGES["mirostat_v2"]
    greedy, warm, without, beside = runs(
        recorder,
        GREEDY,
        replace(GREEDY, min_p=0.0, top_p=1.0, top_k=0, **ranged),
        replace(DRAWN, **mirostat),
        replace(DRAWN, **mirostat, **ranged),
    )
    assert warm != greedy
    assert beside == without


def test_the_order_of_samplers_matters(recorder: Recorder) -> None:
    # Of the best token alone, xtc leaves out nothing.
    xtc = {"xtc_probability": 1.0, "xtc_threshold": 0.01, "top_k": 1}
    greedy, before, after = runs(
        recorder,
        GREEDY,
        replace(DRAWN, samplers=("xtc", "top_k"), **xtc),
        replace(DRAWN, samplers=("top_k", "xtc"), **xtc),
    )
    assert after == greedy != before


def test_the_infill_sampler_never_looks_at_a_whole_vocabulary(recorder: Recorder) -> None:
    cut = {"samplers": ("top_k", "infill"), "top_k": llama_sampler.INFILL_CANDIDATES}
    alone, after = runs(recorder, replace(DRAWN, samplers=("infill",)), replace(DRAWN, **cut))
    assert alone == after


def test_samplers_that_are_not_named_do_nothing(recorder: Recorder) -> None:
    one, two = runs(
        recorder,
        replace(DRAWN, samplers=("top_k",), repeat_penalty=2.0, temperature=0.1, dry_multiplier=9),
        replace(DRAWN, samplers=("top_k",)),
    )
    assert one == two


def test_a_bias_forces_or_bans_a_token(recorder: Recorder) -> None:
    [greedy] = runs(recorder, GREEDY)
    forced, banned = runs(
        recorder,
        replace(DRAWN, logit_bias=((99, 100.0),)),
        replace(GREEDY, logit_bias=((greedy[0], None), (greedy[1], None))),
    )
    assert set(forced) == {99}
    assert not {greedy[0], greedy[1]} & set(banned)


STATES = ("xtc", "dry", "penalties", "mirostat", "mirostat_v2", "adaptive_p")


@pytest.mark.parametrize("name", STATES)
def test_a_takeover_goes_on_as_it_would_have(recorder: Recorder, name: str) -> None:
    sampling = replace(DRAWN, logprobs=True, n_probs=2, post_sampling_probs=True, **CHANGES[name])
    [whole] = runs(recorder, sampling)
    probable = told(recorder, "0")
    for cut in (1, TOKENS - 2):
        [rest] = recorder.run(spec(recorder, "0", sampling, sampled=whole[:cut]))
        assert whole[:cut] + rest == whole
        shown = len(told(recorder, "0"))
        assert told(recorder, "0") == probable[len(probable) - shown :]


def test_logprobs_are_the_models_whatever_the_samplers_do(recorder: Recorder) -> None:
    sampling = replace(GREEDY, logprobs=True, n_probs=3)
    [tokens] = runs(recorder, sampling)
    greedy = told(recorder, "0")
    assert [one.chosen.token for one in greedy] == list(tokens)
    for one in greedy:
        assert one.chosen == one.top[0]
        logs = [candidate.likelihood for candidate in one.top]
        assert len(logs) == 3 and logs == sorted(logs, reverse=True)
        assert 0 < sum(map(math.exp, logs)) <= 1
        assert one.chosen.piece == recorder.engine.piece(one.chosen.token)
    runs(recorder, replace(sampling, logit_bias=((99, 100.0),)))
    forced = told(recorder, "0")[0]
    assert forced.top == greedy[0].top
    assert forced.chosen.token == 99
    assert forced.chosen.likelihood < forced.top[-1].likelihood


def test_probabilities_after_sampling_are_those_it_was_drawn_with(recorder: Recorder) -> None:
    post = {"logprobs": True, "n_probs": 5, "post_sampling_probs": True}
    runs(recorder, replace(DRAWN, top_k=2, top_p=1.0, **post), replace(GREEDY, **post))
    for one in told(recorder, "0"):
        assert len(one.top) <= 2
        assert sum(candidate.likelihood for candidate in one.top) == pytest.approx(1, abs=1e-4)
        assert one.chosen in one.top
    for one in told(recorder, "1"):
        assert one.top == (one.chosen,)
        assert one.chosen.likelihood == 1


def test_asking_for_probabilities_changes_no_draw(recorder: Recorder) -> None:
    plain, before, after = runs(
        recorder,
        DRAWN,
        replace(DRAWN, logprobs=True, n_probs=1),
        replace(DRAWN, logprobs=True, post_sampling_probs=True),
    )
    assert plain == before == after


@pytest.fixture(scope="module")
def decoded(model_file: Path) -> Iterator[tuple[Any, Any]]:
    """A model, and the row of logits that its last decode left, to be overwritten."""
    settings = llama_engine.LlamaSettings(model_file, "rows", slots=1, context_tokens=64, threads=1)
    model = llama_engine.LlamaModel(settings)
    model.decode((Feed(0, (1,), 0, True),))
    yield model, llama_sampler._logits(model._context, 0, model.info.vocabulary_tokens)
    model.close()


def drawn(model: Any, sampling: SamplingParams, *, index: int, looks_at_all: bool) -> Any:
    """What a new sampler draws from the row, and all that it leaves of it."""
    sampler = llama_sampler.Sampler(sampling, model._vocabulary, prompt=(1, 2, 3))
    if looks_at_all:
        sampler._is_greedy, sampler._kept = False, 0
    draw = sampler.sample(model._context, row=0, index=index)
    left = sampler._candidates.left.tolist() if sampler._is_post else []
    sampler.close()
    return draw, left


FIRST_TOP_K = (
    {},
    {"temperature": 0.0},
    {"temperature": 3.0, "top_p": 1.0, "min_p": 0.0},
    {"dynatemp_range": 0.5, "xtc_probability": 0.9, "xtc_threshold": 0.05},
    {"samplers": ("top_k", "typ_p", "penalties", "temperature"), "repeat_penalty": 1.5},
    {"logit_bias": ((7, 50.0), (8, None))},
)
POST = {"logprobs": True, "n_probs": 3, "post_sampling_probs": True}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    steps=st.sampled_from((0.0, 1e-3, 0.25, 2.0, 100.0)),
    possible=st.sampled_from((1.0, 0.5, 1e-3, 1e-4)),
    top_k=st.sampled_from((1, 2, 3, 40, 127, 128, 129, 500, 1023, 1024, 60_000)),
    more=st.sampled_from(FIRST_TOP_K),
    told=st.sampled_from(({}, {"logprobs": True, "n_probs": 50}, POST)),
)
def test_of_the_few_that_it_looks_at_it_draws_what_llama_cpp_draws_of_all(
    decoded: tuple[Any, Any],
    seed: int,
    steps: float,
    possible: float,
    top_k: int,
    more: dict[str, Any],
    told: dict[str, Any],
) -> None:
    """From rows with many equal logits (multiples of ``steps``), with few that are possible."""
    model, logits = decoded
    random = np.random.default_rng(seed)
    row = random.normal(-1, 3, len(logits))
    row = np.round(row / steps) * steps if steps else row
    logits[:] = np.where(random.random(len(logits)) < possible, row, -np.inf)
    logits[seed % len(logits)] = 0  # one is always left
    sampling = SamplingParams(seed=seed, top_k=top_k, **more, **told)
    few, all_tokens = (
        drawn(model, sampling, index=seed % 99, looks_at_all=looks) for looks in (False, True)
    )
    assert few == all_tokens


def test_it_looks_at_few_unless_two_of_them_are_equal(decoded: tuple[Any, Any]) -> None:
    model, logits = decoded
    sampler = llama_sampler.Sampler(SamplingParams(seed=1), model._vocabulary, prompt=(1,))
    logits[:] = np.arange(len(logits))
    best = likeliest(logits, 41)
    assert sampler._chosen_of_few(logits, best, 0) in best
    logits[best[40]] = logits[best[39]]
    assert sampler._chosen_of_few(logits, likeliest(logits, 41), 0) is None
    sampler.close()


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=7)])
def test_a_row_that_holds_no_numbers_draws_what_llama_cpp_draws(
    decoded: tuple[Any, Any], sampling: SamplingParams
) -> None:
    model, logits = decoded
    logits[:] = np.nan
    few, all_tokens = (
        drawn(model, sampling, index=3, looks_at_all=looks) for looks in (False, True)
    )
    assert few == all_tokens


@pytest.mark.parametrize("place", [0, 5, 777])
def test_the_greatest_is_looked_for_past_what_is_no_number(
    decoded: tuple[Any, Any], place: int
) -> None:
    model, logits = decoded
    logits[:] = -np.abs(np.arange(len(logits)) - 777)
    logits[place] = np.nan
    few, all_tokens = (drawn(model, GREEDY, index=0, looks_at_all=looks) for looks in (False, True))
    assert few == all_tokens


def test_what_was_looked_for_in_the_vocabulary_is_kept_for_the_next(recorder: Recorder) -> None:
    model: Any = recorder.engine
    vocabulary = model._model._vocabulary
    limit = llama_sampler.DRY_PROTOTYPES_MAX
    for number in (*range(limit + 2), 2, limit + 1):
        sampling = replace(DRAWN, dry_multiplier=1.0 + number, dry_sequence_breakers=("*",))
        llama_sampler.Sampler(sampling, vocabulary, prompt=()).close()
    kept = [key[0] - 1 for key in vocabulary._dry]
    assert kept == [*range(3, limit + 1), 2, limit + 1]


def test_a_grammar_that_is_refused_leaves_no_samplers_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise EngineFailed("the grammar refuses token 5")

    made: list[None] = []
    monkeypatch.setattr(llama_sampler, "TokenGrammar", refuse)
    monkeypatch.setattr(
        llama_sampler.llama_cpp, "llama_sampler_chain_init", lambda *_: made.append(None)
    )
    vocabulary: Any = None
    with pytest.raises(EngineFailed):
        llama_sampler.Sampler(SamplingParams(seed=1, grammar="root ::="), vocabulary, prompt=(1,))
    assert made == []

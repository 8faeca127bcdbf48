"""How the next token is to be chosen: llama.cpp's sampling parameters, in any dialect. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.fields import INT_MAX, Fields, is_number, mistyped
from api.problems import RequestInvalid
from replay.request import SAMPLERS, SEED_MAX, LogitBias, SamplingParams

LAST_N_MAX = 1 << 20
"""The samplers that look back allocate this many places."""

SAMPLERS_MAX = 32
BREAKERS_MAX = 16
LONG_BREAKERS_MAX = 4
"""Of more than one character: a worker may look for such a one in its vocabulary for 0.6 s, while
all that it runs waits."""

BREAKER_CHARACTERS_MAX = 40
LOGIT_BIASES_MAX = 1024
LOGIT_BIAS_CHARACTERS_MAX = 256
N_PROBS_MAX = 100
"""More would make a frame of every token that is larger than most answers."""

N_PROBS = 20
"""Of chat's ``logprobs`` where nobody says how many."""

DRY_BASE = 1.75

SAMPLER_LETTERS = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "i": "infill",
    "a": "adaptive_p",
}
_NAMES = frozenset(SAMPLER_LETTERS.values())


def parse_sampling(fields: Fields, *, random_seed: int) -> SamplingParams:
    """The sampling parameters of a body, without what its dialect says of probabilities.

    ``random_seed`` is taken where the client leaves the seed to us. Raises RequestInvalid.
    """
    return SamplingParams(
        seed=_seed(fields.integer("seed", -1), random_seed),
        temperature=fields.number("temperature", 0.8, low=0),
        dynatemp_range=fields.number("dynatemp_range", 0.0, low=0),
        dynatemp_exponent=fields.number("dynatemp_exponent", 1.0, low=0),
        top_k=fields.clamped("top_k", 40, low=0),
        top_p=fields.number("top_p", 0.95, low=0, high=1),
        min_p=fields.number("min_p", 0.05, low=0, high=1),
        top_n_sigma=fields.number("top_n_sigma", -1.0, low=-1),
        xtc_probability=fields.number("xtc_probability", 0.0, low=0, high=1),
        xtc_threshold=fields.number("xtc_threshold", 0.1, low=0, high=1),
        typical_p=fields.number("typical_p", 1.0, low=0, high=1),
        repeat_last_n=_last_n(fields, "repeat_last_n"),
        repeat_penalty=fields.number("repeat_penalty", 1.0, low=0.001),
        presence_penalty=fields.number("presence_penalty", 0.0, low=-1000, high=1000),
        frequency_penalty=fields.number("frequency_penalty", 0.0, low=-1000, high=1000),
        dry_multiplier=fields.number("dry_multiplier", 0.0, low=-1000, high=1000),
        dry_base=_dry_base(fields),
        dry_allowed_length=fields.bounded("dry_allowed_length", 2, low=0),
        dry_penalty_last_n=_last_n(fields, "dry_penalty_last_n"),
        dry_sequence_breakers=_breakers(fields.get("dry_sequence_breakers")),
        mirostat=fields.clamped("mirostat", 0, low=0, high=2),
        mirostat_tau=fields.number("mirostat_tau", 5.0, low=0),
        mirostat_eta=fields.number("mirostat_eta", 0.1, low=0),
        adaptive_target=fields.number("adaptive_target", -1.0, low=-1, high=1),
        adaptive_decay=fields.bounded_number("adaptive_decay", 0.9, low=0, high=0.99),
        min_keep=fields.bounded("min_keep", 0, low=0),
        samplers=_samplers(fields.get("samplers")),
        logit_bias=_logit_bias(fields.get("logit_bias")),
        ignore_eos=fields.boolean("ignore_eos"),
        post_sampling_probs=fields.boolean("post_sampling_probs"),
    )


def _seed(asked: int, random_seed: int) -> int:
    """Any integer is a seed; -1 (as 32 bits, like llama.cpp's) leaves it to us."""
    seed = asked & SEED_MAX
    return random_seed if seed == SEED_MAX else seed


def _last_n(fields: Fields, name: str) -> int:
    return min(fields.bounded(name, 64, low=0), LAST_N_MAX)


def _dry_base(fields: Fields) -> float:
    base = fields.number("dry_base", DRY_BASE, low=0)
    return base if base >= 1 else DRY_BASE


def _breakers(value: Any) -> tuple[str, ...]:
    if value is None:
        return SamplingParams(seed=0).dry_sequence_breakers
    expected = "a non-empty array of strings"
    if not isinstance(value, list) or not value:
        raise mistyped("dry_sequence_breakers", expected, value)
    if len(value) > BREAKERS_MAX:
        raise RequestInvalid(f"Field 'dry_sequence_breakers': more than {BREAKERS_MAX} strings")
    for breaker in value:
        if not isinstance(breaker, str):
            raise mistyped("dry_sequence_breakers", expected, breaker)
        if not 0 < len(breaker) <= BREAKER_CHARACTERS_MAX:
            raise RequestInvalid(
                "Field 'dry_sequence_breakers': a string must have 1 to "
                f"{BREAKER_CHARACTERS_MAX} characters"
            )
    if sum(len(breaker) > 1 for breaker in value) > LONG_BREAKERS_MAX:
        raise RequestInvalid(
            f"Field 'dry_sequence_breakers': more than {LONG_BREAKERS_MAX} strings "
            "of more than one character"
        )
    return tuple(value)


def _samplers(value: Any) -> tuple[str, ...]:
    """Names or letters; none at all asks for nothing."""
    if not value and isinstance(value, list | str | None):
        return SAMPLERS
    if not isinstance(value, list | str):
        raise mistyped("samplers", "an array of names or a string of letters", value)
    if len(value) > SAMPLERS_MAX:
        raise RequestInvalid(f"Field 'samplers': more than {SAMPLERS_MAX}")
    by_word = SAMPLER_LETTERS if isinstance(value, str) else dict(zip(_NAMES, _NAMES, strict=True))
    for word in value:
        if not isinstance(word, str):
            raise mistyped("samplers", "an array of names", word)
        if word not in by_word:
            raise RequestInvalid(
                f"Field 'samplers': {word[:40]!r} is not one of {', '.join(sorted(by_word))}"
            )
    return tuple(by_word[word] for word in value)


def _logit_bias(value: Any) -> tuple[LogitBias, ...]:
    """``[[token, bias], ...]`` or ``{token: bias}``; a token is an id or a text."""
    if value is None:
        return ()
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list):
        raise mistyped("logit_bias", "an object or an array of pairs", value)
    if len(pairs) > LOGIT_BIASES_MAX:
        raise RequestInvalid(f"Field 'logit_bias': more than {LOGIT_BIASES_MAX} tokens")
    return tuple(_biases(pairs, ids_are_texts=isinstance(value, dict)))


def _biases(pairs: Iterable[Any], *, ids_are_texts: bool) -> Iterable[LogitBias]:
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RequestInvalid("Field 'logit_bias': expected pairs of a token and a bias")
        token, bias = pair
        if ids_are_texts and token.isascii() and token.isdigit():
            token = int(token[:LOGIT_BIAS_CHARACTERS_MAX])
        yield _token(token), _bias(bias)


def _token(token: Any) -> int | str:
    if isinstance(token, bool) or not isinstance(token, int | str):
        raise mistyped("logit_bias", "a token's id or text", token)
    if isinstance(token, int):
        # What no vocabulary reaches is as wrong as what this one does not.
        return min(max(token, -1), INT_MAX)
    if not 0 < len(token) <= LOGIT_BIAS_CHARACTERS_MAX:
        raise RequestInvalid(
            f"Field 'logit_bias': a text must have 1 to {LOGIT_BIAS_CHARACTERS_MAX} characters"
        )
    return token


def _bias(bias: Any) -> float | None:
    if bias is False:
        return None
    if not is_number(bias):
        raise mistyped("logit_bias", "a number or false", bias)
    return Fields({"logit_bias": bias}).number("logit_bias", 0.0, low=-1e6)

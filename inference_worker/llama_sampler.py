"""How llama.cpp draws a sequence's tokens.

With llama_engine, llama_embedder and llama_grammar the only module that imports llama_cpp, by its
low-level API.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llama_cpp
import numpy as np

from inference_worker.engine import Candidate, EngineFailed, TokenLogprobs
from inference_worker.likelihood import Likelihoods, likeliest
from inference_worker.llama_grammar import TOKEN_DATA, TokenGrammar
from inference_worker.model import Draw
from replay.request import SamplingParams

RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp takes this one as "draw a seed": no position may ever get it."""

MIROSTAT_CANDIDATES = 100
"""How many tokens mirostat's first version estimates from, as in llama.cpp."""

INFILL_CANDIDATES = 256
"""The infill sampler compares each token with each: of a whole vocabulary, for minutes."""

DRY_PROTOTYPES_MAX = 4
"""One that looks back 2**20 tokens has some 12 MB."""

LIKELIHOOD_DIGITS = 6
LIKELIHOOD_MIN = -3.4e38
"""The logarithm of no probability at all; JSON has no infinity."""


def position_seed(seed: int, index: int) -> int:
    """The seed of an answer's ``index``-th draw, 32 bits.

    Each position has its own, so that whoever takes the session over draws what the first worker
    would have drawn. (The finalizer of splitmix64: neighbouring positions get unrelated seeds.)
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ (mixed >> 31)) >> 32) % RANDOM_SEED


class Vocabulary:
    """llama.cpp's vocabulary, what each token shows and is called, and which ones end an answer.

    It keeps DRY samplers to clone: a new one looks for its breakers in every token, which of 49,000
    tokens takes 3 ms for a breaker of one character and up to 0.6 s for a longer one. Owned by the
    batch loop's thread; close it before the model.
    """

    def __init__(
        self,
        pointer: Any,
        pieces: Sequence[bytes],
        spellings: Sequence[bytes],
        end_tokens: frozenset[int],
    ) -> None:
        self.pointer = pointer
        self.pieces = pieces
        self.spellings = spellings
        self.end_tokens = end_tokens
        self.hidden_tokens = frozenset(
            token for token, piece in enumerate(pieces) if not piece and token not in end_tokens
        )
        """Those that show nothing, but where an answer shows their names."""
        self._dry: dict[tuple[Any, ...], Any] = {}
        self.likelihoods = Likelihoods(len(pieces))
        self._candidates = np.zeros(len(pieces), dtype=TOKEN_DATA)
        self._ids = np.arange(len(pieces))

    def candidates(self, logits: Any) -> Any:
        """All tokens with these logits, in one array that holds until it is asked for again."""
        self._candidates["id"] = self._ids
        self._candidates["logit"] = logits
        return self._candidates

    def dry(self, sampling: SamplingParams) -> Any:
        """A DRY sampler that has seen nothing."""
        settings = (
            sampling.dry_multiplier,
            sampling.dry_base,
            sampling.dry_allowed_length,
            sampling.dry_penalty_last_n,
        )
        key = (*settings, sampling.dry_sequence_breakers)
        prototype = self._dry.pop(key, None)
        if prototype is None:
            breakers = [text.encode("utf-8", "replace") for text in sampling.dry_sequence_breakers]
            texts = (ctypes.c_char_p * len(breakers))(*breakers)
            prototype = llama_cpp.llama_sampler_init_dry(
                self.pointer, *settings, texts, len(breakers)
            )
        self._dry[key] = prototype  # the last one used is the last to go
        if len(self._dry) > DRY_PROTOTYPES_MAX:
            llama_cpp.llama_sampler_free(self._dry.pop(next(iter(self._dry))))
        return llama_cpp.llama_sampler_clone(prototype)

    def close(self) -> None:
        """Frees what is kept; once only."""
        for prototype in self._dry.values():
            llama_cpp.llama_sampler_free(prototype)
        self._dry.clear()


class Sampler:
    """One sequence's sampler chain; it lives in C and must be closed."""

    def __init__(
        self,
        sampling: SamplingParams,
        vocabulary: Vocabulary,
        *,
        prompt: tuple[int, ...],
        answer: tuple[int, ...] = (),
        shown_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """``answer`` is what was drawn before. Raises EngineFailed where the grammar refuses it."""
        self._sampling = sampling
        self._vocabulary = vocabulary
        # First, since it may raise, and who is not made frees nothing.
        self._grammar: TokenGrammar | None = None
        if sampling.grammar:
            self._grammar = TokenGrammar(
                sampling, vocabulary, answer=answer, shown_tokens=shown_tokens
            )
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        self._names = _chain_of(sampling, vocabulary)
        self._first_seeded = next(
            (place for place, name in enumerate(self._names) if name in _SEEDED), len(self._names)
        )
        for name in self._names:
            self._add(self._made(name, index=0))
        back = _looks_back(sampling)
        for token in (prompt + answer)[-back:] if back else ():
            llama_cpp.llama_sampler_accept(self._chain, token)
        self._held: Any = None

    def sample(self, context: Any, *, row: int, index: int, forced: int | None = None) -> Draw:
        """Draws from a row of the last decode's logits, and remembers what it drew.

        With ``forced`` it draws too, since that may change its state, but remembers that one.
        """
        post = self._sampling.logprobs and self._sampling.post_sampling_probs
        if forced is None and not post and self._grammar is None:
            self._reseed(index)
            token = int(llama_cpp.llama_sampler_sample(self._chain, context, row))
            return Draw(token, self._logprobs(token, context, row))
        drawn, left = self._drawn(_logits(context, row, self._size), index)
        token = drawn if forced is None else forced
        llama_cpp.llama_sampler_accept(self._chain, token)
        if self._grammar is not None:
            self._grammar.accept(token)
        if post:
            return Draw(token, self._probabilities(token, left))
        return Draw(token, self._logprobs(token, context, row))

    def close(self) -> None:
        """Frees the chain with all that is in it, and the grammar."""
        llama_cpp.llama_sampler_free(self._chain)
        if self._grammar is not None:
            self._grammar.close()

    @property
    def _size(self) -> int:
        return len(self._vocabulary.pieces)

    def _drawn(self, logits: Any, index: int) -> tuple[int, Any]:
        """The token that is chosen, and what the samplers left, which holds until they go on.

        The grammar is asked about the token alone, and only where it refuses about all of them:
        that takes milliseconds.
        """
        self._reseed(index)
        drawn = self._applied(self._vocabulary.candidates(logits))
        if self._grammar is None or self._grammar.allows(drawn[0]):
            return drawn
        self._reseed(index)
        allowed = self._grammar.allowed(self._vocabulary.candidates(logits))
        return self._applied(self._possible(allowed))

    def _possible(self, allowed: Any) -> Any:
        """Of what the grammar allows, what the request does not ban. Raises EngineFailed."""
        banned = {token for token, bias in self._sampling.logit_bias if bias is None}
        if self._sampling.ignore_eos:
            banned |= self._vocabulary.end_tokens
        possible = allowed[~np.isin(allowed["id"], list(banned))]
        if len(possible):
            return possible
        ends = allowed[np.isin(allowed["id"], list(self._vocabulary.end_tokens))]
        if self._sampling.ignore_eos and len(ends):
            return ends  # there is nothing else left to say
        raise EngineFailed("no token is left that the grammar allows")

    def _applied(self, candidates: Any) -> tuple[int, Any]:
        """The token that the chain chooses among these, and what it left of them."""
        self._held = candidates  # what is left of them lies in their memory
        pointer = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(pointer, len(candidates), -1, False)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        # A sampler may have put its own array in the place of ours.
        left = np.ctypeslib.as_array(array.data, shape=(array.size,))
        return int(left["id"][array.selected]), left

    def _logprobs(self, token: int, context: Any, row: int) -> TokenLogprobs | None:
        """As the model gave them."""
        if not self._sampling.logprobs:
            return None
        logits = _logits(context, row, self._size)
        tokens = [token, *likeliest(logits, self._sampling.n_probs).tolist()]
        told = self._vocabulary.likelihoods.logarithms(logits, tokens)
        chosen, *top = map(self._candidate, tokens, np.maximum(told, LIKELIHOOD_MIN).tolist())
        return TokenLogprobs(chosen, tuple(top))

    def _probabilities(self, token: int, left: Any) -> TokenLogprobs:
        """As the samplers left them; what they left no probability is not among the top."""
        logits = np.ascontiguousarray(left["logit"])
        top = likeliest(logits, self._sampling.n_probs)
        places = np.append(top, np.flatnonzero(left["id"] == token))
        tokens = left["id"][places].tolist()
        logarithms = self._vocabulary.likelihoods.logarithms(logits, places)
        told = dict(zip(tokens, np.exp(logarithms).tolist(), strict=True))
        return TokenLogprobs(
            self._candidate(token, told.get(token, 0.0)),
            tuple(self._candidate(one, told[one]) for one in tokens[: len(top)] if told[one] > 0),
        )

    def _candidate(self, token: int, likelihood: float) -> Candidate:
        return Candidate(
            token, self._vocabulary.pieces[token], round(likelihood, LIKELIHOOD_DIGITS)
        )

    def _reseed(self, index: int) -> None:
        """Makes the samplers that draw anew, with this position's seed; the others stay."""
        for name in self._names[self._first_seeded :]:
            sampler = llama_cpp.llama_sampler_chain_remove(self._chain, self._first_seeded)
            if name in _SEEDED:
                llama_cpp.llama_sampler_free(sampler)
                sampler = self._made(name, index=index)
            self._add(sampler)

    def _made(self, name: str, *, index: int) -> Any:
        # Not the seed of the choice itself: tokens would be left out just where it is low.
        seed = ~self._sampling.seed if name == "xtc" else self._sampling.seed
        return _MAKERS[name](self._sampling, self._vocabulary, position_seed(seed, index))

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)


def _chain_of(sampling: SamplingParams, vocabulary: Vocabulary) -> list[str]:
    """The samplers that change anything, in their order; the last one chooses."""
    biases = sampling.logit_bias or (sampling.ignore_eos and vocabulary.end_tokens)
    names = ["temperature"] if sampling.mirostat else list(sampling.samplers)
    works = [name for name in names if name in _WORKS and _WORKS[name](sampling)]
    is_shown = sampling.logprobs and sampling.post_sampling_probs
    if sampling.chooser == "greedy" and not is_shown and not {"typ_p", "xtc"} & set(works):
        works = [name for name in works if name not in _KEEPS_BEST]
    if "infill" in works:
        works.insert(works.index("infill"), "infill_candidates")
    return [*(["logit_bias"] if biases else []), *works, sampling.chooser]


def _looks_back(sampling: SamplingParams) -> int:
    """How many tokens before a draw its samplers look at."""
    works = [name for name in ("penalties", "dry") if _WORKS[name](sampling)]
    lengths = {"penalties": sampling.repeat_last_n, "dry": sampling.dry_penalty_last_n}
    return max((lengths[name] for name in works), default=0)


def _penalizes(sampling: SamplingParams) -> bool:
    neutral = (
        sampling.repeat_penalty == 1
        and sampling.frequency_penalty == 0
        and sampling.presence_penalty == 0
    )
    return sampling.repeat_last_n > 0 and not neutral


_WORKS: Mapping[str, Callable[[SamplingParams], bool]] = {
    "penalties": _penalizes,
    "dry": lambda s: s.dry_multiplier != 0 and s.dry_penalty_last_n > 0,
    "top_n_sigma": lambda s: s.top_n_sigma > 0,
    "top_k": lambda s: s.top_k > 0,
    "typ_p": lambda s: s.typical_p < 1,
    "top_p": lambda s: s.top_p < 1,
    "min_p": lambda s: s.min_p > 0,
    "xtc": lambda s: s.xtc_probability > 0 and s.xtc_threshold <= 0.5,
    "temperature": lambda s: True,
    "infill": lambda s: True,
}
"""Whether a sampler changes anything."""

_KEEPS_BEST = frozenset({"top_n_sigma", "top_k", "top_p", "min_p", "temperature"})
_SEEDED = frozenset({"xtc", "dist"})
"""The others that draw (mirostat, adaptive_p) have a state that must not be thrown away."""


def _logit_bias(sampling: SamplingParams, vocabulary: Vocabulary, seed: int) -> Any:
    banned = [(token, None) for token in sorted(vocabulary.end_tokens) if sampling.ignore_eos]
    biases = [
        llama_cpp.llama_logit_bias(token, float("-inf") if bias is None else bias)
        for token, bias in (*sampling.logit_bias, *banned)
    ]
    array = (llama_cpp.llama_logit_bias * len(biases))(*biases)
    return llama_cpp.llama_sampler_init_logit_bias(len(vocabulary.pieces), len(biases), array)


def _mirostat(sampling: SamplingParams, vocabulary: Vocabulary, seed: int) -> Any:
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    if sampling.mirostat == 1:
        size = len(vocabulary.pieces)
        return llama_cpp.llama_sampler_init_mirostat(size, seed, tau, eta, MIROSTAT_CANDIDATES)
    return llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta)


_MAKERS: Mapping[str, Callable[[SamplingParams, Vocabulary, int], Any]] = {
    "logit_bias": _logit_bias,
    "penalties": lambda s, vocabulary, _: llama_cpp.llama_sampler_init_penalties(
        len(vocabulary.pieces),
        s.repeat_last_n,
        s.repeat_penalty,
        s.frequency_penalty,
        s.presence_penalty,
    ),
    "dry": lambda s, vocabulary, _: vocabulary.dry(s),
    "top_n_sigma": lambda s, _, __: llama_cpp.llama_sampler_init_top_n_sigma(s.top_n_sigma),
    "top_k": lambda s, _, __: llama_cpp.llama_sampler_init_top_k(s.top_k),
    "typ_p": lambda s, _, __: llama_cpp.llama_sampler_init_typical(s.typical_p, s.min_keep),
    "top_p": lambda s, _, __: llama_cpp.llama_sampler_init_top_p(s.top_p, s.min_keep),
    "min_p": lambda s, _, __: llama_cpp.llama_sampler_init_min_p(s.min_p, s.min_keep),
    "xtc": lambda s, _, seed: llama_cpp.llama_sampler_init_xtc(
        s.xtc_probability, s.xtc_threshold, s.min_keep, seed
    ),
    "temperature": lambda s, _, __: llama_cpp.llama_sampler_init_temp_ext(
        s.temperature, 0.0 if s.mirostat else s.dynatemp_range, s.dynatemp_exponent
    ),
    "infill_candidates": lambda _, __, ___: llama_cpp.llama_sampler_init_top_k(INFILL_CANDIDATES),
    "infill": lambda _, vocabulary, __: llama_cpp.llama_sampler_init_infill(vocabulary.pointer),
    "greedy": lambda _, __, ___: llama_cpp.llama_sampler_init_greedy(),
    "dist": lambda _, __, seed: llama_cpp.llama_sampler_init_dist(seed),
    "mirostat": _mirostat,
    "adaptive_p": lambda s, _, seed: llama_cpp.llama_sampler_init_adaptive_p(
        s.adaptive_target, s.adaptive_decay, seed
    ),
}


def _logits(context: Any, row: int, size: int) -> Any:
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, row), shape=(size,))

"""How llama.cpp draws a sequence's tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llama_cpp
import numpy as np

from inference_worker.engine import Candidate, EngineFailed, TokenLogprobs
from inference_worker.likelihood import LIKELIEST_MAX, Likelihoods, are_falling, likeliest
from inference_worker.llama_candidates import Candidates
from inference_worker.llama_grammar import TokenGrammar
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
        self._candidates = Candidates(len(pieces))
        self._ids = np.arange(len(pieces), dtype=np.int32)

    def candidates(self, logits: Any) -> Candidates:
        """All tokens with these logits, in memory that holds until it is asked for again."""
        return self._candidates.filled(self._ids, logits)

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
        self._is_post = sampling.logprobs and sampling.post_sampling_probs
        self._is_greedy = self._names == ["greedy"] and not self._is_post
        is_cut = self._names[0] == "top_k" and sampling.top_k < LIKELIEST_MAX
        self._kept = sampling.top_k if is_cut else 0
        """How many tokens its first sampler leaves; 0 where these may be all."""
        told = sampling.n_probs if sampling.logprobs and not self._is_post else 0
        self._looked_for = max(told, self._kept + 1 if is_cut else 0)
        back = _looks_back(sampling)
        for token in (prompt + answer)[-back:] if back else ():
            llama_cpp.llama_sampler_accept(self._chain, token)
        self._few = self._candidates = Candidates(self._kept)

    def sample(self, context: Any, *, row: int, index: int, forced: int | None = None) -> Draw:
        """Draws from a row of the last decode's logits, and remembers what it drew.

        With ``forced`` it draws too, since that may change its state, but remembers that one.
        """
        logits = _logits(context, row, len(self._vocabulary.pieces))
        best = likeliest(logits, self._looked_for)
        drawn = self._chosen_of_few(logits, best, index)
        if drawn is None and forced is None and self._grammar is None and not self._is_post:
            self._reseed(index)
            token = int(llama_cpp.llama_sampler_sample(self._chain, context, row))
        else:
            drawn = self._allowed(drawn, logits, index)
            token = drawn if forced is None else forced
            llama_cpp.llama_sampler_accept(self._chain, token)
            if self._grammar is not None:
                self._grammar.accept(token)
        if not self._sampling.logprobs:
            return Draw(token)
        told = self._probabilities(token) if self._is_post else self._logprobs(token, logits, best)
        return Draw(token, told)

    def close(self) -> None:
        """Frees the chain with all that is in it, and the grammar."""
        llama_cpp.llama_sampler_free(self._chain)
        if self._grammar is not None:
            self._grammar.close()

    def _chosen_of_few(self, logits: Any, best: Any, index: int) -> int | None:
        """The token that the chain would choose of all, if ``best``, the likeliest, tell it.

        Whatever else is in the vocabulary, top_k keeps these, but for equal ones, of which it keeps
        those that its heap does. To have it look at all takes longer than the rest of a draw.
        """
        if self._is_greedy:
            greatest = int(logits.argmax())
            return None if np.isnan(logits[greatest]) else greatest
        if not self._kept:
            return None
        few = best[: self._kept + 1]
        values = logits[few]
        if not are_falling(values, self._kept + 1):
            return None
        return self._chosen(self._few.filled(few[:-1], values[:-1]), index)

    def _allowed(self, drawn: int | None, logits: Any, index: int) -> int:
        """The token that is chosen: ``drawn``, or if there is none yet, one of all.

        The grammar is asked about the token alone, and only where it refuses about all of them:
        that takes milliseconds.
        """
        if drawn is None:
            drawn = self._chosen(self._vocabulary.candidates(logits), index)
        if self._grammar is None or self._grammar.allows(drawn):
            return drawn
        allowed = self._possible(self._grammar.allowed(self._vocabulary.candidates(logits).tokens))
        return self._chosen(Candidates(len(allowed)).filled(allowed["id"], allowed["logit"]), index)

    def _chosen(self, candidates: Candidates, index: int) -> int:
        """The token that the chain chooses among these."""
        self._reseed(index)
        self._candidates = candidates
        return candidates.chosen_by(self._chain)

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

    def _logprobs(self, token: int, logits: Any, best: Any) -> TokenLogprobs:
        """As the model gave them."""
        tokens = [token, *best[: self._sampling.n_probs].tolist()]
        told = self._vocabulary.likelihoods.logarithms(logits, tokens)
        chosen, *top = self._told(tokens, np.maximum(told, LIKELIHOOD_MIN))
        return TokenLogprobs(chosen, tuple(top))

    def _probabilities(self, token: int) -> TokenLogprobs:
        """As the samplers left them; what they left no probability is not among the top."""
        left = self._candidates.left
        logits = np.ascontiguousarray(left["logit"])
        top = likeliest(logits, self._sampling.n_probs)
        places = np.append(top, np.flatnonzero(left["id"] == token))
        told = np.exp(self._vocabulary.likelihoods.logarithms(logits, places))
        candidates = self._told(left["id"][places].tolist(), told)
        possible = int(np.count_nonzero(told[: len(top)]))
        is_left = len(candidates) > len(top)
        chosen = (
            candidates[-1] if is_left else Candidate(token, self._vocabulary.pieces[token], 0.0)
        )
        return TokenLogprobs(chosen, candidates[:possible])

    def _told(self, tokens: list[int], likelihoods: Any) -> tuple[Candidate, ...]:
        pieces = self._vocabulary.pieces
        told = np.round(likelihoods, LIKELIHOOD_DIGITS).tolist()
        return tuple(map(Candidate, tokens, [pieces[token] for token in tokens], told))

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
    first = llama_cpp.llama_get_logits_ith(context, row).contents
    all_of_it = (ctypes.c_float * size).from_address(ctypes.addressof(first))
    return np.frombuffer(memoryview(all_of_it), dtype=np.float32)

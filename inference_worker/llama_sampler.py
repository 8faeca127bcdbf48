"""How llama.cpp draws a sequence's tokens.

With llama_engine the only module that imports llama_cpp, and both use its low-level API alone.
"""

from __future__ import annotations

from typing import Any

import llama_cpp

from replay.request import SamplingParams

RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp takes this one as "draw a seed": no position may ever get it."""


def position_seed(seed: int, index: int) -> int:
    """The seed of an answer's ``index``-th draw, 32 bits.

    Each position has its own, so that whoever takes the session over draws what the first worker
    would have drawn. (The finalizer of splitmix64: neighbouring positions get unrelated seeds.)
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ (mixed >> 31)) >> 32) % RANDOM_SEED


class Sampler:
    """One sequence's sampler chain, in llama.cpp's order; it lives in C and must be closed."""

    def __init__(
        self,
        sampling: SamplingParams,
        *,
        vocabulary_tokens: int,
        end_tokens: frozenset[int],
        history: tuple[int, ...],
    ) -> None:
        self._seed = sampling.seed
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        if sampling.ignore_eos:
            self._add(_bias_against(end_tokens, vocabulary_tokens))
        if _penalizes(sampling):
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    vocabulary_tokens,
                    sampling.repeat_last_n,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
            for token in history[-sampling.repeat_last_n :]:
                llama_cpp.llama_sampler_accept(self._chain, token)
        self._draws = sampling.temperature > 0
        if self._draws:
            self._add_draw(sampling)
        else:
            self._add(llama_cpp.llama_sampler_init_greedy())

    def sample(self, context: Any, *, row: int, index: int) -> int:
        """Draws from a row of the last decode's logits, and remembers what it drew."""
        if self._draws:
            last = llama_cpp.llama_sampler_chain_n(self._chain) - 1
            llama_cpp.llama_sampler_free(llama_cpp.llama_sampler_chain_remove(self._chain, last))
            self._add(llama_cpp.llama_sampler_init_dist(position_seed(self._seed, index)))
        return int(llama_cpp.llama_sampler_sample(self._chain, context, row))

    def close(self) -> None:
        """Frees the chain with all that is in it."""
        llama_cpp.llama_sampler_free(self._chain)

    def _add_draw(self, sampling: SamplingParams) -> None:
        if sampling.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 0))
        if sampling.min_p > 0:
            self._add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 0))
        self._add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        self._add(llama_cpp.llama_sampler_init_dist(0))

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)


def _penalizes(sampling: SamplingParams) -> bool:
    neutral = (
        sampling.repeat_penalty == 1
        and sampling.frequency_penalty == 0
        and sampling.presence_penalty == 0
    )
    return sampling.repeat_last_n > 0 and not neutral


def _bias_against(tokens: frozenset[int], vocabulary_tokens: int) -> Any:
    biases = (llama_cpp.llama_logit_bias * len(tokens))(
        *(llama_cpp.llama_logit_bias(token, float("-inf")) for token in sorted(tokens))
    )
    return llama_cpp.llama_sampler_init_logit_bias(vocabulary_tokens, len(tokens), biases)

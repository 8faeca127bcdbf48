"""llama.cpp's grammar of one sequence: which tokens it allows next.

llama.cpp ends the process when a token is accepted that the grammar refuses, so nothing is accepted
here unasked. What a grammar is, and which ones may come here, ``inference_worker.grammar`` says.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from inference_worker.engine import EngineFailed
from inference_worker.grammar.gbnf import read
from inference_worker.grammar.matcher import Matcher
from inference_worker.llama_candidates import TOKEN_DATA
from replay.request import SamplingParams

if TYPE_CHECKING:
    from inference_worker.llama_sampler import Vocabulary

LOOK_TIME_MAX_S = 1.0
"""Of this thread's own time, for one look at all tokens: a hundred times what a grammar takes that
can be read in few ways. Prepare refuses what doubles with each character, not what grows slowly."""

_SPECIAL_IN_REGEX = re.compile(r"[.^$|()*+?\[\]{}\\]")


class TokenGrammar:
    """It lives in C and must be closed.

    One with triggers is lazy: it constrains nothing before one comes up.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        vocabulary: Vocabulary,
        *,
        answer: Iterable[int] = (),
        shown_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """``shown_tokens`` show their names in this answer.

        Raises EngineFailed where llama.cpp cannot read it, or it refuses the answer so far.
        """
        # What shows nothing would count as its name: llama.cpp's grammars know no difference.
        self._hidden_tokens = vocabulary.hidden_tokens - shown_tokens
        self._trigger: _Trigger | None = None
        text = sampling.grammar.encode("utf-8", "replace")
        if sampling.grammar_triggers:
            self._trigger = _Trigger(sampling, vocabulary)
            self._sampler = _lazy_sampler(sampling, vocabulary, text)
        else:
            self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary.pointer, text, b"root")
        if not self._sampler:
            raise EngineFailed("failed to parse grammar")
        try:
            for token in answer:
                self.accept(token)
        except EngineFailed:
            self.close()
            raise

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        if self._trigger is not None:
            return True
        if token in self._hidden_tokens:
            return False
        return bool(np.isfinite(self._applied(_candidate(token))["logit"][0]))

    def allowed(self, candidates: Any) -> Any:
        """Those of all tokens that may come next. Raises EngineFailed where that takes too long."""
        if self._trigger is not None:
            return candidates
        candidates["logit"][list(self._hidden_tokens)] = -np.inf
        begun_s = time.thread_time()
        applied = self._applied(candidates)
        if time.thread_time() - begun_s > LOOK_TIME_MAX_S:
            raise EngineFailed("the grammar can be read in too many ways")
        return applied[np.isfinite(applied["logit"])]

    def accept(self, token: int) -> None:
        """Goes on behind a token. Raises EngineFailed for one that is not allowed."""
        if self._trigger is not None:
            begun = self._trigger.after(token)
            if begun:
                self._trigger = None
            for one in begun:
                llama_cpp.llama_sampler_accept(self._sampler, one)
        elif self.allows(token):
            llama_cpp.llama_sampler_accept(self._sampler, token)
        else:
            raise EngineFailed(f"the grammar refuses token {token}")

    def close(self) -> None:
        """Frees it."""
        llama_cpp.llama_sampler_free(self._sampler)

    def _applied(self, candidates: Any) -> Any:
        pointer = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(pointer, len(candidates), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return candidates


class _Trigger:
    """Waits for what wakes a lazy grammar.

    llama.cpp would look through the whole answer for it at each token, with a regex that recurses;
    it gets only the tokens among which a word was found.
    """

    def __init__(self, sampling: SamplingParams, vocabulary: Vocabulary) -> None:
        self._spellings = vocabulary.spellings
        self._words = [one.encode() for one in sampling.grammar_triggers if isinstance(one, str)]
        self._tokens = {one for one in sampling.grammar_triggers if isinstance(one, int)}
        self._longest_bytes = max(map(len, self._words), default=0)
        self._grammar = sampling.grammar
        self._tail: list[int] = []
        """The last tokens, among which a word may have begun."""

    def after(self, token: int) -> list[int]:
        """The tokens that the grammar begins with, once it is awake; before, none.

        A token that goes on behind the word in a way that the grammar refuses wakes nothing.
        """
        self._tail.append(token)
        if token in self._tokens:
            return self._begun([token], 0)
        text = self._text(self._tail)
        for word in self._words:
            if (start := text.find(word)) >= 0:
                return self._begun(self._tail, start)
        while self._tail and len(text) >= self._longest_bytes:
            text = text[len(self._spellings[self._tail.pop(0)]) :]
        return []

    def _begun(self, tokens: list[int], start: int) -> list[int]:
        """The tokens, where the grammar takes their text from byte ``start`` on."""
        self._tail = []
        text = self._text(tokens)[start:].decode("utf-8", "ignore")
        return tokens if Matcher(_read(self._grammar)).is_begun_by(text) else []

    def _text(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self._spellings[one] for one in tokens)


_read = lru_cache(maxsize=8)(read)
"""Answers of one request, and of one kind, have the same grammar."""


def _lazy_sampler(sampling: SamplingParams, vocabulary: Vocabulary, text: bytes) -> Any:
    words = [one for one in sampling.grammar_triggers if isinstance(one, str)]
    tokens = [one for one in sampling.grammar_triggers if isinstance(one, int)]
    patterns = [_SPECIAL_IN_REGEX.sub(r"\\\g<0>", word).encode() for word in words]
    return llama_cpp.llama_sampler_init_grammar_lazy_patterns(
        vocabulary.pointer,
        text,
        b"root",
        (ctypes.c_char_p * len(patterns))(*patterns),
        len(patterns),
        (llama_cpp.llama_token * len(tokens))(*tokens),
        len(tokens),
    )


def _candidate(token: int) -> Any:
    candidates = np.zeros(1, dtype=TOKEN_DATA)
    candidates["id"] = token
    return candidates

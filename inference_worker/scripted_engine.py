"""An engine without a model: words, emoji and code at a chosen rate, the same for the same prompt.

For tests of everything else (REPLAY_ENGINE=scripted). It runs on the real batch loop and must not
know anything that a real model could not know.

A directive in the last message steers it, `[[tokens=40 rate=200 seed=7 fail_at=10 prefill_s=2]]`:
length of the answer in tokens with its end token, tokens per second (0: as fast as possible),
seed, the index at which sampling raises (`die_at`: at which the process dies), prefill's duration;
`burst_every=30`: each 30th word is one token of 4 KiB; `pause_at=20 pause_s=3`: silence before
that token. `[[say]]...[[/say]]` is answered with the text between, whatever it is.

It thinks between <think> and </think> where it is told to say so; its template opens a thought
where `chat_template_kwargs` have `opens_thought`.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from inference_worker.batch_loop import BatchEngine
from inference_worker.context_shift import Gap
from inference_worker.engine import (
    NO_OPTIONS,
    Candidate,
    EmbeddingInfo,
    Message,
    ModelInfo,
    Pooling,
    SequenceSpec,
    TokenLogprobs,
    Vectors,
)
from inference_worker.model import Draw, Feed
from inference_worker.prompt import ChatTemplate
from inference_worker.text import TextAssembler
from replay.adapters import Adapter, Applied
from replay.prepare import INPUTS_MAX
from replay.request import ChatOptions, SamplingParams

TOKENS_PER_S = 50.0
ANSWER_TOKENS = 120
WAIT_SLICE_S = 0.02
"""Longest that a decode call waits, so that stops and submits are heard meanwhile."""
DIED_EXIT_CODE = 70
BURST_BYTES = 4096
EMBEDDING_WIDTH = 8
CACHE = b"what was computed\n" * 100

BOS, END, SILENT = 256, 257, 258
SPECIAL = {"<|bos|>": BOS, "<|end|>": END, "<|silent|>": SILENT}
_SPELLINGS = {token: name.encode() for name, token in SPECIAL.items()}
_PIECES: list[bytes] = [
    *(bytes([value]) for value in range(256)),
    *(b"" for _ in SPECIAL),
    *(f"{number:02d}".encode() for number in range(100)),
    b" w",
    b"\n\n```python\n",
    b"```\n\n",
    # Halves of code points: tokens that show nothing until the next one comes.
    "🚲".encode()[:2],
    "語".encode()[:2],
    b" burst" + b"-" * (BURST_BYTES - 6),
]
BURST = len(_PIECES) - 1
_TOKENS = {piece: token for token, piece in enumerate(_PIECES) if piece}
_PIECE_PATTERN = re.compile(
    b"|".join(re.escape(piece) for piece in sorted(_TOKENS, key=len, reverse=True)), re.DOTALL
)
_SPECIAL_PATTERN = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
_DECORATIONS = ("🚲", "語", "e\u0301", "👩‍🚀", "日本", "ü", ".\n\n", ",", "**w**")
_DIRECTIVE = re.compile(r"\[\[((?:\s*\w+=[\d.]+)+)\s*\]\]")
_SAY = re.compile(r"\[\[say\]\](.*?)\[\[/say\]\]", re.DOTALL)
_TEMPLATE = (
    "<|bos|>{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:"
    "{% if opens_thought and enable_thinking %}<think>{% endif %}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Script:
    """What one answer is to be like; see the module's text for the names."""

    tokens: int = ANSWER_TOKENS
    rate: float | None = None
    seed: int = 0
    fail_at: int = -1
    die_at: int = -1
    prefill_s: float = 0.0
    burst_every: int = 0
    pause_at: int = -1
    pause_s: float = 0.0
    say: str | None = None


def scripted_tokens(
    prompt: Sequence[int], sampling: SamplingParams, adapters: Applied = ()
) -> Iterator[int]:
    """Every token of the answer to a prompt, its end token last; endless under ``ignore_eos``."""
    script = read_script(prompt, sampling)
    if script.say is not None:
        yield from (*_encode(script.say.encode()), END)
        return
    drawn_from = repr((tuple(prompt), script.seed, *adapters))
    choice = random.Random(zlib.crc32(drawn_from.encode()))
    words = _words(choice, burst_every=script.burst_every)
    if sampling.ignore_eos:
        yield from (token for word in words for token in word)
    room = max(0, script.tokens - 1)
    for word in words:
        if len(word) > room:
            break
        yield from word
        room -= len(word)
    yield from [ord(".")] * room
    yield END


def scripted_answer(
    prompt: Sequence[int],
    sampling: SamplingParams,
    max_tokens: int = -1,
    adapters: Applied = (),
) -> str:
    """The text that an uninterrupted answer shows, stop strings aside.

    ``ignore_eos`` needs a ``max_tokens``.
    """
    limit = max_tokens if max_tokens >= 0 else None
    text = TextAssembler()
    tokens = islice(scripted_tokens(prompt, sampling, adapters), limit)
    return "".join(text.feed(_PIECES[token]) for token in tokens) + text.finish()


def read_script(prompt: Sequence[int], sampling: SamplingParams) -> Script:
    """The last directives in a prompt over the defaults; unknown names are left out."""
    shown = b"".join(map(_PIECES.__getitem__, prompt)).decode("utf-8", "replace")
    found = _DIRECTIVE.findall(shown)
    wishes = dict(wish.split("=") for wish in found[-1].split()) if found else {}
    said = _SAY.findall(shown)
    rate = wishes.get("rate")
    return Script(
        tokens=int(wishes.get("tokens", ANSWER_TOKENS)),
        rate=None if rate is None else float(rate),
        seed=int(wishes.get("seed", sampling.seed)),
        fail_at=int(wishes.get("fail_at", -1)),
        die_at=int(wishes.get("die_at", -1)),
        prefill_s=float(wishes.get("prefill_s", 0)),
        burst_every=int(wishes.get("burst_every", 0)),
        pause_at=int(wishes.get("pause_at", -1)),
        pause_s=float(wishes.get("pause_s", 0)),
        say=said[-1] if said else None,
    )


def _words(choice: random.Random, *, burst_every: int) -> Iterator[list[int]]:
    """Endless units of an answer, each a list of tokens that shows whole characters."""
    number = 0
    while True:
        number += 1
        if burst_every and number % burst_every == 0:
            yield [BURST]
            continue
        unit = f" w{number:04d}" if number % 40 else "\n\n```python\nw = 1\n```\n\n"
        if choice.random() < 0.2:
            unit += choice.choice(_DECORATIONS)
        silent = [SILENT] if choice.random() < 0.05 else []
        yield _encode(unit.encode()) + silent


def _encode(text: bytes) -> list[int]:
    return [_TOKENS[piece] for piece in _PIECE_PATTERN.findall(text)]


@dataclass(slots=True)
class _Slot:
    """One running answer: its script, its tokens to come, until when it has been computed."""

    spec: SequenceSpec
    script: Script
    tokens: Iterator[int]
    computed_until: float


class ScriptedModel:
    """The ``Model`` behind the scripted engine; a slot's answer is known when it opens."""

    def __init__(self, info: ModelInfo, *, tokens_per_s: float = TOKENS_PER_S) -> None:
        self._info = info
        self._tokens_per_s = tokens_per_s
        self._template = ChatTemplate.of(info)
        self._slots: dict[int, _Slot] = {}

    @property
    def info(self) -> ModelInfo:
        """What stands in for a loaded model."""
        return self._info

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Bytes and a few longer pieces, the longest first; see ``Engine.tokenize``."""
        tokens = [BOS] if add_special else []
        for part in _SPECIAL_PATTERN.split(text) if parse_special else [text]:
            special = SPECIAL.get(part) if parse_special else None
            tokens += [special] if special else _encode(part.encode("utf-8", "replace"))
        return tokens

    def piece(self, token: int) -> bytes:
        """See ``Engine.piece``."""
        return _PIECES[token]

    def spelling(self, token: int) -> bytes:
        """See ``Engine.spelling``."""
        return _SPELLINGS.get(token, _PIECES[token])

    def prompt_text(self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS) -> str:
        """See ``Engine.prompt_text``."""
        return self._template.render(messages, options)

    def prompt_tokens(
        self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS
    ) -> list[int]:
        """See ``Engine.prompt_tokens``; the template writes the first one itself."""
        text = self.prompt_text(messages, options)
        return self.tokenize(text, add_special=False, parse_special=True)

    def rerank_inputs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """Query and document, one after the other."""
        return [
            self.tokenize(query + document, add_special=True, parse_special=True)
            for document in documents
        ]

    def ends(self, token: int) -> bool:
        """Whether this token ends a generation."""
        return token == END

    def trim(self, slot: int, tokens: int) -> int:
        """It holds whatever it is asked to."""
        return tokens

    @property
    def cache_kind(self) -> Mapping[str, str]:
        """Its vocabulary."""
        return {"model": self._info.sha256 or ""}

    def save_cache(self, slot: int) -> bytes:
        """Something of the kind: it has no keys and values."""
        return CACHE

    def load_cache(self, slot: int, data: bytes | memoryview) -> None:
        """Reads nothing else, as llama.cpp would not."""
        assert data == CACHE, "this ends the process of a real model"

    def shift(self, slot: int, gap: Gap) -> None:
        """It has nothing to forget."""

    def open_slot(self, slot: int, spec: SequenceSpec, *, accepted: int) -> None:
        """Writes the slot's answer; its prefill begins now."""
        self._slots[slot] = _Slot(
            spec,
            script=read_script(spec.prompt, spec.sampling),
            tokens=islice(
                scripted_tokens(spec.prompt, spec.sampling, spec.adapters), accepted, None
            ),
            computed_until=time.monotonic(),
        )

    def decode(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """Returns the feeds that are due by now, after waiting a little where none is."""
        due = {feed.slot: self._due_at(feed) for feed in feeds}
        wait_s = min(due.values()) - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, WAIT_SLICE_S))
        now = time.monotonic()
        done = [feed for feed in feeds if due[feed.slot] <= now]
        for feed in done:
            # Who was late (a busy machine, a stopped process) does not catch up in one burst.
            self._slots[feed.slot].computed_until = max(due[feed.slot], now - WAIT_SLICE_S)
        return done

    def interrupt(self) -> None:
        """Its decode calls are short."""

    def sample(self, slot: int, index: int, *, forced: int | None = None) -> Draw:
        """The slot's next token; RuntimeError, or the end of the process, where the script says.

        It was certain, whatever the sampling parameters. A forced one takes the script's place.
        """
        running = self._slots[slot]
        if index == running.script.fail_at:
            raise RuntimeError(f"the script fails at token {index}")
        if index == running.script.die_at:
            os._exit(DIED_EXIT_CODE)
        scripted = next(running.tokens, END)
        token = scripted if forced is None else forced
        if not running.spec.sampling.logprobs:
            return Draw(token)
        certain = 1.0 if running.spec.sampling.post_sampling_probs else 0.0
        chosen = Candidate(token, _PIECES[token], certain)
        return Draw(token, TokenLogprobs(chosen, (chosen,)[: running.spec.sampling.n_probs]))

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[Vectors]:
        """A token is a one among zeros, at its id's place modulo the width; a document is as
        relevant as it has exclamation marks."""
        assert self._info.embedding is not None
        pooling = self._info.embedding.pooling
        if pooling is Pooling.RANK:
            return [[[float(tokens.count(ord("!")))]] for tokens in inputs]
        found = [[_one_hot(token) for token in tokens] for tokens in inputs]
        return found if pooling is Pooling.NONE else [[_mean(rows)] for rows in found]

    def close_slot(self, slot: int) -> None:
        """Forgets the slot's answer."""
        self._slots.pop(slot, None)

    def close(self) -> None:
        """There is nothing to free."""

    def _due_at(self, feed: Feed) -> float:
        slot = self._slots[feed.slot]
        prompt_tokens = len(slot.spec.prompt)
        if feed.position < prompt_tokens:
            share = len(feed.tokens) / prompt_tokens
            return slot.computed_until + slot.script.prefill_s * share
        rate = self._tokens_per_s if slot.script.rate is None else slot.script.rate
        is_paused = feed.samples and feed.position + len(feed.tokens) - prompt_tokens == (
            slot.script.pause_at
        )
        pause_s = slot.script.pause_s if is_paused else 0.0
        return slot.computed_until + pause_s + (1 / rate if rate > 0 else 0.0)


def _one_hot(token: int) -> list[float]:
    return [float(place == token % EMBEDDING_WIDTH) for place in range(EMBEDDING_WIDTH)]


def _mean(rows: Vectors) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def open_scripted_engine(
    *,
    name: str = "scripted",
    slots: int = 8,
    context_tokens: int = 8192,
    tokens_per_s: float = TOKENS_PER_S,
    chat_template: str = "",
    pooling: Pooling | None = Pooling.MEAN,
    input_tokens_max: int = 512,
    adapters: tuple[Adapter, ...] = (),
) -> BatchEngine:
    """A scripted engine that is ready to start; ``tokens_per_s`` is per sequence, 0 is no pace."""
    info = ModelInfo(
        name=name,
        path="scripted",
        sha256=hashlib.sha256(repr(_PIECES).encode()).hexdigest(),
        context_tokens=context_tokens,
        slots=slots,
        vocabulary_tokens=len(_PIECES),
        size_bytes=0,
        parameters=0,
        context_train_tokens=context_tokens,
        embedding_width=EMBEDDING_WIDTH,
        vocab_type=0,
        chat_template=chat_template or _TEMPLATE,
        bos_text="<|bos|>",
        eos_text="<|end|>",
        end_tokens=(END,),
        build="b0-scripted",
        embedding=EmbeddingInfo(
            pooling=pooling,
            width=1 if pooling is Pooling.RANK else EMBEDDING_WIDTH,
            batch_tokens=input_tokens_max,
            batch_inputs=INPUTS_MAX,
            input_tokens_max=input_tokens_max,
        )
        if pooling
        else None,
        adapters=adapters,
    )
    return BatchEngine(ScriptedModel(info, tokens_per_s=tokens_per_s))

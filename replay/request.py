"""The generation request: what the API node writes and the inference worker reads.

Pure values without I/O. Any dialect is turned into this once, by the API; from then on nobody looks
at the client's body again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from replay.adapters import Applied, Scales, pairs
from replay.records import fields_of, known_fields

Dialect = Literal[
    "openai.chat",
    "openai.completions",
    "llama.completion",
    "openai.responses",
    "anthropic.messages",
]
"""In which words a session is asked for, and answers."""

SEED_MAX = 2**32 - 1
PING_INTERVAL_S = 15
"""Seconds of silence after which a keep-alive comment is appended, where a request names none."""


SAMPLERS = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
"""What chooses a token, in llama.cpp's order."""

LogitBias = tuple[int | str, float | None]
"""A token and what is added to its logit; None bans it. A text stands for each of its tokens, until
*prepare* has made ids of it."""


Prompt = str | tuple[int | str, ...]
"""A text, or tokens' ids and texts in turn."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; names and defaults are llama.cpp's.

    ``seed`` is concrete (0 to 2**32 - 1), never "random": a worker that takes the session over must
    draw what the first one would have drawn. ``samplers`` are applied in their order; with mirostat
    (1 or 2) they are not, but temperature and mirostat. With ``logprobs`` each token is told with
    its logarithmic probability and that of the ``n_probs`` most likely ones: as the model gave
    them, or with ``post_sampling_probs`` the probabilities that the samplers left of them.

    ``grammar`` is GBNF that *prepare* has made or checked; the answer satisfies it. With triggers,
    words of the text or tokens, it does from where one comes up, and must begin with that.
    """

    seed: int
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    min_keep: int = 0
    samplers: tuple[str, ...] = SAMPLERS
    logit_bias: tuple[LogitBias, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    n_probs: int = 0
    post_sampling_probs: bool = False
    grammar: str = ""
    grammar_triggers: tuple[str | int, ...] = ()

    @property
    def chooser(self) -> Literal["dist", "greedy", "mirostat", "adaptive_p"]:
        """What chooses among the tokens that all other samplers left."""
        if self.mirostat == 0 and "adaptive_p" in self.samplers and self.adaptive_target >= 0:
            return "adaptive_p"
        cools = self.mirostat > 0 or "temperature" in self.samplers
        # A range warms up even a temperature of 0; mirostat knows none.
        is_dynamic = self.mirostat == 0 and self.dynatemp_range > 0
        if cools and self.temperature <= 0 and not is_dynamic:
            return "greedy"
        return "mirostat" if self.mirostat else "dist"

    @property
    def is_stateful(self) -> bool:
        """Whether a draw depends on more than the tokens before it: on what was likely there."""
        return self.chooser in ("mirostat", "adaptive_p")

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> SamplingParams:
        """Of what JSON kept of it; fields that a newer version wrote are left out."""
        known = known_fields(cls, raw)
        for name in ("dry_sequence_breakers", "samplers", "grammar_triggers"):
            if name in known:
                known[name] = tuple(known[name])
        known["logit_bias"] = tuple((token, bias) for token, bias in known.get("logit_bias", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a chat template is given beside the messages.

    ``tools`` are OpenAI's function definitions; none stand here where none may be called, and one
    alone where that one must be. ``parallel_tool_calls`` None is as the template's kind does.
    ``template_kwargs`` are variables of the template's own. Without ``add_generation_prompt`` the
    assistant's turn is not opened.
    """

    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Literal["auto", "required"] = "auto"
    parallel_tool_calls: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> ChatOptions:
        """Of what JSON kept of it; fields that a newer version wrote are left out."""
        known = known_fields(cls, raw)
        known["tools"] = tuple(known.get("tools", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must satisfy: a grammar in GBNF, or a JSON Schema, as ``text``.

    *Prepare* makes ``SamplingParams.grammar`` of it, or refuses it, naming the client's ``field``.
    """

    field: str
    kind: Literal["grammar", "json_schema"]
    text: str


@dataclass(frozen=True, slots=True)
class Infill:
    """A text with a hole, and what is begun in it; ``extra`` are further files, name and text."""

    prefix: str
    suffix: str
    prompt: str = ""
    extra: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> Infill:
        """Of what JSON kept of it; fields that a newer version wrote are left out."""
        known = known_fields(cls, raw)
        return cls(**{**known, "extra": tuple((name, text) for name, text in known["extra"])})


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What the client asked to see in the stream beside the text.

    ``prefill`` is the beginning that the client gave the answer, ``prefill_reasoning`` that of its
    thought, where they are to be shown too. With ``verbose`` llama.cpp's own result stands beside
    an answer of OpenAI's completions; with ``omits_thoughts`` a message's thoughts are empty. The
    native route's last event has the ``response_fields`` alone, where any are named; an answer of
    the Responses API says ``response`` again of its request.
    """

    stream: bool = True
    include_usage: bool = False
    timings_per_token: bool = False
    prefill: str = ""
    prefill_reasoning: str = ""
    return_tokens: bool = False
    return_progress: bool = False
    verbose: bool = False
    omits_thoughts: bool = False
    response_fields: tuple[str, ...] = ()
    response: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> RenderOptions:
        """Of what JSON kept of it; fields that a newer version wrote are left out."""
        known = known_fields(cls, raw)
        known["response_fields"] = tuple(known.get("response_fields", ()))
        return cls(**known)


ShownAs = Literal["reasoning", "content", "both"]


@dataclass(frozen=True, slots=True)
class ReasoningParams:
    """What the client wants of the model's thinking.

    A thought is ``shown_as`` such, as a part of the content with its tags, or as both. It is ended
    after ``budget_tokens`` (-1: it is not), with ``budget_message`` before its end; with
    ``is_controlled`` also when somebody orders that.
    """

    shown_as: ShownAs = "reasoning"
    budget_tokens: int = -1
    budget_message: str = ""
    is_controlled: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether a thought may have to be ended."""
        return self.is_controlled or self.budget_tokens >= 0

    def within(self, budget_tokens: int) -> ReasoningParams:
        """With this budget, where it has none."""
        return self if self.budget_tokens >= 0 else replace(self, budget_tokens=budget_tokens)

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> ReasoningParams:
        """Of what JSON kept of it; fields that a newer version wrote are left out."""
        return cls(**known_fields(cls, raw))


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How the model's text is to be parsed, as its template has it; *prepare* finds it out.

    A thought stands between ``thought_begin`` and ``thought_end`` ("": the model does not think).
    It is open already where the prompt ends inside one, and begun where the prompt has text of it;
    ``thought_closing`` are the tokens that end it early. ``tools`` names the syntax of calls, ""
    where none can come. Of ``shown_tokens`` the text has the names: special ones, which else show
    nothing. ``end_tokens`` are those that end an answer. ``begun`` is an end of the prompt that is
    read with the answer: the client's beginning of a call. ``content_begin`` is what content begins
    with where there is no thought, "" where it has no tag.
    """

    thought_begin: str = ""
    thought_end: str = ""
    is_thought_open: bool = False
    is_thought_begun: bool = False
    thought_closing: tuple[int, ...] = ()
    tools: str = ""
    shown_tokens: tuple[int, ...] = ()
    end_tokens: tuple[int, ...] = ()
    begun: str = ""
    content_begin: str = ""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> AnswerFormat:
        """Of what JSON kept of it; fields that a newer version wrote are left out."""
        known = known_fields(cls, raw)
        for name in ("thought_closing", "shown_tokens", "end_tokens"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How a slot's context is used.

    Without ``cache_prompt`` the prompt is computed whole, whatever a slot's cache holds of it.
    When it is full, ``shift_at`` tokens, it forgets ``n_discard`` of them (0 for half) behind the
    first ``n_keep`` (-1 for the prompt). *Prepare* tells that size; with 0 the answer ends there.
    """

    cache_prompt: bool = True
    n_keep: int = 0
    n_discard: int = 0
    shift_at: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt in, an answer out; or several of them, the *choices* of one session.

    ``max_tokens`` is -1 for "until the context is full", ``max_predict_ms`` for no limit,
    ``ping_interval_s`` for never. Where a line of the answer, but the first, has less ``indent``,
    it ends.
    ``messages`` are the client's, verbatim; the prompt's tokens are made of them by *prepare*,
    which tells the ``format`` of the answer too, and makes the sampling parameters' grammar of a
    ``constraint``: the record has that one alone. Where no template is asked for, ``prompts`` take
    their place; *prepare* makes each a text, and tells the ``prompt_lengths``, in tokens, of what
    stands in the record one after the other. To each prompt there are ``n`` answers. ``keep`` is
    what outlives a client that gave no name: the retained answer, or its generation too. What
    ``lora`` asks for, *prepare* makes ``adapters`` of.
    """

    dialect: Dialect
    model: str
    messages: tuple[dict[str, Any], ...]
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    max_tokens: int = -1
    render: RenderOptions = field(default_factory=RenderOptions)
    ping_interval_s: int = PING_INTERVAL_S
    format: AnswerFormat = field(default_factory=AnswerFormat)
    reasoning: ReasoningParams = field(default_factory=ReasoningParams)
    chat: ChatOptions = field(default_factory=ChatOptions)
    context: ContextOptions = field(default_factory=ContextOptions)
    prompts: tuple[Prompt, ...] = ()
    prompt_lengths: tuple[int, ...] = ()
    n: int = 1
    keep: Literal["", "answer", "generation"] = ""
    constraint: Constraint | None = None
    infill: Infill | None = None
    max_predict_ms: int = -1
    indent: int = 0
    lora: Scales = ()
    adapters: Applied = ()

    @property
    def choices(self) -> int:
        """How many answers there are; those to the first prompt come first."""
        return self.n * max(1, len(self.prompt_lengths))

    def prompt_of(self, tokens: tuple[int, ...], index: int) -> tuple[int, ...]:
        """The tokens of one prompt, out of those of all."""
        if len(self.prompt_lengths) <= 1:
            return tokens
        start = sum(self.prompt_lengths[:index])
        return tokens[start : start + self.prompt_lengths[index]]

    def to_json(self) -> str:
        """Compact JSON, as the session record keeps it."""
        return json.dumps(self, default=fields_of, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> GenerationRequest:
        """The inverse of ``to_json``; fields that a newer version wrote are left out."""
        raw = known_fields(cls, json.loads(text))
        raw["messages"] = tuple(raw["messages"])
        raw["stop"] = tuple(raw.get("stop", ()))
        raw["prompt_lengths"] = tuple(raw.get("prompt_lengths", ()))
        raw["prompts"] = tuple(map(_prompt, raw.get("prompts", ())))
        raw["lora"] = pairs(raw.get("lora", ()))
        raw["adapters"] = pairs(raw.get("adapters", ()))
        raw["sampling"] = SamplingParams.from_raw(raw["sampling"])
        raw["chat"] = ChatOptions.from_raw(raw.get("chat", {}))
        raw["render"] = RenderOptions.from_raw(raw.get("render", {}))
        raw["reasoning"] = ReasoningParams.from_raw(raw.get("reasoning", {}))
        raw["format"] = AnswerFormat.from_raw(raw.get("format", {}))
        raw["context"] = ContextOptions(**known_fields(ContextOptions, raw.get("context", {})))
        if raw.get("infill"):
            raw["infill"] = Infill.from_raw(raw["infill"])
        if raw.get("constraint"):
            raw["constraint"] = Constraint(**known_fields(Constraint, raw["constraint"]))
        return cls(**raw)


def _prompt(raw: Any) -> Prompt:
    """A prompt as JSON kept it."""
    return raw if isinstance(raw, str) else tuple(raw)

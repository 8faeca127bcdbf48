"""OpenAI's chat completions, with llama.cpp's additions: request in, log to JSON out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from api.constraints import parse_constraint
from api.context import parse_context
from api.dialects import Dialect
from api.dialects.chat_messages import parse_messages
from api.dialects.chat_options import parse_options
from api.dialects.chunk_fold import ChunkFold
from api.dialects.completing import (
    choices,
    indent,
    max_predict_ms,
    max_tokens,
    ping_interval,
    refuse_not_built,
    stops,
)
from api.fields import Fields
from api.lora import parse_scales
from api.problems import RequestInvalid
from api.reasoning import parse_reasoning
from api.sampling import N_PROBS, N_PROBS_MAX, parse_sampling
from replay.request import GenerationRequest, RenderOptions, SamplingParams


def parse(body: Mapping[str, Any], *, random_seed: int) -> GenerationRequest:
    """The generation request that ``body`` means; its model is the client's word for it, or "".

    ``random_seed`` is taken where the client leaves the seed to us. Raises RequestInvalid.
    """
    fields = Fields(body)
    messages = _joined(parse_messages(body.get("messages")))
    chat = parse_options(fields)
    if fields.get("continue_final_message") == "reasoning_content":
        messages = _still_thinking(messages)
    refuse_not_built(body)
    stream = fields.boolean("stream")
    is_explicit = _continues_explicitly(fields, messages)
    # A folded answer is always whole; of a stream, who asks explicitly has the beginning already.
    is_echoed = fields.boolean("echo") or not stream or not is_explicit
    return GenerationRequest(
        dialect="openai.chat",
        model=fields.text("model"),
        messages=messages,
        sampling=_sampling(fields, random_seed),
        stop=stops(fields),
        max_tokens=max_tokens(fields),
        max_predict_ms=max_predict_ms(fields),
        indent=indent(fields),
        n=choices(fields),
        render=RenderOptions(
            stream=stream,
            # A folded answer always shows its usage.
            include_usage=fields.object("stream_options").boolean("include_usage") or not stream,
            timings_per_token=fields.boolean("timings_per_token"),
            return_progress=stream and fields.boolean("return_progress"),
            verbose=fields.boolean("verbose"),
            prefill=_begun(messages, "content") if is_echoed else "",
            prefill_reasoning=_begun(messages, "reasoning_content") if is_echoed else "",
        ),
        ping_interval_s=ping_interval(fields),
        chat=chat,
        context=parse_context(fields),
        lora=parse_scales(fields.get("lora")),
        reasoning=parse_reasoning(fields, stream=stream),
        constraint=parse_constraint(fields),
    )


def _sampling(fields: Fields, random_seed: int) -> SamplingParams:
    wanted = fields.boolean("logprobs")
    if fields.get("top_logprobs") is not None and not wanted:
        raise RequestInvalid("top_logprobs requires logprobs to be set to true")
    n_probs = fields.bounded("n_probs", 0, low=0, high=N_PROBS_MAX)
    if wanted:
        n_probs = fields.bounded("top_logprobs", N_PROBS, low=0, high=N_PROBS_MAX)
    sampling = parse_sampling(fields, random_seed=random_seed)
    return replace(sampling, logprobs=wanted or n_probs > 0, n_probs=n_probs)


def _continues(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages) and messages[-1]["role"] == "assistant"


def _begun(messages: Sequence[Mapping[str, Any]], part: str) -> str:
    """The beginning of the answer's content or thought, where the last message has one."""
    return str(messages[-1].get(part) or "") if _continues(messages) else ""


def _joined(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """A beginning of several parts is one text, a blank line between them."""
    if not _continues(messages):
        return messages
    *before, last = messages
    if last.get("tool_calls"):
        raise RequestInvalid(
            "Cannot continue an assistant message that contains tool calls. "
            f"(Field 'messages[{len(before)}].tool_calls')"
        )
    if _continues(before):
        raise RequestInvalid(
            f"Field 'messages[{len(before)}]': two assistant messages stand at the end"
        )
    if isinstance(parts := last.get("content"), list):
        last = {**last, "content": "\n\n".join(part["text"] for part in parts)}
    return (*before, last)


def _still_thinking(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """A beginning that has no content yet, but a thought that goes on."""
    if not _begun(messages, "reasoning_content"):
        raise RequestInvalid(
            "Field 'continue_final_message': the last message has no 'reasoning_content'"
        )
    *before, last = messages
    return (*before, {**last, "content": None})


def _continues_explicitly(fields: Fields, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the client says itself that the last message is to be continued.

    llama.cpp wants both fields for it: neither alone, nor both true.
    """
    asked = fields.get("continue_final_message")
    wanted = asked in ("content", "reasoning_content") or fields.boolean("continue_final_message")
    opens = fields.boolean("add_generation_prompt", True)
    if wanted and opens:
        raise RequestInvalid(
            "Cannot set both add_generation_prompt and continue_final_message to true."
        )
    if wanted and not _continues(messages):
        raise RequestInvalid("Field 'continue_final_message': the last message is no assistant's")
    return wanted


class ChatFold(ChunkFold):
    """Of chat chunks."""

    def take_choice(self, choice: dict[str, Any]) -> None:
        """See ``ChunkFold``."""
        at = self._choices.setdefault(choice["index"], {"finish_reason": None, "text": {}})
        at["finish_reason"] = choice["finish_reason"] or at["finish_reason"]
        if "logprobs" in choice:
            at.setdefault("logprobs", []).extend(choice["logprobs"]["content"])
        for name in ("content", "reasoning_content"):
            if (text := choice["delta"].get(name)) is not None:
                at["text"].setdefault(name, []).append(text)
        for call in choice["delta"].get("tool_calls", ()):
            _take_call(at.setdefault("calls", {}), call)

    def choice(self, index: int, at: dict[str, Any]) -> dict[str, Any]:
        """See ``ChunkFold``."""
        texts = {name: "".join(parts) for name, parts in at["text"].items()}
        message: dict[str, Any] = {"role": "assistant", "content": "", **texts}
        if "calls" in at:
            message["tool_calls"] = [_call(call) for _, call in sorted(at["calls"].items())]
        choice = {"finish_reason": at["finish_reason"], "index": index, "message": message}
        if "logprobs" in at:
            choice["logprobs"] = {"content": at["logprobs"]}
        return choice

    def answer(self) -> dict[str, Any]:
        """See ``ChunkFold``; it is no chunk any more."""
        self._shared["object"] = "chat.completion"
        return super().answer()


def _take_call(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    """The first delta of a call has its id and name, all have a piece of its arguments."""
    function = delta["function"]
    call = calls.setdefault(delta["index"], {"arguments": []})
    call["arguments"].append(function["arguments"])
    if "id" in delta:
        call.update(id=delta["id"], name=function["name"])


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": "".join(call["arguments"])}
    return {"type": "function", "function": function, "id": call["id"]}


CHAT = Dialect(name="openai.chat", id_prefix="chatcmpl-", parse=parse, fold=ChatFold)

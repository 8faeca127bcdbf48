"""Chat templates: from messages to the text that the model's vocabulary then tokenizes.

A template comes with a model file, messages come from anybody: it is rendered in a sandbox. Which
messages an API accepts is the API's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from inference_worker import conversation, thoughts
from inference_worker.engine import NO_OPTIONS, EngineFailed, Message, ModelInfo, PromptInvalid
from inference_worker.template_abilities import probed
from inference_worker.template_sandbox import SandboxedTemplate, TemplateBroken
from replay.request import ChatOptions

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, for a model whose file has no template; llama.cpp takes the same."""


class ChatTemplate:
    """A compiled chat template; rendering may happen on any thread."""

    def __init__(self, source: str, *, bos_text: str = "", eos_text: str = "") -> None:
        """Raises EngineFailed when the template does not compile."""
        self._tags = thoughts.tags_of(source)
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        try:
            self._template = SandboxedTemplate(source)
        except TemplateBroken as error:
            raise EngineFailed(f"the chat template does not compile: {error}") from error
        self._no_tools = self._taken_for_none()
        self._abilities = probed(source, self._probe)
        self._for_tools = self

    @classmethod
    def of(cls, model: ModelInfo) -> ChatTemplate:
        """The model's template, or its two. Raises EngineFailed."""
        tokens = {"bos_text": model.bos_text, "eos_text": model.eos_text}
        template = cls(model.chat_template, **tokens)
        if model.tool_template:
            template._for_tools = cls(model.tool_template, **tokens)
        return template

    def render(self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS) -> str:
        """The prompt's text. Raises PromptInvalid where the template or a limit refuses.

        A last message of the assistant's is the beginning of the answer.
        """
        if options.tools and self._for_tools is not self:
            return self._for_tools.render(messages, options)
        *before, last = [*messages, {}]
        if before and before[-1].get("role") == "assistant":
            last = before.pop()
        fitted, tools = conversation.fitted(before, options, self._abilities)
        opens = options.add_generation_prompt or bool(last)
        try:
            text = self._render(
                fitted,
                tools=tools or self._no_tools,
                add_generation_prompt=opens,
                variables=options.template_kwargs,
            )
        except TemplateBroken as error:
            message = f"the chat template refuses these messages: {error}"
            raise PromptInvalid(message) from error
        thinks = bool(options.template_kwargs.get("enable_thinking", True))
        return thoughts.begun(text, last, self._tags, thinks=thinks)

    def _taken_for_none(self) -> list[Any] | None:
        """What the template takes for no tools: some ask whether there are any in either way, some
        go through them without asking."""
        ways: tuple[list[Any] | None, ...] = (None, [])
        for nothing in ways:
            with suppress(TemplateBroken):
                self._render([{"role": "user", "content": "hello"}], tools=nothing)
                return nothing
        return None

    def _probe(self, messages: Sequence[Message], *, tools: Sequence[Any] = ()) -> str:
        return self._render(messages, tools=tools or self._no_tools)

    def _render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None,
        add_generation_prompt: bool = True,
        variables: Any = None,
    ) -> str:
        return self._template.render(
            {
                **_today(),
                **_thinking(variables or {}),
                **self._tokens,
                "messages": list(messages),
                "tools": None if tools is None else list(tools),
                "add_generation_prompt": add_generation_prompt,
            }
        )


def _today() -> dict[str, str]:
    """By the names that templates without ``strftime_now`` have for it."""
    now = datetime.now()
    return {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}


def _thinking(variables: Mapping[str, Any]) -> dict[str, Any]:
    """With both names that templates have for it; a model thinks unless it is told otherwise."""
    thinks = variables.get("enable_thinking", True)
    return {"enable_thinking": thinks, "thinking": thinks, **variables}

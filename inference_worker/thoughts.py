"""Thoughts: between which tags a model thinks, and how its text is split there.

Pure. The tags are found in the template's source, since no file of a model names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from inference_worker import conversation
from inference_worker.answer import AnswerParser, ContentDelta, Delta, ReasoningDelta
from inference_worker.engine import Message, PromptInvalid
from inference_worker.text import held_length


@dataclass(frozen=True, slots=True)
class Tags:
    """What a thought stands between; ``content`` is what content begins with where no thought is
    before it."""

    begin: str
    end: str
    content: str = ""


FAMILIES = (
    Tags("<think>", "</think>"),  # DeepSeek, Qwen, GLM, MiniMax, Nemotron, SmolLM3, Hunyuan
    Tags("<thought>", "</thought>"),  # EXAONE
    Tags("<thinking>", "</thinking>"),
    Tags("[THINK]", "[/THINK]"),  # Magistral
    Tags("<seed:think>", "</seed:think>"),  # Seed-OSS
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Tags("◁think▷", "◁/think▷"),  # Kimi
    Tags(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),  # gpt-oss
)


def tags_of(template: str) -> Tags | None:
    """The tags of the model whose chat template has this source; None where it does not think.

    A template that only strips earlier thoughts names no more than their end.
    """
    for tags in FAMILIES:
        if tags.begin in template or tags.end in template:
            return tags
    return None


def is_open(text: str, tags: Tags) -> bool:
    """Whether the text ends inside a thought."""
    return text.rfind(tags.begin) > text.rfind(tags.end)


def begun(prompt: str, message: Message, tags: Tags | None, *, thinks: bool) -> str:
    """The prompt with the beginning of the answer, which an assistant's message has, after it.

    Without content it ends inside the thought. A thought that the template opens is closed again
    where content follows, or where the model is not to think. Raises PromptInvalid.
    """
    thought, content = message.get("reasoning_content"), message.get("content")
    text = conversation.text_of(content)
    if tags is None:
        if thought and content is None:
            raise PromptInvalid("the model does not think", field="continue_final_message")
        return prompt + text
    opens = _opens(prompt, tags)
    if thought:
        begin = "" if opens else tags.begin
        end = "" if content is None else tags.end
        return f"{prompt}{begin}{thought}{end}{text}"
    if opens:
        return prompt + (tags.end if text or not thinks else "") + text
    return prompt + (tags.content if text else "") + text


def thought_state(prompt: str, messages: Sequence[Message], tags: Tags) -> tuple[bool, bool]:
    """Whether the answer begins inside a thought, and whether the prompt has text of that."""
    *_, last = [{}, *messages]
    if last.get("role") != "assistant":
        return _opens(prompt, tags), False
    content = last.get("content")
    goes_on = content is None or is_open(conversation.text_of(content), tags)
    return goes_on, goes_on


def _opens(prompt: str, tags: Tags) -> bool:
    return prompt.rstrip().endswith(tags.begin)


class _Part(Enum):
    START = auto()
    THOUGHT = auto()
    AFTER = auto()
    CONTENT = auto()


class ThoughtParser:
    """Splits the thought off that an answer may begin with; the rest is its content parser's.

    White space around the thought belongs to nothing. A thought without an end is one.
    """

    def __init__(
        self, tags: Tags, content: AnswerParser, *, is_open: bool = False, is_begun: bool = False
    ) -> None:
        """``is_open``: the prompt ends inside a thought, of which it has text if ``is_begun``."""
        self._tags = tags
        self._content = content
        self._otherwise = _Part.THOUGHT if is_open else _Part.CONTENT
        self._part = _Part.THOUGHT if is_begun else _Part.START
        self._has_thought = is_begun
        self._held = ""

    def feed(self, text: str) -> list[Delta]:
        """See ``AnswerParser.feed``."""
        self._held += text
        deltas: list[Delta] = []
        if self._part is _Part.START:
            self._begin()
        if self._part is _Part.THOUGHT:
            deltas += self._think()
        if self._part is _Part.AFTER and self._held.lstrip():
            self._held, self._part = self._held.lstrip(), _Part.CONTENT
        if self._part is _Part.CONTENT:
            held, self._held = self._held, ""
            deltas += self._content.feed(held)
        return deltas

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """See ``AnswerParser.finish``."""
        if self._part is _Part.START:
            self._part = self._otherwise
        held, self._held = self._held, ""
        if self._part is _Part.THOUGHT:
            return [*_thought(held.rstrip()), *self._content.finish(is_cut=is_cut)]
        told = self._content.feed(held) if self._part is _Part.CONTENT else []
        return [*told, *self._content.finish(is_cut=is_cut)]

    def _begin(self) -> None:
        """What the answer begins with, once that is known."""
        begin, content, seen = self._tags.begin, self._tags.content, self._held.lstrip()
        if seen.startswith(begin):
            self._held, self._part = seen.removeprefix(begin), _Part.THOUGHT
        elif content and seen.startswith(content):
            self._held, self._part = seen.removeprefix(content), _Part.AFTER
        elif not (begin.startswith(seen) or content.startswith(seen)):
            self._part = self._otherwise

    def _think(self) -> list[Delta]:
        if not self._has_thought:
            self._held = self._held.lstrip()
        thought, end, rest = self._held.partition(self._tags.end)
        if end:
            self._held, self._part = rest, _Part.AFTER
        else:
            thought = thought[: len(thought) - held_length(thought, (self._tags.end,))]
        thought = thought.rstrip()
        if not end:
            self._held = self._held[len(thought) :]
        self._has_thought = self._has_thought or bool(thought)
        return _thought(thought)


def _thought(text: str) -> list[Delta]:
    return [ReasoningDelta(text)] if text else []


class KeptThoughtParser:
    """Tells the thought, and all of the text as content."""

    def __init__(self, thoughts: AnswerParser) -> None:
        self._thoughts = thoughts

    def feed(self, text: str) -> list[Delta]:
        """See ``AnswerParser.feed``."""
        told: list[Delta] = [ContentDelta(text)] if text else []
        return _only_thoughts(self._thoughts.feed(text)) + told

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """See ``AnswerParser.finish``."""
        return _only_thoughts(self._thoughts.finish(is_cut=is_cut))


def _only_thoughts(deltas: list[Delta]) -> list[Delta]:
    return [delta for delta in deltas if isinstance(delta, ReasoningDelta)]

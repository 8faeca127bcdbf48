"""How calls are read out of a text that comes in pieces. Pure.

A reading is a generator that is sent one character at a time, so where the text was cut cannot
matter. What it has read and not yet understood is *held*: a call's beginning that turns out to be
none is content after all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from inference_worker.answer import ContentDelta, Delta, ToolArguments, ToolCallBegun
from inference_worker.text import held_length

Value = TypeVar("Value")
Reading = Generator[None, str, Value]
"""Reads characters until it has a value."""

Sink = Callable[[str], None]
"""Takes one character."""

ID_CHARACTERS = 32
ARGUMENTS = ("arguments", "parameters")
"""What models call them."""
MEMBERS = ("type", "id", "name", *ARGUMENTS)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class Output:
    """What has been read of one answer: the deltas to tell, the text that is held."""

    def __init__(
        self, tools: Mapping[str, Any], *, id_seed: str, id_characters: int = ID_CHARACTERS
    ) -> None:
        self.tools = tools
        """Parameters' schemas by name: nothing else can be called."""
        self.count = 0
        self.held = ""
        self.is_certain = False
        """Within a call nothing is held, for there is no way back."""
        self.is_calling = True
        """Whether what is held is all that a call begins with, and no content before it."""
        self._id_seed = id_seed
        self._id_characters = id_characters
        self._deltas: list[Delta] = []

    def take(self) -> list[Delta]:
        """The deltas since the last time."""
        taken, self._deltas = self._deltas, []
        return taken

    def content(self, text: str) -> None:
        """Tells content."""
        if not text:
            return
        if self._deltas and isinstance(last := self._deltas[-1], ContentDelta):
            self._deltas[-1] = ContentDelta(last.text + text)
        else:
            self._deltas.append(ContentDelta(text))

    def release(self, keep: int = 0) -> None:
        """What is held is content, but for its last characters."""
        end = len(self.held) - keep
        self.content(self.held[:end])
        self.held = self.held[end:]

    def begin(self, name: str) -> None:
        """A call has begun; what is held was its beginning."""
        self.held, self.is_certain = "", True
        seed = f"{self._id_seed}/call/{self.count}".encode()
        made = hashlib.sha256(seed).hexdigest()[: self._id_characters]
        self._deltas.append(ToolCallBegun(self.count, made, name))
        self.count += 1

    def argument(self, text: str) -> None:
        """Tells more of the arguments of the call that was begun last."""
        index = self.count - 1
        if self._deltas and isinstance(last := self._deltas[-1], ToolArguments):
            self._deltas[-1] = ToolArguments(index, last.text + text)
        elif text:
            self._deltas.append(ToolArguments(index, text))

    def end(self) -> None:
        """The call is over."""
        self.is_certain = False


class CallParser:
    """An ``AnswerParser`` that is one endless reading."""

    def __init__(self, output: Output, read: Callable[[Output], Reading[None]]) -> None:
        self._output = output
        self._reading = read(output)
        next(self._reading)

    def feed(self, text: str) -> list[Delta]:
        """See ``AnswerParser.feed``."""
        for character in text:
            if not self._output.is_certain:
                self._output.held += character
            self._reading.send(character)
        return self._output.take()

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """See ``AnswerParser.finish``. White space after a call is nothing, nor is what was to be a
        call and was cut."""
        output = self._output
        if (output.count and output.held.isspace()) or (is_cut and output.is_calling):
            output.held = ""
        output.release()
        return output.take()


def content_until(output: Output, *tags: str) -> Reading[str]:
    """Tells content up to the first of the tags, which is then held, and returned.

    White space before it belongs to neither.
    """
    output.is_calling = False
    while not any(tag in output.held for tag in tags):
        text = output.held
        text = text[: len(text) - held_length(text, tags)]
        output.release(keep=len(output.held) - len(text.rstrip()))
        yield
    found = min((tag for tag in tags if tag in output.held), key=output.held.index)
    before, _, _ = output.held.partition(found)
    output.content(before.rstrip())
    output.held, output.is_calling = found, True
    return found


def rest(output: Output) -> Reading[None]:
    """All that follows is content."""
    output.is_calling = False
    while True:
        output.release()
        yield


def refused(output: Output) -> None:
    """What is held is no call; its last character may begin something else."""
    output.release(keep=1)


def visible() -> Reading[str]:
    """The next character that is no white space."""
    while (character := (yield)).isspace():
        pass
    return character


def reached(output: Output, tag: str) -> Reading[bool]:
    """Reads a tag that is to come next, white space aside; what comes is held."""
    before = len(output.held)
    while tag.startswith(seen := output.held[before:].lstrip()) and seen != tag:
        yield
    return seen == tag


def closed(output: Output, tag: str) -> Reading[None]:
    """Ends a call, with its closing tag where there is one."""
    output.end()
    if (yield from reached(output, tag)):
        output.held = ""


def until(tag: str) -> Reading[str]:
    """Reads up to a tag and returns what stands before it."""
    text = ""
    while not text.endswith(tag):
        text += yield
    return text.removesuffix(tag)


def value(character: str, sink: Sink) -> Reading[str]:
    """Reads the JSON value that begins with ``character``.

    Returns the character after it where only that one told its end (a number's, a word's), or "".
    """
    depth, is_text, is_escaped = 0, False, False
    while True:
        if is_text:
            is_text = is_escaped or character != '"'
            is_escaped = character == "\\" and not is_escaped
        elif depth == 0 and (character in ",]}" or character.isspace()):
            return character
        else:
            is_text = character == '"'
            depth += (character in "[{") - (character in "]}")
        sink(character)
        if depth == 0 and not is_text and character in '"]}':
            return ""
        character = yield


def text_value(sink: Sink) -> Reading[None]:
    """Reads a JSON string after its opening quote, and gives what it stands for."""
    high = ""
    while (character := (yield)) != '"':
        unit = character
        if character == "\\":
            escape = yield
            unit = _ESCAPES.get(escape, escape)
            if escape == "u":
                unit = yield from _code_unit()
        if "\ud800" <= unit <= "\udbff" and not high:
            high = unit
            continue
        sink((high + unit).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        high = ""
    if high:
        sink("\ufffd")


def _code_unit() -> Reading[str]:
    digits = ""
    for _ in range(4):
        digits += yield
    try:
        return chr(int(digits, 16))
    except ValueError:
        return "\ufffd"


def calls(output: Output) -> Reading[None]:
    """Reads a JSON array of calls, after its bracket."""
    while (yield from call(output, (yield from visible()))):
        if (yield from visible()) != ",":
            return output.end()
    if output.is_certain:
        output.end()
    else:
        refused(output)


def call(output: Output, character: str) -> Reading[bool]:
    """Reads a call that is a JSON object, whose first character is given.

    Returns whether it is one: an object with the name of a tool that there is.
    """
    if character != "{":
        return False
    reading = _Call(output)
    character = yield from visible()
    while character == '"':
        key: list[str] = []
        yield from value(character, key.append)
        if not reading.knows(_parsed(key)) or (yield from visible()) != ":":
            break
        character = yield from value((yield from visible()), reading.sink(_parsed(key)))
        if not reading.has_name():
            return False
        character = character or (yield from visible())
        if character == ",":
            character = yield from visible()
    return reading.finished()


class _Call:
    """One call: its name may come before its arguments, or after them."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._is_begun = False
        self._arguments: list[str] = []
        """Those that came before the name."""
        self._has_arguments = False
        self._name: list[str] | None = None

    def knows(self, key: object) -> bool:
        """Whether a call can have this member."""
        return self._is_begun or key in MEMBERS

    def sink(self, key: object) -> Sink:
        """What takes the value of this member."""
        if key == "name" and not self._is_begun:
            self._name = []
            return self._name.append
        if key not in ARGUMENTS or self._has_arguments:
            return lambda character: None
        self._has_arguments = True
        return self._output.argument if self._is_begun else self._arguments.append

    def has_name(self) -> bool:
        """Begins the call once its name is known; whether it is not known to be no call."""
        if self._name is None:
            return True
        name, self._name = _parsed(self._name), None
        if not isinstance(name, str) or name not in self._output.tools:
            return False
        self._output.begin(name)
        self._is_begun = True
        for character in self._arguments:
            self._output.argument(character)
        return True

    def finished(self) -> bool:
        """Whether it is one; a call without arguments has an empty object of them."""
        if self._is_begun and not self._has_arguments:
            self._output.argument("{}")
        return self._is_begun


def _parsed(characters: list[str]) -> object:
    try:
        return json.loads("".join(characters))
    except (ValueError, RecursionError):
        return None

"""Calls of tools: which syntax a template's model has, and how its calls are read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inference_worker.answer import AnswerParser
from inference_worker.tools import generic, hermes, llama3, mistral, qwen_coder
from inference_worker.tools.reading import ID_CHARACTERS, CallParser, Output, Reading

__all__ = ["GENERIC", "SYNTAXES", "Syntax", "parser_of_calls", "syntax_of"]


@dataclass(frozen=True, slots=True)
class Syntax:
    """How one family of models writes calls; its template's source has all of ``marks``.

    ``shown`` are the special tokens that must be seen in the text.
    """

    name: str
    marks: tuple[str, ...]
    read: Callable[[Output], Reading[None]]
    shown: tuple[str, ...] = ()
    id_characters: int = ID_CHARACTERS


SYNTAXES = (
    Syntax(
        "mistral",
        (mistral.TAG,),
        mistral.read,
        shown=(mistral.TAG, mistral.ARGUMENTS_TAG, "[CALL_ID]"),
        id_characters=mistral.ID_CHARACTERS,
    ),
    Syntax(
        "qwen-coder",
        (qwen_coder.FUNCTION, qwen_coder.PARAMETER),
        qwen_coder.read,
        shown=(qwen_coder.BEGIN, qwen_coder.END),
    ),
    Syntax("hermes", (hermes.BEGIN,), hermes.read, shown=(hermes.BEGIN, hermes.END)),
    Syntax("llama3", ("<|start_header_id|>", "ipython"), llama3.read, shown=(llama3.TAG,)),
)
"""The most telling first."""

GENERIC = Syntax("generic", (), generic.read)
"""Of a model that is told how to call."""

_BY_NAME = {syntax.name: syntax for syntax in (*SYNTAXES, GENERIC)}


def syntax_of(template: str) -> Syntax:
    """The syntax that the model of this template was trained on; the generic one where none is."""
    for syntax in SYNTAXES:
        if "tools" in template and all(mark in template for mark in syntax.marks):
            return syntax
    return GENERIC


def parser_of_calls(name: str, tools: Sequence[dict[str, Any]], *, id_seed: str) -> AnswerParser:
    """The parser of the syntax with this name; only these tools can be called."""
    syntax = _BY_NAME[name]
    functions = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    output = Output(functions, id_seed=id_seed, id_characters=syntax.id_characters)
    return CallParser(output, syntax.read)

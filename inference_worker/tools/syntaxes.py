"""The syntaxes of calls: which one a template's model has, how it is read and written. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference_worker.grammar import GrammarRules
from inference_worker.tools import generic, hermes, llama3, mistral, qwen_coder
from inference_worker.tools.reading import ID_CHARACTERS, Output, Reading
from inference_worker.tools.writing import Tool


@dataclass(frozen=True, slots=True)
class Syntax:
    """How one family of models writes calls; its template's source has all of ``marks``.

    ``write`` makes the GBNF of one to so many calls, which begins with one of the ``triggers``:
    with none of them an answer that calls cannot be told from another as it begins. ``shown`` are
    the special tokens that must be seen in the text. ``is_parallel``: it may well call several
    tools at once.
    """

    name: str
    marks: tuple[str, ...]
    read: Callable[[Output], Reading[None]]
    write: Callable[[GrammarRules, Sequence[Tool], int], str]
    triggers: Callable[[Sequence[Tool]], tuple[str, ...]]
    shown: tuple[str, ...] = ()
    is_parallel: bool = True
    id_characters: int = ID_CHARACTERS


def _always(*words: str) -> Callable[[Sequence[Tool]], tuple[str, ...]]:
    return lambda tools: words


SYNTAXES = (
    Syntax(
        "mistral-named",
        (mistral.TAG, mistral.ARGUMENTS_TAG),
        mistral.read,
        mistral.write_named,
        _always(mistral.TAG),
        shown=(mistral.TAG, mistral.ARGUMENTS_TAG, mistral.ID_TAG),
        id_characters=mistral.ID_CHARACTERS,
    ),
    Syntax(
        "mistral",
        (mistral.TAG,),
        mistral.read,
        mistral.write_list,
        _always(mistral.TAG),
        shown=(mistral.TAG,),
        id_characters=mistral.ID_CHARACTERS,
    ),
    Syntax(
        "qwen-coder",
        (qwen_coder.FUNCTION, qwen_coder.PARAMETER),
        qwen_coder.read,
        qwen_coder.write,
        _always(qwen_coder.BEGIN, qwen_coder.FUNCTION),
        shown=(qwen_coder.BEGIN, qwen_coder.END),
    ),
    Syntax(
        "hermes",
        (hermes.BEGIN,),
        hermes.read,
        hermes.write,
        _always(hermes.BEGIN),
        shown=(hermes.BEGIN, hermes.END),
    ),
    Syntax(
        "llama3",
        ("<|start_header_id|>", "ipython"),
        llama3.read,
        llama3.write,
        llama3.triggers,
        shown=(llama3.TAG,),
        is_parallel=False,
    ),
)
"""The most telling first."""

GENERIC = Syntax("generic", (), generic.read, generic.write, _always(), is_parallel=False)
"""Of a model that is told how to call."""

BY_NAME = {syntax.name: syntax for syntax in (*SYNTAXES, GENERIC)}


def syntax_of(template: str) -> Syntax:
    """The syntax that the model of this template was trained on; the generic one where none is."""
    for syntax in SYNTAXES:
        if "tools" in template and all(mark in template for mark in syntax.marks):
            return syntax
    return GENERIC

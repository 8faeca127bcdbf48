"""The syntaxes of calls: which one a template's model has, how it is read and written. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference_worker.grammar import GrammarRules
from inference_worker.tools import generic, glm, hermes, llama3, mistral, qwen_coder
from inference_worker.tools.reading import ID_CHARACTERS, Output, Reading
from inference_worker.tools.writing import Tool


@dataclass(frozen=True, slots=True)
class Syntax:
    """How one family of models writes calls; its template's source has all of ``marks``, and not
    those of ``others``, which go on otherwise.

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
    others: tuple[str, ...] = ()

    def is_of(self, template: str) -> bool:
        """Whether the template is one of this family's."""
        has_marks = "tools" in template and all(mark in template for mark in self.marks)
        return has_marks and not any(mark in template for mark in self.others)


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
        (qwen_coder.TAGS.call, qwen_coder.TAGS.key),
        qwen_coder.read,
        qwen_coder.write,
        _always(qwen_coder.BEGIN, qwen_coder.TAGS.call),
        shown=(qwen_coder.BEGIN, qwen_coder.END),
    ),
    Syntax(
        "glm",
        (glm.TAGS.call, glm.TAGS.key),
        glm.read,
        glm.write,
        _always(glm.TAGS.call),
        shown=glm.SHOWN,
    ),
    Syntax(
        "hermes",
        (hermes.BEGIN,),
        hermes.read,
        hermes.write,
        _always(hermes.BEGIN),
        shown=(hermes.BEGIN, hermes.END),
        others=("<invoke",),  # MiniMax
    ),
    Syntax(
        "llama3",
        ("<|start_header_id|>", "ipython"),
        llama3.read,
        llama3.write,
        llama3.triggers,
        shown=(llama3.TAG,),
        is_parallel=False,
        others=("<function=",),  # Functionary
    ),
)
"""The most telling first."""

GENERIC = Syntax("generic", (), generic.read, generic.write, _always(), is_parallel=False)
"""Of a model that is told how to call."""

BY_NAME = {syntax.name: syntax for syntax in (*SYNTAXES, GENERIC)}


def syntax_of(template: str) -> Syntax:
    """The syntax that the model of this template was trained on; the generic one where none is."""
    return next((syntax for syntax in SYNTAXES if syntax.is_of(template)), GENERIC)

"""What ``$ref`` means: a place in the same document, as a JSON Pointer (RFC 6901). Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from inference_worker.grammar.gbnf import GrammarInvalid


def target_of(document: Any, reference: Any) -> Any:
    """The schema that is referred to. Raises GrammarInvalid where there is none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise GrammarInvalid(f"$ref {reference!r} is not within the schema")
    target = document
    for name in unquote(reference[1:]).split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict) and name in target:
            target = target[name]
        else:
            raise GrammarInvalid(f"$ref {reference!r} leads nowhere")
    return target

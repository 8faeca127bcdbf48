"""What ``$ref`` means: a place in the same document, as a JSON Pointer (RFC 6901). Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from inference_worker.grammar.gbnf import GrammarInvalid

_INDEX = re.compile("[0-9]{1,9}")


def target_of(document: Any, reference: Any) -> Any:
    """The schema that is referred to. Raises GrammarInvalid where there is none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise GrammarInvalid(f"$ref {reference!r} is not within the schema")
    target = document
    first, *names = unquote(reference[1:]).split("/")
    if first:
        raise GrammarInvalid(f"$ref {reference!r} is no path in the schema")
    for name in names:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and _INDEX.fullmatch(name) and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict) and name in target:
            target = target[name]
        else:
            raise GrammarInvalid(f"$ref {reference!r} leads nowhere")
    return target

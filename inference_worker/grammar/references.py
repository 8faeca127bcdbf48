"""What ``$ref`` means: a place in the same document. Pure.

A place is a JSON Pointer (RFC 6901). Where a document has names of its own, ``$id`` and
``$anchor``, all references are told as pointers first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from inference_worker.grammar.gbnf import GrammarInvalid

_INDEX = re.compile("[0-9]{1,9}")
_VALUES = frozenset({"const", "enum", "default", "examples", "example"})
"""What stands in them is no schema."""

_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""In them stand schemas by any name."""


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


def located(document: Any) -> Any:
    """The document, its references by name told as pointers. Raises GrammarInvalid."""
    try:
        names = dict(_names(document, "", ""))
        return _told(document, "", names) if names else document
    except RecursionError:
        raise GrammarInvalid("nested too deeply") from None
    except ValueError as error:
        raise GrammarInvalid(f"$id is no URI: {error}") from None


def _names(schema: Any, base: str, pointer: str) -> Iterator[tuple[str, str]]:
    """The URI of each schema that has a name, with its pointer; ``base`` is that around it."""
    if isinstance(schema, dict):
        base = _base(schema, base)
        if isinstance(schema.get("$id"), str):
            yield base, pointer
        if isinstance(anchor := schema.get("$anchor"), str):
            yield f"{urldefrag(base).url}#{anchor}", pointer
    for name, inner in _inner(schema, pointer.rpartition("/")[2]):
        yield from _names(inner, base, f"{pointer}/{_escaped(name)}")


def _told(schema: Any, base: str, names: dict[str, str], within: str = "") -> Any:
    if isinstance(schema, list):
        return [_told(one, base, names) for one in schema]
    if not isinstance(schema, dict):
        return schema
    base = _base(schema, base)
    told = dict(schema)
    for name, inner in _inner(schema, within):
        told[name] = _told(inner, base, names, name)
    if isinstance(reference := schema.get("$ref"), str):
        told["$ref"] = _pointer(reference, base, names)
    return told


def _pointer(reference: str, base: str, names: dict[str, str]) -> str:
    """The reference as a pointer from the document's root; as it is where it has no such name."""
    uri = urljoin(base, reference) if reference.strip("#") else urldefrag(base).url
    if uri in names:
        return f"#{names[uri]}"
    whole, path = urldefrag(uri)
    if not path.startswith("/") or (whole and whole not in names):
        return reference
    return f"#{names.get(whole, '')}{path}"


def _base(schema: dict[str, Any], base: str) -> str:
    name = schema.get("$id")
    return urljoin(base, name) if isinstance(name, str) else base


def _inner(schema: Any, within: str) -> list[tuple[Any, Any]]:
    """What stands in a schema, or in a list or an object of schemas, which a keyword has."""
    if isinstance(schema, list):
        return list(enumerate(schema))
    if not isinstance(schema, dict):
        return []
    return [one for one in schema.items() if within in _MAPS or one[0] not in _VALUES]


def _escaped(name: Any) -> str:
    return str(name).replace("~", "~0").replace("/", "~1").replace("%", "%25")

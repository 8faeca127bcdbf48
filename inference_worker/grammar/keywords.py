"""What a JSON Schema's keywords say, one by one: their values, checked. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from inference_worker.grammar.gbnf import GrammarInvalid

Schema = Mapping[str, Any]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "object": (
        *("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
        *("patternProperties", "propertyNames"),
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
"""What constrains values of one type; other types it does not concern."""

REFUSED: Mapping[str, Any] = {
    "not": False,
    "if": None,
    "dependentSchemas": {},
    "dependentRequired": {},
    "dependencies": {},
    "contains": None,
    "unevaluatedItems": True,
    "unevaluatedProperties": True,
    "multipleOf": None,
    "uniqueItems": False,
    "$dynamicRef": None,
    "$recursiveRef": None,
}
"""What no grammar says, and the value with which it asks for nothing."""


class SchemaImpossible(GrammarInvalid):
    """Nothing satisfies the schema: an alternative may be left out, an optional property too."""


TYPED = frozenset(word for words in KEYWORDS.values() for word in words)
CONSTRAINTS = TYPED | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"} | set(REFUSED)


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The types that are asked for, or that the constraints mean."""
    if "type" not in schema:
        meant = [kind for kind, words in KEYWORDS.items() if any(word in schema for word in words)]
        return meant or [kind for kind in TYPES if kind != "integer"]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for kind in types:
        if kind not in TYPES:
            raise GrammarInvalid(f"type {kind!r} is not one of {', '.join(TYPES)}")
    if not types:
        raise SchemaImpossible("no type")
    return list(dict.fromkeys(types))


def broad_types(schema: Mapping[str, Any]) -> set[str]:
    """Integers are numbers; alternatives may be anything."""
    if {"anyOf", "oneOf"} & schema.keys():
        return set(TYPES)
    values = values_of(schema)
    if values is None:
        types = types_of(schema)
    else:
        types = [kind for kind in TYPES if any(is_of(value, [kind]) for value in values)]
    return {"number" if kind == "integer" else kind for kind in types}


def values_of(schema: Mapping[str, Any]) -> list[Any] | None:
    """What ``const`` and ``enum`` leave, None where there is neither."""
    if "enum" not in schema:
        return [schema["const"]] if "const" in schema else None
    values = list_of(schema["enum"], "enum")
    if "const" in schema:
        return [value for value in values if same(value, schema["const"])]
    return values


def identity(value: Any) -> Hashable:
    """Equal for values that JSON Schema takes for equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, list):
        return (list, *map(identity, value))
    if isinstance(value, dict):
        return (dict, frozenset((name, identity(inner)) for name, inner in value.items()))
    known: Hashable = value
    return known


def same(one: Any, other: Any) -> bool:
    """Whether JSON Schema takes them for equal."""
    return identity(one) == identity(other)


def is_of(value: Any, types: Iterable[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value == int(value))
    names = {str: "string", list: "array", dict: "object", type(None): "null"}
    return names[type(value)] in types


def properties_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise GrammarInvalid("properties must be an object")
    return properties


def required_of(schema: Mapping[str, Any]) -> set[str]:
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        raise GrammarInvalid("required must be an array of strings")
    return set(required)


def list_of(value: Any, word: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise GrammarInvalid(f"{word} must be a non-empty array")
    return value


def text_of(schema: Mapping[str, Any], word: str) -> str:
    value = schema.get(word, "")
    if not isinstance(value, str):
        raise GrammarInvalid(f"{word} must be a string")
    return value


def count_of(schema: Mapping[str, Any], word: str) -> int | None:
    value = schema.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        raise GrammarInvalid(f"{word} must be a non-negative integer")
    return int(value)


def check_order(low_word: str, low: int, high_word: str, high: int | None) -> None:
    if high is not None and high < low:
        raise SchemaImpossible(f"{low_word} is above {high_word}")


def bounds_of(
    schema: Mapping[str, Any],
) -> tuple[Decimal | None, Decimal | None, tuple[bool, bool]]:
    """The least and the greatest number, and whether each is out itself."""
    low, low_out = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, high_out = _bound(schema, "maximum", "exclusiveMaximum", min)
    return low, high, (low_out, high_out)


def _bound(
    schema: Mapping[str, Any], word: str, exclusive_word: str, tighter: Any
) -> tuple[Decimal | None, bool]:
    inclusive, exclusive = _number(schema, word), schema.get(exclusive_word)
    if isinstance(exclusive, bool):  # as drafts before 6 had it
        return inclusive, exclusive and inclusive is not None
    out = _number(schema, exclusive_word)
    if inclusive is None or out is None:
        return (inclusive, False) if out is None else (out, True)
    return tighter(inclusive, out), out == tighter(inclusive, out)


def _number(schema: Mapping[str, Any], word: str) -> Decimal | None:
    value = schema.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GrammarInvalid(f"{word} must be a number")
    return Decimal(str(value))

"""Two schemas as one, for ``allOf`` and for what stands beside a ``$ref``. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inference_worker.grammar.gbnf import GrammarInvalid
from inference_worker.grammar.keywords import identity, same

Schema = Mapping[str, Any]


def merged(one: Schema, other: Schema) -> dict[str, Any]:
    """What satisfies both. Raises GrammarInvalid for what cannot be said in one schema."""
    _check_closed(one, other)
    _check_closed(other, one)
    words = one.keys() | other.keys()
    if words & _FIRST_ITEMS and one.keys() & _ITEMS and other.keys() & _ITEMS:
        raise GrammarInvalid("items twice, of one array, are not supported")
    result = dict(one)
    for word, value in other.items():
        if word not in result or same(result[word], value):
            result[word] = value
        elif word in _BOTH:
            result[word] = _BOTH[word](result[word], value)
        elif word in _ONCE:
            raise GrammarInvalid(f"{word} twice, of one value, is not supported")
    return result


def _check_closed(one: Schema, other: Schema) -> None:
    """``additionalProperties`` is about those that its own schema does not name."""
    names, others = one.get("properties", {}), other.get("properties", {})
    if not isinstance(names, dict) or not isinstance(others, dict):
        raise GrammarInvalid("properties must be an object")
    if one.get("patternProperties") and (others or "additionalProperties" in other):
        raise GrammarInvalid("patternProperties beside properties of another schema")
    further = one.get("additionalProperties", True)
    if further not in (True, {}) and others.keys() - names.keys():
        raise GrammarInvalid("additionalProperties beside properties of another schema")


def _common_types(one: Any, other: Any) -> list[Any]:
    ones, others = _types(one), _types(other)
    both = [kind for kind in ones if kind in others]
    integers = "integer" in ones + others and "integer" not in both
    return both + ["integer"] * (integers and "number" in ones + others)


def _types(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _all_required(one: Any, other: Any) -> list[Any]:
    return _array(one) + _array(other)


def _common_values(one: Any, other: Any) -> list[Any]:
    others = set(map(identity, _array(other)))
    return [value for value in _array(one) if identity(value) in others]


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise GrammarInvalid("required and enum must be arrays")
    return value


def _properties(one: Any, other: Any) -> dict[str, Any]:
    # Objects both: _check_closed has looked.
    return {
        name: _both(one[name], other[name]) if name in one and name in other else value
        for name, value in {**one, **other}.items()
    }


def _both(one: Any, other: Any) -> dict[str, Any]:
    return {"allOf": [one, other]}


def _bound(tighter: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def of(one: Any, other: Any) -> Any:
        for value in (one, other):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise GrammarInvalid("a bound must be a number")
        return tighter(one, other)

    return of


_BOTH: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "required": _all_required,
    "enum": _common_values,
    "properties": _properties,
    "additionalProperties": _both,
    "items": _both,
    "allOf": lambda one, other: _array(one) + _array(other),
    **dict.fromkeys(
        ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), _bound(max)
    ),
    **dict.fromkeys(
        ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), _bound(min)
    ),
}

_ONCE = frozenset(
    {"anyOf", "oneOf", "const", "pattern", "format", "$ref", "patternProperties", "propertyNames"}
)
_FIRST_ITEMS = frozenset({"prefixItems", "additionalItems"})
_ITEMS = _FIRST_ITEMS | {"items"}

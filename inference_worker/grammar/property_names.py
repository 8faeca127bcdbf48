"""What an object's further properties are called, and what they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inference_worker.grammar.gbnf import GrammarInvalid
from inference_worker.grammar.pattern import Pattern

Schema = Any


def keys_of(
    schema: Mapping[str, Any], further: Schema, names: frozenset[str]
) -> tuple[Schema | None, Schema]:
    """The schema of their keys, None where they may have any but the ``names``, and that of their
    values, ``further`` unless a pattern has one. Raises GrammarInvalid."""
    patterns, keys = schema.get("patternProperties") or {}, schema.get("propertyNames", True)
    if not isinstance(patterns, dict):
        raise GrammarInvalid("patternProperties must be an object")
    if keys not in (True, {}) and (names or patterns):
        raise GrammarInvalid("propertyNames beside properties is not supported")
    if not patterns:
        return (None if keys in (True, {}) else {"allOf": [{"type": "string"}, keys]}), further
    if len(patterns) > 1 or schema.get("additionalProperties"):
        raise GrammarInvalid("patternProperties beside others is not supported")
    [(pattern, value)] = patterns.items()
    Pattern(pattern)
    if any(re.search(pattern, name) for name in names):
        raise GrammarInvalid("patternProperties beside a property that it means too")
    return {"type": "string", "pattern": pattern}, value

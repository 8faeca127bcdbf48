"""What one alternative of a schema allows, so that it can be told from the others. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from inference_worker.grammar.keywords import broad_types, identity, values_of


@dataclass(frozen=True, slots=True)
class Kind:
    """Values of which types, or which values (see ``identity``); ``flat`` is the schema with all
    that it refers to."""

    schema: Any
    flat: Mapping[str, Any]
    types: set[str]
    values: frozenset[Hashable] | None

    @classmethod
    def of(cls, schema: Any, flat: Mapping[str, Any]) -> Kind:
        """Raises GrammarInvalid where its types or values are no such."""
        values = values_of(flat)
        known = None if values is None else frozenset(map(identity, values))
        return cls(schema, flat, broad_types(flat), known)

    def has_other_values(self, other: Kind) -> bool:
        """Whether none of its values is one of the other's, by type or one by one."""
        if self.values is None or other.values is None:
            return not self.types & other.types
        return self.values.isdisjoint(other.values)

"""What a schema asks of a string, however that is written: within quotes, or between tags. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_worker.grammar.formats import FORMATS
from inference_worker.grammar.gbnf import GrammarInvalid
from inference_worker.grammar.keywords import check_order, count_of, text_of
from inference_worker.grammar.pattern import Pattern


@dataclass(frozen=True, slots=True)
class TextRules:
    """So many characters (``high`` None is without end), or what a pattern matches."""

    low: int
    high: int | None
    pattern: Pattern | None

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> TextRules:
        """Raises GrammarInvalid for what no grammar says of a string."""
        low, high = count_of(schema, "minLength") or 0, count_of(schema, "maxLength")
        check_order("minLength", low, "maxLength", high)
        source = schema.get("pattern", FORMATS.get(text_of(schema, "format")))
        if source is None:
            return cls(low, high, None)
        if "pattern" in schema and text_of(schema, "format") in FORMATS:
            raise GrammarInvalid("pattern and format at once are not supported")
        if not isinstance(source, str):
            raise GrammarInvalid("pattern must be a string")
        pattern = Pattern(source)
        if pattern.shortest < low or (high is not None and pattern.longest > high):
            raise GrammarInvalid(
                "what a pattern or format matches must have a length from minLength to maxLength"
            )
        return cls(low, high, pattern)

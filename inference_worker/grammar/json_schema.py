"""JSON Schema to GBNF: whatever the grammar allows validates against the schema. Pure.

It may allow less: properties that a schema does not name only come where it says of which kind they
are, and those it names come in its order. What it cannot express it refuses, so that nothing is
asked for in vain; annotations, and what JSON Schema does not know, constrain nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from inference_worker.grammar import json_text
from inference_worker.grammar.alternatives import Kind
from inference_worker.grammar.gbnf import GrammarInvalid
from inference_worker.grammar.keywords import (
    CONSTRAINTS,
    REFUSED,
    TYPED,
    TYPES,
    SchemaImpossible,
    bounds_of,
    check_order,
    count_of,
    is_of,
    list_of,
    properties_of,
    required_of,
    same,
    types_of,
    values_of,
)
from inference_worker.grammar.merging import merged
from inference_worker.grammar.property_names import keys_of
from inference_worker.grammar.references import target_of
from inference_worker.grammar.rules import GrammarRules
from inference_worker.grammar.texts import TextRules

DEPTH_MAX = 64
"""Of schemas in one another; a reference to a schema elsewhere begins anew, recursion is free."""

SCHEMAS_MAX = 10_000
"""To look at, for one schema; what stands beside alternatives is looked at with each of them."""

ALTERNATIVES_MAX = 100
"""Of ``oneOf``: each is compared with each."""

PATH_CHARACTERS_MAX = 200
"""Of where a mistake is, as the client is told."""

Schema = Any
"""An object, or a boolean."""


class SchemaRules:
    """The rules of schemas that share their definitions: those of ``document``."""

    def __init__(self, rules: GrammarRules, document: Schema) -> None:
        self._rules = rules
        self._document = document
        self._references: dict[str, str] = {}
        self._kinds: dict[int, Kind] = {}
        self._waiting: list[tuple[str, Schema]] = []
        """What is referred to and has no rule yet, with the names of those rules."""
        self._schemas = 0
        self._depth = 0
        self._path: list[str] = []

    def root(self, schema: Schema) -> str:
        """A rule of the values of the document, or of a schema in it; one without any constraint
        means an object."""
        if schema is True or schema == {}:
            schema = {"type": "object"}
        with self._named():
            root = self._rules.define("value", self._value(schema))
            while self._waiting:
                name, schema = self._waiting.pop()
                self._path = [name]
                self._rules.put(name, self._value(schema))
        return root

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors tell where they were found."""
        try:
            yield
        except RecursionError:
            raise GrammarInvalid("nested too deeply") from None
        except GrammarInvalid as error:
            where = ".".join(self._path)[:PATH_CHARACTERS_MAX]
            self._path = []
            raise type(error)(f"{where}: {error}" if where else str(error)) from None

    @contextmanager
    def _at(self, *names: object) -> Iterator[None]:
        if self._depth >= DEPTH_MAX:
            raise GrammarInvalid(f"over {DEPTH_MAX} schemas in one another")
        self._depth += 1
        self._path += map(str, names)
        yield
        # After an error the path stays, to be told.
        del self._path[len(self._path) - len(names) :]
        self._depth -= 1

    def _rule(self, schema: Schema, *at: object) -> str:
        """The name of a rule of the schema's values."""
        depth, length = self._depth, len(self._path)
        try:
            with self._at(*at):
                return self._rules.define(str(at[-1]) if at else "value", self._value(schema))
        except SchemaImpossible:
            self._depth = depth
            del self._path[length:]
            raise

    def _value(self, schema: Schema) -> str:
        self._schemas += 1
        if self._schemas > SCHEMAS_MAX:
            raise GrammarInvalid(f"over {SCHEMAS_MAX} schemas")
        if schema is True:
            return self._anything()
        if schema is False:
            raise SchemaImpossible("nothing satisfies it")
        if not isinstance(schema, dict):
            raise GrammarInvalid("a schema must be an object or a boolean")
        self._check(schema)
        if set(schema) & CONSTRAINTS == {"$ref"}:
            return self._reference(schema["$ref"])
        schema = self._flat(schema)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._alternatives(schema, word)
        if "const" in schema or "enum" in schema:
            return self._values(schema)
        if not set(schema) & (TYPED | {"type"}):
            return self._anything()
        return " | ".join(self._of_type(one, schema) for one in types_of(schema))

    def _check(self, schema: Mapping[str, Any]) -> None:
        for word, harmless in REFUSED.items():
            if word in schema and not same(schema[word], harmless):
                raise GrammarInvalid(f"{word} is not supported")

    def _anything(self) -> str:
        return self._referred("#anything", {"type": [one for one in TYPES if one != "integer"]})

    def _reference(self, reference: Any) -> str:
        """A rule for each schema that is referred to, so that it may refer to itself."""
        return self._referred(str(reference), target_of(self._document, reference))

    def _referred(self, key: str, schema: Schema) -> str:
        if key not in self._references:
            self._references[key] = self._rules.reserve(key.rsplit("/", 1)[-1])
            self._waiting.append((self._references[key], schema))
        return self._references[key]

    def _flat(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema with what it refers to, and all that it must satisfy, in one."""
        flat = dict(schema)
        for _ in range(DEPTH_MAX):
            if "$ref" in flat:
                parts = [target_of(self._document, flat.pop("$ref"))]
            elif "allOf" in flat:
                parts = list_of(flat.pop("allOf"), "allOf")
            else:
                return flat
            for part in parts:
                if part is False:
                    raise SchemaImpossible("nothing satisfies it")
                if not isinstance(part, dict | bool):
                    raise GrammarInvalid("a schema must be an object or a boolean")
                if isinstance(part, dict):
                    self._check(part)
                    flat = merged(flat, part)
        raise GrammarInvalid("it refers to itself without end")

    def _alternatives(self, schema: Mapping[str, Any], word: str) -> str:
        """``anyOf``, ``oneOf``: each with what stands beside it."""
        beside = {name: value for name, value in schema.items() if name in CONSTRAINTS - {word}}
        found = list_of(schema[word], word)
        if word == "oneOf":
            self._check_exclusive(found)
        ways = []
        for index, one in enumerate(found):
            if beside:
                one = {"allOf": [beside, one]}
            try:
                ways.append(self._rule(one, f"{word}[{index}]"))
            except SchemaImpossible:
                continue
        if not ways:
            raise SchemaImpossible(f"{word} without a possible alternative")
        return " | ".join(dict.fromkeys(ways))

    def _check_exclusive(self, schemas: Sequence[Schema]) -> None:
        """``oneOf``: what we make of one alternative must not satisfy another."""
        if len(schemas) > ALTERNATIVES_MAX:
            raise GrammarInvalid(f"oneOf with over {ALTERNATIVES_MAX} alternatives")
        kinds = [self._kind(one) for one in schemas]
        for index, one in enumerate(kinds):
            for other_index, other in enumerate(kinds):
                if index != other_index and not self._excludes(one, other):
                    raise GrammarInvalid(
                        f"oneOf: what satisfies [{index}] may satisfy [{other_index}] (use anyOf)"
                    )

    def _kind(self, schema: Schema) -> Kind:
        """What one alternative allows; looked at once, however many it is compared with."""
        if id(schema) not in self._kinds:
            flat = self._flat(schema) if isinstance(schema, dict) else {}
            self._kinds[id(schema)] = Kind.of(schema, flat)
        return self._kinds[id(schema)]

    def _excludes(self, one_kind: Kind, other_kind: Kind) -> bool:
        if one_kind.has_other_values(other_kind):
            return True
        are_known = None not in (one_kind.values, other_kind.values)
        if are_known or one_kind.types | other_kind.types != {"object"}:
            return False
        one, other = one_kind.flat, other_kind.flat
        mine, others = properties_of(one), properties_of(other)
        is_closed = not (one.get("additionalProperties", not mine) or one.get("patternProperties"))
        if is_closed and not required_of(other) <= mine.keys():
            return True
        is_closed = other.get("additionalProperties") is False and "patternProperties" not in other
        if is_closed and not required_of(one) <= others.keys():
            return True
        # Who lacks a property that the other requires is told apart by that alone.
        both = (required_of(one) | required_of(other)) & others.keys() & mine.keys()
        return any(
            self._kind(mine[name]).has_other_values(self._kind(others[name])) for name in both
        )

    def _values(self, schema: Mapping[str, Any]) -> str:
        """``const``, ``enum``: what else is asked for only chooses among them."""
        values = values_of(schema) or ()
        types = types_of(schema) if "type" in schema else TYPES
        fitting = [value for value in values if is_of(value, types)]
        if set(schema) & TYPED:
            raise GrammarInvalid("enum or const beside other constraints")
        if not fitting:
            raise SchemaImpossible("no value that it names satisfies it")
        return json_text.written(self._rules, *fitting)

    def _of_type(self, kind: str, schema: Mapping[str, Any]) -> str:
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "boolean":
                return '"true" | "false"'
            case "null":
                return '"null"'
        low, high, exclusive = bounds_of(schema)
        of_kind = json_text.integer if kind == "integer" else json_text.number
        return of_kind(self._rules, low, high, exclusive=exclusive)

    def _string(self, schema: Mapping[str, Any]) -> str:
        wanted = TextRules.of(schema)
        if wanted.pattern is not None:
            return wanted.pattern.string(self._rules)
        return json_text.string(self._rules, wanted.low, wanted.high)

    def _array(self, schema: Mapping[str, Any]) -> str:
        low, high = count_of(schema, "minItems") or 0, count_of(schema, "maxItems")
        check_order("minItems", low, "maxItems", high)
        firsts, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):
            firsts, rest = rest, schema.get("additionalItems", True)
        if not isinstance(firsts, list):
            raise GrammarInvalid("prefixItems must be an array")
        space = json_text.space(self._rules)
        names = [self._rule(one, f"items[{index}]") for index, one in enumerate(firsts)]
        if high is not None:
            names = names[:high]
        more = None
        if high is None or high > len(names):
            try:
                more = self._rule(rest, "items")
            except SchemaImpossible:
                high = len(names)
        if low > len(names) and more is None:
            raise SchemaImpossible(f"there are no {low} items")
        body = self._items(names, more, low, None if high is None else high - len(names))
        return f'"[" {space} {body} "]"'

    def _items(self, names: list[str], more: str | None, low: int, further: int | None) -> str:
        """Items, the first ones by name; ``low`` in all at least, ``further`` others at most."""
        space, comma = json_text.space(self._rules), self._comma()
        tail = ""
        if more is not None:
            again = self._rules.define("further", f"{comma} {more}")
            if not names:
                if further == 0:
                    return '""'
                most = None if further is None else further - 1
                body = f"{more} {self._rules.repeated(again, max(0, low - 1), most)} {space}"
                return body if low else f"({body})?"
            tail = self._rules.repeated(again, max(0, low - len(names)), further)
        for index in reversed(range(len(names))):
            body = f"{comma if index else ''} {names[index]} {tail}"
            tail = body if index < low else f"({body})?"
        return f"{tail} {space}"

    def _object(self, schema: Mapping[str, Any]) -> str:
        named, required = dict(properties_of(schema)), required_of(schema)
        further = schema.get("additionalProperties", not named)
        unnamed = schema.get("additionalProperties", True)
        named.update(dict.fromkeys(sorted(required - named.keys()), unnamed))
        properties: list[tuple[str, bool]] = []
        for name, one in named.items():
            try:
                rule = self._rule(one, "properties", name)
            except SchemaImpossible:
                if name in required:
                    raise
                continue
            properties.append(
                (self._property(json_text.written(self._rules, name), rule, name), name in required)
            )
        most = count_of(schema, "maxProperties")
        least = count_of(schema, "minProperties") or 0
        if least > len(required) and (named or least > 1):
            raise GrammarInvalid("minProperties is not supported here")
        if most is not None and most < len(properties):
            raise GrammarInvalid("maxProperties is not supported here")
        other = None
        if most is None or most > len(properties):
            other = self._other(schema, further, frozenset(named))
        if least and not properties and other is None:
            raise SchemaImpossible("it must have properties, and may have none")
        left = None if most is None else most - len(properties)
        space = json_text.space(self._rules)
        return f'"{{" {space} {self._members(properties, other, left, least=least)} "}}"'

    def _other(
        self, schema: Mapping[str, Any], further: Schema, names: frozenset[str]
    ) -> str | None:
        """A property that the schema does not name."""
        keys, further = keys_of(schema, further, names)
        try:
            value = self._rule(further, "additionalProperties")
            key = json_text.other_key(self._rules, names)
            if keys is not None:
                key = self._rule(keys, "propertyNames")
        except SchemaImpossible:
            return None
        return self._property(key, value, "other")

    def _property(self, key: str, value: str, hint: str) -> str:
        space = json_text.space(self._rules)
        return self._rules.define(f"{hint}-property", f'{key} {space} ":" {space} {value}')

    def _members(
        self, properties: list[tuple[str, bool]], other: str | None, most: int | None, *, least: int
    ) -> str:
        """Properties in their order, each with whether it must come; then others."""
        space, comma = json_text.space(self._rules), self._comma()
        members: str | None = None
        """A rule of one property or more, of those behind."""
        may_end = True
        if other is not None:
            again = self._rules.define("further", f"{comma} {other}")
            more = self._rules.repeated(again, 0, None if most is None else most - 1)
            members = self._rules.define("members", f"{other} {more}")
        for rule, is_required in reversed(properties):
            body = rule
            if members is not None:
                following = f"{comma} {members}"
                body += f" ({following})?" if may_end else f" {following}"
                body += "" if is_required else f" | {members}"
            members = self._rules.define("members", body)
            may_end = may_end and not is_required
        if members is None:
            return '""'
        return f"({members} {space})?" if may_end and not least else f"{members} {space}"

    def _comma(self) -> str:
        space = json_text.space(self._rules)
        return self._rules.define("comma", f'{space} "," {space}')

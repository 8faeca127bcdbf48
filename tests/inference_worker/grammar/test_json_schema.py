"""What a schema's grammar allows is checked by hand-written meanings of the same schemas."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time
from ipaddress import IPv4Address, IPv6Address
from random import Random
from time import process_time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_worker.grammar import GrammarInvalid, compiled
from inference_worker.grammar.keywords import KEYWORDS, REFUSED
from replay.request import Constraint
from tests.inference_worker.grammar.test_gbnf import is_read
from tests.inference_worker.grammar.written import text_of

Meaning = Callable[[Any], bool]
Case = tuple[Any, Meaning]


def grammar_of(schema: Any) -> str:
    return compiled(Constraint("json_schema", "json_schema", json.dumps(schema)))


def allows(schema: Any, text: str) -> bool:
    return is_read(grammar_of(schema), text)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers() -> st.SearchStrategy[Case]:
    def of(bounds: tuple[float, float], whole: bool, sides: tuple[str, str]) -> Case:
        low, high = sorted(bounds)
        kind, (low_word, high_word) = "integer" if whole else "number", sides

        def means(value: Any) -> bool:
            above = value > low if low_word == "exclusiveMinimum" else value >= low
            below = value < high if high_word == "exclusiveMaximum" else value <= high
            return is_number(value) and above and below and (not whole or value == int(value))

        return {"type": kind, low_word: low, high_word: high}, means

    bound = st.one_of(st.integers(-(10**6), 10**6), st.decimals(-999, 999, places=3).map(float))
    words = st.tuples(
        st.sampled_from(["minimum", "exclusiveMinimum"]),
        st.sampled_from(["maximum", "exclusiveMaximum"]),
    )
    # Apart by 2 at least: an integer is between them, whichever are in.
    apart = st.tuples(bound, bound).filter(lambda both: abs(both[0] - both[1]) >= 2)
    return st.builds(of, apart, st.booleans(), words)


def strings() -> st.SearchStrategy[Case]:
    def of(lengths: tuple[int, int]) -> Case:
        low, high = sorted(lengths)
        schema = {"type": "string", "minLength": low, "maxLength": high}
        return schema, lambda value: isinstance(value, str) and low <= len(value) <= high

    return st.builds(of, st.tuples(st.integers(0, 700), st.integers(0, 700)))


def values() -> st.SearchStrategy[Case]:
    # Not all vocabularies can spell what is beyond.
    texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=5)
    some = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts)
    among = st.lists(some, min_size=1, max_size=4)
    return among.map(lambda enum: ({"enum": enum}, lambda value: value in enum))


def arrays(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def of(items: Case, firsts: list[Case], counts: tuple[int, int]) -> Case:
        (schema, means), (low, high) = items, sorted(counts)
        first = [case[1] for case in firsts]

        def means_array(value: Any) -> bool:
            meanings = first + [means] * len(value)
            return low <= len(value) <= high and all(
                of_one(one) for of_one, one in zip(meanings, value, strict=False)
            )

        parts = {"prefixItems": [case[0] for case in firsts], "items": schema}
        return {"type": "array", **parts, "minItems": low, "maxItems": high}, means_array

    return st.builds(
        of, inner, st.lists(inner, max_size=2), st.tuples(st.integers(0, 4), st.integers(0, 4))
    )


def objects(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def of(named: dict[str, Case], required: list[str], other: Case | None) -> Case:
        required = [name for name in required if name in named]

        def means(value: Any) -> bool:
            return (
                isinstance(value, dict)
                and set(required) <= value.keys()
                and all(
                    named[name][1](one) if name in named else other is not None and other[1](one)
                    for name, one in value.items()
                )
            )

        schema = {
            "type": "object",
            "properties": {name: case[0] for name, case in named.items()},
            "required": required,
            "additionalProperties": other[0] if other else False,
        }
        return schema, means

    names = st.sampled_from(["a", "ab", 'b"c', "é\n", ""])
    return st.builds(
        of, st.dictionaries(names, inner, max_size=4), st.lists(names), st.none() | inner
    )


def unions(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def of(cases: list[Case]) -> Case:
        schema = {"anyOf": [case[0] for case in cases]}
        return schema, lambda value: any(means(case, value) for case in cases)

    return st.builds(of, st.lists(inner, min_size=1, max_size=3))


def means(case: Case, value: Any) -> bool:
    try:
        return case[1](value)
    except TypeError:  # of another type than this case is about
        return False


LEAVES = st.one_of(numbers(), strings(), values())
CASES = st.recursive(
    LEAVES, lambda inner: arrays(inner) | objects(inner) | unions(inner), max_leaves=6
)


@settings(max_examples=60, derandomize=True)
@given(CASES, st.integers(0, 2**32))
def test_whatever_a_schema_allows_parses_and_validates(case: Case, seed: int) -> None:
    text = text_of(grammar_of(case[0]), Random(seed))
    if text is not None:
        assert means(case, json.loads(text)), text


FORMATS: dict[str, Callable[[str], Any]] = {
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "date-time": datetime.fromisoformat,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uuid": UUID,
    "email": lambda text: re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", text).group(),  # type: ignore[union-attr]
    "hostname": lambda text: re.fullmatch(r"[a-z0-9.-]{1,253}", text).group(),  # type: ignore[union-attr]
    "uri": lambda text: re.fullmatch(r"https?://\S+", text).group(),  # type: ignore[union-attr]
    "duration": lambda text: re.fullmatch(
        r"P(\d+W|(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?)", text
    ).group(),  # type: ignore[union-attr]
}


@pytest.mark.clause("FORM-3")
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_what_readers_take_for_one(name: str) -> None:
    grammar = grammar_of({"type": "string", "format": name})
    for seed in range(40):
        text = text_of(grammar, Random(seed))
        assert text is not None
        FORMATS[name](json.loads(text))


@pytest.mark.clause("FORM-3")
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, ['{"a": [1, "x", null]}', "{}"], ["[]", "1"]),
        (True, ["{}"], ["1"]),
        ({"type": ["string", "null"]}, ['"x"', "null"], ["1"]),
        ({"type": "integer"}, ["0", "-12"], ["01", "1.5", "-0", "1" * 16]),
        ({"type": "number"}, ["0", "-1.5e-3", "1E9"], [".5", "1.", "1e999"]),
        ({"type": "string"}, ['"é\\n\\u00e4\\ud83d\\ude00"'], ['"\n"', '"\\ud83d"', '"\\x"']),
        ({"minimum": 3}, ["3", "17.25"], ["2", '"x"']),
        ({"enum": ["a", 1], "type": "string"}, ['"a"'], ["1"]),
        ({"const": {"x": [None]}}, ['{"x": [null]}'], ["{}"]),
        (
            {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["b"]},
            ['{"a": null, "b": null}', '{"b":null}'],
            ["{}", '{"b": null, "a": null}', '{"b": null, "c": null}'],
        ),
        (
            {"properties": {"foo": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
            ['{"foo": null, "fo": 1}', '{"fooo": 2}'],
            ['{"foo": 1}', '{"fo": null}', '{"foo": null, "foo": 1}', '{"\\u0066oo": 1}'],
        ),
        ({"type": "object", "maxProperties": 1}, ["{}", '{"a": 1}'], ['{"a": 1, "b": 2}']),
        ({"type": "object", "minProperties": 1}, ['{"a": 1}'], ["{}"]),
        (
            {"required": ["a"], "additionalProperties": {"type": "null"}},
            ['{"a": null, "b": null}'],
            ["{}", '{"a": 1}'],
        ),
        (
            {"$ref": "#/$defs/node", "$defs": {"node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }}},
            ['{"next": {"next": null}}'],
            ['{"next": {}}', "null"],
        ),
        (
            {"properties": {"a~/b": {"type": "null"}, "c": {"$ref": "#/properties/a~0~1b"}}},
            ['{"c": null}'],
            ['{"c": 1}'],
        ),
        (
            {"allOf": [{"properties": {"a": {"type": "number"}}, "required": ["a"]},
                       {"properties": {"a": {"type": "integer"}, "b": {"maximum": 1}}}]},
            ['{"a": 1, "b": 0}'],
            ['{"a": 1.5}', '{"b": 0}'],
        ),
        (
            {"type": "object", "required": ["k"], "anyOf": [
                {"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}}}]},
            ['{"k": 1}', '{"k": 2}'],
            ['{"k": 3}', "{}"],
        ),
        (
            {"oneOf": [
                {"properties": {"k": {"const": 1}, "v": {"type": "null"}}, "required": ["k", "v"]},
                {"properties": {"k": {"const": 2}}, "required": ["k"]}]},
            ['{"k": 1, "v": null}', '{"k": 2}'],
            ['{"k": 1}'],
        ),
        ({"type": "string", "pattern": "^a.c$"}, ['"abc"', '"a\\"c"'], ['"ac"', '"xabc"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),
        ({"type": "string", "pattern": "^(foo|ba[rz]){2}$"}, ['"foobaz"'], ['"foo"']),
        ({"type": "string", "pattern": r"^\(\d{3}\) \w+?$"}, ['"(123) x_1"'], ['"(12) x"']),
        ({"type": "string", "format": "made-up"}, ['"anything"'], ["1"]),
        ({"anyOf": [False, {"type": "null"}]}, ["null"], ["1"]),
        ({"properties": {"a": False, "b": {"type": "null"}}}, ['{"b": null}'], ['{"a": 1}']),
    ],
)  # fmt: skip
def test_a_schema_means_what_it_says(schema: Any, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not allows(schema, text)] == []
    assert [text for text in bad if allows(schema, text)] == []


WORDS = ["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "#", "object", "a"]
WORDS += [*REFUSED, *(word for words in KEYWORDS.values() for word in words)]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, derandomize=True)
@given(ANYTHING)
def test_whatever_stands_in_the_place_of_a_schema_is_compiled_or_refused(value: Any) -> None:
    with suppress(GrammarInvalid):
        grammar_of(value)


def nested(depth: int) -> Any:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (123, "must be an object or a boolean"),
        ({"type": 123}, "type 123 is not one of"),
        ({"type": "hiccup"}, "type 'hiccup' is not one of"),
        ({"properties": {"a": {"items": {"type": "hiccup"}}}}, "properties.a.items: type 'hiccup'"),
        ({"properties": []}, "properties must be an object"),
        ({"required": [1]}, "required must be an array of strings"),
        ({"enum": []}, "enum must be a non-empty array"),
        ({"minLength": "3"}, "minLength must be a non-negative integer"),
        ({"maximum": None, "minimum": "3"}, "minimum must be a number"),
        ({"type": "string", "pattern": "("}, "the pattern cannot be read"),
        ({"type": "string", "pattern": "(?=a)b"}, "a pattern with assert"),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "must have a length"),
        ({"$ref": "#/nowhere"}, "leads nowhere"),
        ({"$ref": "https://example.org/schema"}, "is not within the schema"),
        ({"$ref": "#nodes", "$defs": {"n": {"$anchor": "node"}}}, "is no path in the schema"),
        ({"$ref": "other", "$id": "https://example.org/it"}, "is not within the schema"),
        ({"$id": "https://[", "$ref": "#a"}, "is no URI"),
        ({"$ref": "#/allOf/²", "allOf": [{}, {}, {}]}, "leads nowhere"),
        ({"$ref": "#"}, "left recursion"),
        ({"allOf": [{"$ref": "#"}]}, "refers to itself without end"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no finite answer"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems is not supported"),
        ({"not": {"type": "null"}}, "not is not supported"),
        ({"propertyNames": {"maxLength": 1}, "properties": {"a": {}}}, "propertyNames beside"),
        ({"patternProperties": {"a": {}, "b": {}}}, "patternProperties beside others"),
        ({"patternProperties": {"a": {}}, "additionalProperties": True}, "beside others"),
        ({"patternProperties": {"a": {}}, "properties": {"a": {}}}, "that it means too"),
        ({"patternProperties": {"(": {}}}, "the pattern cannot be read"),
        (
            {"allOf": [{"patternProperties": {"a": {}}}, {"properties": {"a": {}}}]},
            "patternProperties beside properties",
        ),
        ({"oneOf": [{"type": "object"}, {"required": ["a"]}]}, "use anyOf"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number within its bounds"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "use anyOf"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "pattern twice"),
        (False, "nothing satisfies it"),
        (nested(70), "over 64 schemas"),
        ({"properties": {f"p{n}": {} for n in range(20_000)}}, "longer than|over 10000 schemas"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(schema: Any, told: str) -> None:
    with pytest.raises(GrammarInvalid, match=told):
        grammar_of(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"enum": list(range(15_000))}, {"enum": list(range(14_999, 30_000))}]},
        {"oneOf": [{"enum": list(range(one, one + 300))} for one in range(0, 30_000, 300)]},
    ],
    ids=["allOf", "oneOf"],
)
def test_many_values_are_compared_in_no_time(schema: Any) -> None:
    begun_s = process_time()
    grammar_of(schema)
    assert process_time() - begun_s < 20  # each with each: minutes


def test_schemas_that_refer_in_turn_are_as_many_as_they_like() -> None:
    names = {f"n{n}": {"items": {"$ref": f"#/$defs/n{n + 1}"}, "type": "array"} for n in range(400)}
    schema = {"$ref": "#/$defs/n0", "$defs": {**names, "n400": {"type": "null"}}}
    assert allows(schema, "[[[[]]]]")


def test_there_may_be_many_values() -> None:
    names = [f"value number {number}" for number in range(1000)]
    assert allows({"enum": names}, '"value number 99"')
    assert not allows({"enum": names}, '"value number "')
    assert allows({"enum": ["a", "ab", "", 1, 12]}, '"ab"')


def test_values_are_not_nested_without_end() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(GrammarInvalid):
        grammar_of({"allOf": [{"const": deep}, {"const": [deep]}]})


NAMED = {
    "anchor": {"$ref": "#node", "$defs": {"a/b%": {"$anchor": "node", "const": 1}}},
    "old anchor": {"$ref": "#node", "definitions": {"a": {"$id": "#node", "const": 1}}},
    "relative": {
        "$id": "https://example.org/schemas/all",
        "$ref": "one.json",
        "$defs": {"a": {"$id": "one.json", "const": 1}},
    },
    "own root": {"$id": "urn:x", "$ref": "urn:x#/$defs/a", "$defs": {"a": {"const": 1}}},
    "of an inner one": {
        "$id": "https://example.org/all",
        "$ref": "/inner",
        "$defs": {
            "a": {"const": 2},
            "b": {"$id": "/inner", "$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}},
        },
    },
    "anchor of an inner one": {
        "$ref": "inner#it",
        "$defs": {
            "a": {"$anchor": "it", "const": 2},
            "b": {"$id": "inner", "$defs": {"a": {"$anchor": "it", "const": 1}}},
        },
    },
    "no names": {"$ref": "#/$defs/a", "$defs": {"a": {"const": 1, "default": {"$id": "#x"}}}},
}


@pytest.mark.parametrize("schema", NAMED.values(), ids=NAMED)
def test_a_reference_may_be_by_name(schema: Any) -> None:
    assert allows(schema, "1") and not allows(schema, "2")


def test_what_is_named_like_a_keyword_is_referred_to_as_well() -> None:
    schema = {
        "properties": {"const": {"$ref": "#a"}},
        "required": ["const"],
        "$defs": {"default": {"$anchor": "a", "const": 1}},
    }
    assert allows(schema, '{"const": 1}') and not allows(schema, '{"const": 2}')


KEYS: list[tuple[Any, str, list[str]]] = [
    (
        {"propertyNames": {"$ref": "#/$defs/k"}, "$defs": {"k": {"enum": ["r", "g"]}}},
        '{"g": 1}',
        ['{"b": 1}'],
    ),
    (
        {"patternProperties": {"^a+$": {"type": "integer"}}, "type": "object"},
        '{"aa": 1, "a": 2}',
        ['{"b": 1}', '{"a": "x"}'],
    ),
    (
        {
            "properties": {"b": {"type": "null"}},
            "patternProperties": {"^a+$": {"type": "integer"}},
            "additionalProperties": False,
        },
        '{"b": null, "a": 2}',
        ['{"b": 1}', '{"b": null, "c": 2}'],
    ),
    ({"propertyNames": {"maxLength": 1}, "minProperties": 1}, '{"a": []}', ["{}", '{"aa": 1}']),
    ({"patternProperties": {"a": False}, "type": "object"}, "{}", ['{"a": 1}']),
]


@pytest.mark.parametrize(("schema", "good", "bad"), KEYS)
def test_keys_are_as_the_schema_says(schema: Any, good: str, bad: list[str]) -> None:
    assert allows(schema, good)
    assert not [text for text in bad if allows(schema, text)]


def test_alternatives_are_told_apart_by_what_one_of_them_requires() -> None:
    cat = {"properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
    dog = {"properties": {"kind": {"const": "dog"}, "name": {"type": "string"}}}
    for schemas in ([cat, dog], [dog, cat]):
        assert allows({"oneOf": schemas}, '{"name": "x"}')


def test_the_root_may_be_referred_to_by_name() -> None:
    tree: dict[str, Any] = {"$id": "tree", "type": "object"}
    for name in ("#", "tree#", "tree"):
        tree["properties"] = {"below": {"$ref": name}}
        assert allows(tree, '{"below": {"below": {}}}') and not allows(tree, '{"below": 1}')


def test_references_of_one_last_name_are_not_mixed_up() -> None:
    schema = {
        "properties": {"one": {"$ref": "#/$defs/a/x"}, "two": {"$ref": "#/$defs/b/x"}},
        "required": ["one", "two"],
        "$defs": {"a": {"x": {"type": "null"}}, "b": {"x": {"type": "boolean"}}},
    }
    assert allows(schema, '{"one": null, "two": true}')
    assert not allows(schema, '{"one": null, "two": null}')

"""What grammars of calls are put together from. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from inference_worker.grammar import GrammarInvalid, GrammarRules, literal, located, schema_rule
from inference_worker.grammar.json_text import EVERYTHING, space
from inference_worker.grammar.rules import character_class, forked, without

Tool = dict[str, Any]
"""OpenAI's definition of a function."""


def name_of(tool: Tool) -> str:
    """The function's name."""
    return str(tool["function"]["name"])


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of its arguments, which are an object; {} where it has none. Raises
    GrammarInvalid."""
    parameters = tool["function"].get("parameters")
    return {"type": "object", **located(parameters)} if parameters else {}


def arguments(rules: GrammarRules, tool: Tool) -> str:
    """The rule of its arguments. Raises GrammarInvalid."""
    schema = parameters_of(tool)
    if not schema:
        return rules.define("no-arguments", literal("{}"))
    try:
        return schema_rule(rules, schema)
    except GrammarInvalid as error:
        raise GrammarInvalid(f"the parameters of '{name_of(tool)}': {error}") from None


def member(rules: GrammarRules, name: str, value: str) -> str:
    """A JSON object of one member: its name, and GBNF of its value."""
    gap = space(rules)
    return f'"{{" {gap} {_key(rules, name)} {value} {gap} "}}"'


def _key(rules: GrammarRules, name: str) -> str:
    gap = space(rules)
    return f"{literal(json.dumps(name))} {gap} {literal(':')} {gap}"


def call_object(
    rules: GrammarRules, tools: Sequence[Tool], arguments_name: str = "arguments"
) -> str:
    """The rule of a call of one of these as a JSON object. Raises GrammarInvalid."""
    gap = space(rules)
    ways = {}
    for tool in tools:
        name = json.dumps(name_of(tool), ensure_ascii=False)
        ways[name] = f'{gap} "," {gap} {_key(rules, arguments_name)} {arguments(rules, tool)}'
    named = rules.define("called", forked(rules, ways))
    return rules.define("call", member(rules, "name", named))


def any_of(rules: GrammarRules, hint: str, ways: Sequence[str]) -> str:
    """The rule of one of these."""
    return rules.define(hint, " | ".join(ways))


def listed(rules: GrammarRules, item: str, between: str, most: int) -> str:
    """GBNF of one to ``most`` items."""
    if most == 1:
        return item
    more = rules.define("more", f"{between} {item}")
    return f"{item} {rules.repeated(more, 0, most - 1)}"


def text_until(rules: GrammarRules, tag: str) -> str:
    """The rule of any text with the tag at its end, and nowhere before."""
    if tag in rules.endings:
        return rules.endings[tag]
    states = [rules.reserve("until") for _ in tag]
    rules.endings[tag] = states[0]
    others = without(EVERYTHING, tuple(sorted((ord(one), ord(one)) for one in set(tag))))
    for number, state in enumerate(states):
        ways = [f"{character_class(others)} {states[0]}"]
        for character in sorted(set(tag)):
            reached = _overlap(tag[:number] + character, tag)
            follow = "" if reached == len(tag) else f" {states[reached]}"
            ways.append(literal(character) + follow)
        rules.put(state, " | ".join(ways))
    return states[0]


def _overlap(text: str, tag: str) -> int:
    """How much of the tag the text ends with."""
    return next(size for size in range(len(tag), -1, -1) if text.endswith(tag[:size]))

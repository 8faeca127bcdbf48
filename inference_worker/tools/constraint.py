"""What an answer with tools must satisfy, as a grammar. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_worker.grammar import GrammarRules, checked, literal, schema_rule
from inference_worker.grammar.json_text import space
from inference_worker.tools import generic
from inference_worker.tools.syntaxes import GENERIC, Syntax
from inference_worker.tools.writing import text_until
from replay.request import AnswerFormat, ChatOptions

CALLS_MAX = 16
"""Of one answer: a model that likes calls must not go on with them for ever."""


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """GBNF; with ``triggers`` it holds from where one of these words comes up. With ``begun``, an
    end of the prompt, it is of what goes on from there."""

    text: str
    triggers: tuple[str, ...] = ()
    begun: str = ""


def call_grammar(
    syntax: Syntax, options: ChatOptions, form: AnswerFormat, answer_schema: Any = None
) -> AnswerGrammar:
    """The grammar of calls, and of what else may be answered. Raises GrammarInvalid.

    Where a call must come, the whole answer is constrained, as it is where the answer otherwise has
    a schema or is JSON anyway; else only what begins like a call is.
    """
    rules = GrammarRules()
    root = rules.reserve("root")
    is_parallel = options.parallel_tool_calls
    if is_parallel is None:
        is_parallel = syntax.is_parallel
    ways = [syntax.write(rules, options.tools, CALLS_MAX if is_parallel else 1)]
    if options.tool_choice == "auto":
        if answer_schema is not None:
            ways.append(schema_rule(rules, answer_schema))
        elif syntax is GENERIC:
            ways.append(generic.write_answer(rules))
        else:
            rules.put(root, ways[0])
            return AnswerGrammar(checked(rules.text()), syntax.triggers(options.tools))
    rules.put(root, f"{thought_before(rules, form)} ({' | '.join(ways)})")
    return AnswerGrammar(checked(rules.text()))


def thought_before(rules: GrammarRules, form: AnswerFormat) -> str:
    """GBNF of what may be thought before, or of what tells that nothing is."""
    if not form.thought_end:
        return ""
    gap = space(rules)
    thought = f"{text_until(rules, form.thought_end)} {gap}"
    if form.is_thought_open:
        return thought
    ways = [f"{gap} {literal(form.thought_begin)} {thought}"]
    if form.content_begin:
        ways.append(literal(form.content_begin))
    return f"({' | '.join(ways)})?"

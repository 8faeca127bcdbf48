"""Which grammar an answer must satisfy: the client's, a schema's, or that of calls. Pure."""

from __future__ import annotations

import json
import re

from inference_worker.engine import ModelInfo, PromptInvalid
from inference_worker.grammar import GrammarInvalid, GrammarRules, checked, compiled, schema_rule
from inference_worker.tools import AnswerGrammar, call_grammar, syntax_of, thought_before
from replay.prepare import Chat, Completion
from replay.request import AnswerFormat, Constraint


def grammar_of(model: ModelInfo, asked: Chat | Completion, form: AnswerFormat) -> AnswerGrammar:
    """The grammar; its text is "" where the answer is free. Raises PromptInvalid."""
    constraint = asked.constraint
    grammar = AnswerGrammar("")
    if constraint is not None:
        try:
            grammar = AnswerGrammar(_constrained(constraint, form))
        except GrammarInvalid as error:
            raise PromptInvalid(str(error), constraint.field) from error
    if isinstance(asked, Chat) and asked.options.tools:
        schema = json.loads(constraint.text) if constraint else None
        try:
            syntax = syntax_of(model.template_of(asked.options))
            return call_grammar(syntax, asked.options, form, schema)
        except GrammarInvalid as error:
            raise PromptInvalid(str(error), "tools") from error
    return grammar


def _constrained(constraint: Constraint, form: AnswerFormat) -> str:
    """The client's grammar or schema, behind a thought.

    A grammar may know of thoughts itself, unless the prompt ends inside one.
    """
    grammar = compiled(constraint)
    is_schema = constraint.kind == "json_schema"
    if not form.thought_end or not (is_schema or form.is_thought_open):
        return grammar
    rules = GrammarRules()
    root = rules.reserve("root")
    wanted = "client-root"
    if is_schema:
        wanted = schema_rule(rules, json.loads(constraint.text))
    rules.put(root, f"{thought_before(rules, form)} {wanted}")
    return checked(rules.text() + ("" if is_schema else _renamed(grammar)))


_WORD = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\{[^}]*\}|#[^\n]*|(?P<name>[a-zA-Z0-9-]+)',
    re.DOTALL,
)


def _renamed(grammar: str) -> str:
    """The grammar, its rules named as no others are."""
    return _WORD.sub(lambda word: f"client-{word[0]}" if word["name"] else word[0], grammar)

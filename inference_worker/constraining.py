"""Which grammar an answer must satisfy: the client's, a schema's, or that of calls. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from inference_worker import conversation
from inference_worker.engine import ModelInfo, PromptInvalid
from inference_worker.grammar import (
    GrammarInvalid,
    GrammarRules,
    Remainders,
    checked,
    compiled,
    schema_rule,
)
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
            if isinstance(asked, Chat) and constraint.kind == "json_schema":
                grammar = _gone_on(grammar, asked, form)
        except GrammarInvalid as error:
            raise PromptInvalid(str(error), constraint.field) from error
    if isinstance(asked, Chat) and asked.options.tools:
        schema = json.loads(constraint.text) if constraint else None
        try:
            syntax = syntax_of(model.template_of(asked.options))
            grammar = call_grammar(syntax, asked.options, form, schema)
            return _gone_on(grammar, asked, form, syntax.triggers(asked.options.tools))
        except GrammarInvalid as error:
            raise PromptInvalid(str(error), "tools") from error
    return grammar


def _gone_on(
    grammar: AnswerGrammar, asked: Chat, form: AnswerFormat, words: Sequence[str] = ()
) -> AnswerGrammar:
    """The grammar of the rest, where the client's beginning of the answer ends with one of what the
    grammar allows. Raises GrammarInvalid."""
    *_, last = [{}, *asked.messages]
    if last.get("role") != "assistant" or form.is_thought_open:
        return grammar
    prefill = conversation.text_of(last.get("content"))
    remainders: Remainders | None = None
    for begun in _beginnings(prefill, form, words, is_bound=not grammar.triggers):
        remainders = remainders or Remainders(grammar.text)
        if (rest := remainders.behind(begun)) is not None:
            return AnswerGrammar(checked(rest), begun=begun)
    return grammar


def _beginnings(
    prefill: str, form: AnswerFormat, words: Sequence[str], *, is_bound: bool
) -> Iterator[str]:
    """Its ends, the longest first, that a grammar may go on from: where a call begins, and behind
    a thought where it holds for the whole answer."""
    if is_bound:
        _, _, said = prefill.rpartition(form.thought_end) if form.thought_end else ("", "", prefill)
        if said.strip():
            yield said.lstrip()
    for found in re.finditer("|".join(map(re.escape, words)), prefill) if words else ():
        yield prefill[found.start() :]


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
